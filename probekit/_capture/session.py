"""A capture as it runs: a model and its data, and the store that they go into."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import torch
from torch import nn

from probekit._capture.comparison import Columns
from probekit._capture.fingerprint import check_same, inputs_checksum, weights_digest
from probekit._capture.plan import CaptureOptions, CapturePlan, plan_capture
from probekit._capture.process_group import Group
from probekit._data.batches import Batch, Batches, peek
from probekit._data.columns import Array
from probekit._data.sampler import ChunkSampler
from probekit._forward.forward_pass import ForwardPass
from probekit._forward.outputs import PREDICTION, predictions
from probekit._forward.recorder import Recorder, Sink
from probekit._probe.hooks import probing
from probekit._probe.model_run import running
from probekit._probe.pooling import Reduced
from probekit._probe.selectors import rules
from probekit._store.backend import Backend
from probekit._store.integrity import with_checksums
from probekit._store.layout import INPUTS, MARKERS, SAMPLES, Json, Layout
from probekit._store.leftovers import sweep
from probekit._store.markers import marked
from probekit._store.record import CommitRecord, nodes_of
from probekit._store.store import (
    check_absent,
    check_replaceable,
    class_names,
    create,
    lay_out,
    read_record,
    require_record,
)
from probekit._version import __version__
from probekit._write.commits import PrefixCommits, Start
from probekit._write.rank_commits import RankCommits, done_chunks
from probekit._write.site_commits import SiteCommits
from probekit._write.transfer import Transfer
from probekit._write.writer import Writer
from probekit.errors import DataError, ModelError, StoreError, check_choice
from probekit.progress import Progress

__all__ = ["CaptureJob", "IfExists"]

_KEPT = ("created", "capture", "probekit_format")  # attributes that a store keeps from its beginning


@dataclass(frozen=True)
class IfExists:
    """What is done about a store that exists already.

    Raises:
        DataError: the options contradict each other.
    """

    resume: bool
    append: Literal["samples", "sites"] | None
    overwrite: bool

    def __post_init__(self) -> None:
        if self.append is not None:
            check_choice("append", self.append, ("samples", "sites"))
        if self.overwrite and (self.resume or self.append):
            raise DataError(
                "overwrite=True replaces the store that resume or append would add to. Give one of them.",
                arguments=("overwrite", "resume", "append"),
            )
        if self.resume and self.append:
            raise DataError(
                "resume=True also completes what append added, given the same data. Give one of them.",
                arguments=("resume", "append"),
            )

    def check(self, backend: Backend) -> None:
        """Raise StoreError where a store is in the way, or one to append to is missing."""
        if self.append:
            require_record(backend)
        elif self.overwrite:
            check_replaceable(backend)
        elif not self.resume:
            check_absent(backend)


@dataclass(frozen=True)
class Session:
    """A model, what is kept of it, and its data, of which `first` is the first batch.

    `new`, `resumed`, `longer` (appended samples), `wider` (appended sites) and `ranked` (one of several processes) give
    the writer of a store; `run` fills it.
    """

    model: nn.Module
    options: CaptureOptions
    batches: Batches
    first: Batch
    plan: CapturePlan
    backend: Backend
    transfer: Transfer

    def new(self, *, replace: bool) -> Writer:
        """The writer of a store that isn't there yet, or is to `replace` the one that is."""
        self.plan.require_room(self.backend)
        layout, attrs = self.plan.layout(self._dtypes), {**self._attrs(0), "capture": uuid4().hex}
        nodes = create(self.backend, layout, attrs, self.batches.rows or 0, replace=replace)
        start = Start(layout, nodes, attrs, dict.fromkeys(layout.arrays, 0))
        return Writer(self.backend, start, PrefixCommits(self.backend, start), self.transfer)

    def resumed(self, record: CommitRecord) -> Writer | None:
        """The writer that resumes a store that isn't complete; None where it is.

        Raises:
            StoreError: the store was captured with different settings.
        """
        layout, attrs = self._laid_out(record), self._attrs(record.start)
        nodes = nodes_of(layout, attrs.get("expected_rows", 0))
        check_same(self.backend.url, record, attrs, nodes)
        if record.complete:
            return None
        names = class_names(self.backend, record)
        if not record.rows and not marked(self.backend, record.capture):
            lay_out(self.backend, nodes)  # which may have been stopped in the middle
            names = ()
        return self._prefix_writer(record, layout, nodes, attrs, names)

    def longer(self, record: CommitRecord) -> Writer:
        """The writer that puts the samples after those of a complete store.

        Raises:
            StoreError: the store isn't complete, or was captured with different settings.
        """
        self._require_complete(record)
        layout, attrs = self._laid_out(record), self._attrs(record.rows)
        if self.batches.rows == self.first.rows < record.batch_size:  # all of the data are less than a batch
            attrs["batch_size"] = record.batch_size
        nodes = nodes_of(layout, attrs.get("expected_rows", 0))
        check_same(self.backend.url, record, attrs, nodes, ignore=("inputs", "expected_rows"))
        return self._prefix_writer(record, layout, nodes, attrs, class_names(self.backend, record))

    def wider(self, record: CommitRecord) -> Writer:
        """The writer that adds sites to a complete store, of the same samples.

        Raises:
            StoreError: the store isn't complete, was captured with different settings, or has one of the sites.
        """
        self._require_complete(record)
        layout = replace(self._laid_out(record), new_columns=False)
        nodes = nodes_of(layout, 0)  # until they are whole, other readers find nothing in them
        there = [site for site, group in layout.groups.items() if group in record.nodes]
        if there:
            raise StoreError(
                f"{self.backend.url} has {', '.join(map(repr, there))} already. Select other sites (sites=).",
                arguments=("sites",),
            )
        ours = self._attrs(0)
        ignore = ("inputs",) if record.start else ()  # where samples were appended, those of the last data are known
        check_same(self.backend.url, record, ours, None, ignore=ignore)
        self.plan.require_room(self.backend)
        attrs = {**record.attributes, "sites": [*record.attributes["sites"], *ours["sites"]]}
        names = class_names(self.backend, record)
        start = Start(layout, nodes, attrs, dict.fromkeys(layout.arrays, 0), names)
        return Writer(self.backend, start, SiteCommits(self.backend, start, record), self.transfer)

    def require_alike(self) -> None:
        """Raise DataError where several processes would give the classes different codes."""
        if self.batches.names_grow:
            raise DataError(
                "The labels are strings, which each process would number in its own order. Give class_names=, all of "
                "them in order.",
                arguments=("class_names",),
            )

    def require_no_state(self) -> None:
        """Raise ModelError where what a batch gives depends on the batches before it, which others may run."""
        state = self.plan.site_plan.state
        if state:
            raise ModelError(
                f"Each forward pass of {self.plan.site_plan.model} changes {', '.join(state[:3])}, so what a batch "
                "gives depends on the batches before it. Capture it in one process, without a ChunkSampler; or give "
                "reset=, a callable that takes the model and clears its state before each pass.",
                arguments=("reset",),
            )

    def ranked(self, record: CommitRecord, sampler: ChunkSampler) -> tuple[Writer, RankCommits]:
        """The writer of this process's chunk rows, and what commits them."""
        layout = self._laid_out(record)
        nodes, names = nodes_of(layout, sampler.total), class_names(self.backend, record)
        start = Start(layout, nodes, record.attributes, {SAMPLES: 0}, names, record.checksums)
        commits = RankCommits(self.backend, start, sampler)
        return Writer(self.backend, start, commits, self.transfer), commits

    def _laid_out(self, record: CommitRecord) -> Layout:
        """The arrays, in chunks as long as those that are there."""
        plan = replace(self.plan, rows_per_chunk=record.rows_per_chunk, tokens_per_chunk=record.tokens_per_chunk)
        return plan.layout(self._dtypes).as_in(record.nodes)

    def _prefix_writer(
        self, record: CommitRecord, layout: Layout, nodes: dict[str, Json], attrs: Json, names: tuple[str, ...]
    ) -> Writer:
        kept = {key: record.attributes[key] for key in _KEPT if key in record.attributes}
        attrs = {**attrs, **kept}
        there = {path: node for path, node in record.nodes.items() if node["node_type"] == "group"}
        nodes = {**nodes, **there}  # which an earlier version may have written with fewer attributes
        start = Start(layout, nodes, attrs, record.lengths(layout), names, record.checksums)
        return Writer(self.backend, start, PrefixCommits(self.backend, start), self.transfer)

    def _require_complete(self, record: CommitRecord) -> None:
        if not record.complete:
            raise StoreError(
                f"{self.backend.url} isn't complete, so nothing can be added to it. Complete it first: the same "
                "capture with resume=True.",
                arguments=("resume",),
            )

    def run(self, stream: Iterable[Batch], writer: Writer, record: CommitRecord | None) -> None:
        """Run the model on every batch that isn't in the store yet, and compare the others' columns with it.

        `record` is that of the store before, if there was one.
        """
        done, offset = writer.committed, writer.commits.offset
        compared = record if writer.commits.compares else None
        seen = None if compared is None else Columns(self.backend, compared, self._unknown)
        end = offset
        sites = self.plan.site_plan
        recorder = self._recorder(_into(writer))
        forward = self._passes(recorder)
        with running(self.model, self.options.run.mode), probing(self.model, sites.names, recorder) as probe:
            for number, batch in enumerate(stream):
                if offset:
                    batch = replace(batch, start=offset + batch.start)
                columns, inputs, end = _columns(batch), inputs_checksum(batch.inputs), batch.start + batch.rows
                if seen is not None:
                    seen.check(columns, inputs, batch.start)
                if end <= done and batch.rows:
                    if sites.state:  # which the batches after this one depend on
                        recorder.ignore()
                        forward.run(batch, probe)
                    continue
                recorder.begin(batch, number)
                writer.begin(batch.rows, at=batch.start)
                output = forward.run(batch, probe)
                found = self._found(output, batch)
                recorder.end()
                given = {INPUTS: np.full(batch.rows, inputs)}
                writer.end(columns | found | given, self.batches.class_names or ())
        if seen is not None:
            if end < seen.rows:
                raise DataError(
                    f"The data hold {end - offset} samples, and {self.backend.url} already has {seen.rows - offset} of "
                    "them."
                )
            seen.warn()
        recorder.warn_of_lost_values()

    def _recorder(self, sink: Sink) -> Recorder:
        return Recorder(self.plan.site_plan, sink, stop_early=self.options.run.stop_early)

    def _passes(self, recorder: Recorder) -> ForwardPass:
        """How the model runs on each batch, for what it does to be recorded."""
        return self._forward

    @property
    def _unknown(self) -> dict[str, np.dtype[Any]]:
        """The columns that are known only when the model has run."""
        return {PREDICTION: np.dtype(np.int64)} if self.options.run.predictions else {}

    def _found(self, output: Any, batch: Batch) -> dict[str, Array]:
        """These columns of a batch, from what the model's run on it gave."""
        return {name: predictions(output, batch.rows) for name in self._unknown}

    @property
    def _forward(self) -> ForwardPass:
        sites = self.plan.site_plan
        return ForwardPass(self.model, self.options.run, sites.gradients, sites.writes_inputs)

    @property
    def _dtypes(self) -> dict[str, np.dtype[Any]]:
        known = {name: values.dtype for name, values in _columns(self.first).items()}
        return known | self._unknown

    def _attrs(self, start: int) -> Json:
        """How the store is made: what `probekit info` shows, and what a later capture into it has to agree with.

        `start` is the number of the data's first sample in the store.
        """
        attrs = {
            "probekit_version": __version__,
            "torch_version": str(torch.__version__),
            "model": f"{type(self.model).__module__}.{type(self.model).__qualname__}",
            "weights": weights_digest(self.model),
            "inputs": f"{inputs_checksum(self.first.inputs):08x}",
            "sites": [str(rule) for rule in rules(self.options.sites.sites)],
            "dtype": self.options.sites.dtype or "as given",
            "mode": self.options.run.mode,
            "predictions": "kept" if self.options.run.predictions else "not kept",
            "batch_size": self.first.rows,
            "start": start,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if self.batches.rows is not None:
            attrs["expected_rows"] = start + self.batches.rows
        if self._forward.gradients:
            attrs["loss"] = self._forward.loss_name
        return attrs


@dataclass(frozen=True)
class CaptureJob:
    """One call of `capture`."""

    model: nn.Module
    options: CaptureOptions
    batches: Batches
    backend: Backend
    if_exists: IfExists
    transfer: Transfer
    progress: Progress

    def run(self) -> None:
        """Capture what the store lacks, in this process alone or with the others of its group."""
        if self.batches.chunks is None:
            self._run_alone()
        else:
            self._run_with_others(self.batches.chunks)

    def _run_alone(self) -> None:
        with ExitStack() as stack:
            record = self._existing(stack)
            if record is not None:
                self.batches.begin_with(class_names(self.backend, record))
            first, stream = peek(self.batches)
            session = self._session(first)
            writer = self._writer(session, record, stack)
            if writer is not None:
                session.run(self._shown(stream), stack.enter_context(writer), record)

    def _existing(self, stack: ExitStack) -> CommitRecord | None:
        """The record of the store that is added to, which is locked before it is read; None for a new store."""
        adds = self.if_exists.resume or self.if_exists.append
        if not adds or not self.backend.exists():
            return None
        require_record(self.backend)  # before a lock is put where there is no store
        stack.enter_context(self.backend.lock())
        record = with_checksums(self.backend, read_record(self.backend))
        sweep(self.backend, record)
        return record

    def _run_with_others(self, sampler: ChunkSampler) -> None:
        """Capture this process's chunk rows of a store that several may write."""
        group = Group(sampler)
        if self.if_exists.append:
            raise DataError(
                "append= takes data in order, and no ChunkSampler. Give a loader without one.", arguments=("append",)
            )
        first = next(iter(self.batches), None)
        session = None if first is None else self._session(first)
        with ExitStack() as stack:
            if group.by_first(lambda: self._lay_out(session, stack)) == "complete":
                return
            record = read_record(self.backend)
            sampler.done = done_chunks(self.backend, record, sampler)
            if session is None:  # this process has no chunk row of its own
                group.by_all(lambda: None)
                group.by_first(lambda: None)
                return
            writer, commits = session.ranked(record, sampler)
            group.by_all(lambda: self._run_own(session, writer))
            group.by_first(commits.close)

    def _lay_out(self, session: Session | None, stack: ExitStack) -> str:
        """In the first process, which always has a chunk row: have a store to write into, and lock it."""
        if session is None:
            raise DataError("The data hold no samples.")
        session.require_alike()
        session.require_no_state()
        record = self._existing(stack)
        writer = self._writer(session, record, stack)
        if writer is None:
            return "complete"
        rows = session.plan.rows_per_chunk
        theirs = rows if record is None else record.rows_per_chunk
        if rows != theirs:
            raise StoreError(f"{self.backend.url} has chunk rows of {theirs} samples, and the ChunkSampler has {rows}.")
        self.backend.make_room([MARKERS])
        return "to be written"

    def _run_own(self, session: Session, writer: Writer) -> None:
        with writer:
            session.run(self._shown(iter(self.batches)), writer, None)

    def _session(self, first: Batch) -> Session:
        free = self.backend.free()
        if free is not None and self.if_exists.overwrite:
            free += self.backend.used("")
        plan = plan_capture(self.model, self.batches, first, self.options, free)
        return Session(self.model, self.options, self.batches, first, plan, self.backend, self.transfer)

    def _writer(self, session: Session, record: CommitRecord | None, stack: ExitStack) -> Writer | None:
        """The writer of a store that is locked until the `stack` ends; None where there is nothing to write."""
        if self.if_exists.overwrite and self.backend.exists():
            stack.enter_context(self.backend.lock())
            return session.new(replace=True)
        if record is None:
            writer = session.new(replace=False)
            stack.enter_context(self.backend.lock())
            return writer
        if self.if_exists.resume:
            return session.resumed(record)
        return session.longer(record) if self.if_exists.append == "samples" else session.wider(record)

    def _shown(self, stream: Iterable[Batch]) -> Iterable[Batch]:
        return self.progress(stream, f"capture {self.backend.url.rpartition('/')[2]}", self.batches.count)


def _columns(batch: Batch) -> dict[str, Array]:
    """The columns of a batch; samples that carry no id are numbered."""
    return {"sample_id": np.arange(batch.start, batch.start + batch.rows)} | batch.columns


def _into(writer: Writer) -> Sink:
    """A sink that gives a writer what is recorded."""

    def give(name: str, reduced: Reduced) -> None:
        if reduced.sample is None or reduced.positions is None:
            writer.put(name, reduced.tensor)
            if reduced.real is not None:
                writer.put_mask(name, reduced.real.given.numpy())
        else:
            writer.append(name, reduced.tensor, reduced.sample.numpy(), reduced.positions.numpy())

    return give
