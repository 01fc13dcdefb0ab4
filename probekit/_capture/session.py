"""A capture as it runs: a model and its data, and the store that they go into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import nn

from probekit._capture.comparison import Columns
from probekit._capture.fingerprint import check_same, inputs_checksum, weights_digest
from probekit._capture.plan import CaptureOptions, CapturePlan
from probekit._capture.token_counts import TokenCounts
from probekit._data.batches import Batch, Batches
from probekit._data.columns import Array
from probekit._data.sampler import ChunkSampler
from probekit._forward.forward_pass import ForwardPass
from probekit._forward.outputs import PREDICTION, predictions
from probekit._forward.recorder import Recorder, Sink
from probekit._forward.sample_order import SampleOrder
from probekit._probe.hooks import probing
from probekit._probe.model_run import device_of, running
from probekit._probe.pooling import Reduced
from probekit._probe.selectors import rules
from probekit._store.backend import Backend
from probekit._store.layout import INPUTS, Json, Layout
from probekit._store.markers import marked
from probekit._store.record import CommitRecord, nodes_of
from probekit._store.store import (
    class_names,
    create,
    lay_out,
)
from probekit._tokens import Tokens
from probekit._version import __version__
from probekit._write.commits import PrefixCommits, Start
from probekit._write.rank_commits import RankCommits, TokenRows, fragment_folders
from probekit._write.site_commits import SiteCommits
from probekit._write.transfer import Transfer
from probekit._write.unwritten import Unwritten
from probekit._write.writer import Writer
from probekit.errors import DataError, ModelError, StoreError

__all__ = ["Session"]

_KEPT = ("created", "capture", "probekit_format")  # attributes that a store keeps from its beginning


@dataclass(frozen=True)
class Session:
    """A model, what is kept of it, and its data, of which `first` is the first batch.

    `weights` is the digest of the model's weights, where that is known already.

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
    origin: Json
    weights: str | None = None

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
        attrs["command"] = record.attributes.get("command", attrs.get("command"))
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
        for key in ("data", "command"):  # both of what was there and of what is added
            if key in record.attributes and key in attrs:
                attrs[key] = f"{record.attributes[key]}; from sample {record.rows} on: {attrs[key]}"
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

    def ranked(self, record: CommitRecord, sampler: ChunkSampler, rows: TokenRows) -> tuple[Writer, RankCommits]:
        """The writer of this process's chunk rows, whose tokens go to these `rows`, and what commits them."""
        layout = self._laid_out(record)
        nodes, names = nodes_of(layout, sampler.total), class_names(self.backend, record)
        lengths, nothing = record.lengths(layout), dict.fromkeys(layout.arrays, 0)
        start = Start(layout, nodes, record.attributes, lengths, names, record.checksums)
        commits = RankCommits(self.backend, start, sampler, rows)
        # The writer has nothing to read back: it begins with chunk rows of its own.
        return Writer(self.backend, replace(start, lengths=nothing), commits, self.transfer), commits

    @property
    def fragment_folders(self) -> list[str]:
        return fragment_folders(self.plan.layout(self._dtypes))

    def token_paths(self, record: CommitRecord) -> dict[str, str]:
        """The paths of the activations of the token sites, by the sites' names."""
        layout = self._laid_out(record)
        return {site.name: layout.activation(site).path for site in layout.sites if site.tokens}

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

    def run(
        self,
        stream: Iterable[Batch],
        writer: Writer | Unwritten,
        record: CommitRecord | None,
        counts: TokenCounts | None = None,
    ) -> None:
        """Run the model on every batch that isn't in the store yet, and compare the others' columns with it.

        `record` is that of the store before, if there was one; `counts` are those of the tokens, where they are known.
        """
        done, offset = writer.committed, writer.commits.offset
        compared = record if writer.commits.compares else None
        seen = None if compared is None else Columns(self.backend, compared, self._unknown)
        end = offset
        sites = self.plan.site_plan
        order = SampleOrder(_into(writer, counts), by_length=sites.by_length)
        recorder = self._recorder(order.add)
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
                if counts is not None:
                    counts.begin(batch)
                writer.begin(batch.rows, at=batch.start)
                found, output = [], None
                for each in order.passes(batch):
                    recorder.begin(each, number)
                    output = forward.run(each, probe)
                    found.append(self._found(output, each))
                    recorder.end()
                columns |= order.columns(found) | {INPUTS: np.full(batch.rows, inputs)}
                writer.end(columns, self.batches.class_names or (), self._tokens(output, batch))
        if seen is not None:
            if end < seen.rows:
                raise DataError(
                    f"The data hold {end - offset} samples, and {self.backend.url} already has {seen.rows - offset} of "
                    "them."
                )
            seen.warn()
        recorder.warn_of_lost_values()

    def run_along(self, passes: int) -> None:
        """Run the model so many times for the other processes, which gather its parameters in each pass."""
        sites = self.plan.site_plan
        recorder, forward = Recorder(sites, lambda name, reduced: None), self._forward  # which nothing begins
        with running(self.model, self.options.run.mode), probing(self.model, sites.names, recorder) as probe:
            for _ in range(passes):
                forward.run(self.first, probe)

    def _recorder(self, sink: Sink) -> Recorder:
        return Recorder(self.plan.site_plan, sink, stop_early=self.options.run.stop_early)

    def _passes(self, recorder: Recorder) -> ForwardPass:
        """How the model runs on each batch, for what it does to be recorded."""
        return self._forward

    @property
    def _unknown(self) -> dict[str, np.dtype[Any]]:
        """The columns that are known only when the model has run."""
        return {PREDICTION: np.dtype(np.int64)} if self.plan.site_plan.predictions else {}

    def _found(self, output: Any, batch: Batch) -> dict[str, Array]:
        """These columns of a batch, from what the model's run on it gave."""
        return {name: predictions(output, batch.rows) for name in self._unknown}

    def _tokens(self, output: Any, batch: Batch) -> Tokens | None:
        """What is known of the tokens of a batch."""
        return batch.tokens

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
            **self.origin,
            "probekit_version": __version__,
            "torch_version": str(torch.__version__),
            "model": f"{type(self.model).__module__}.{type(self.model).__qualname__}",
            "weights": self.weights or weights_digest(self.model),
            "inputs": f"{inputs_checksum(self.first.inputs):08x}",
            "sites": [str(rule) for rule in rules(self.options.sites.sites)],
            "dtype": self.options.sites.dtype or "as given",
            "mode": self.options.run.mode,
            "predictions": "kept" if self.plan.site_plan.predictions else "not kept",
            "batch_size": self.first.rows,
            "start": start,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if self.batches.rows is not None:
            attrs["expected_rows"] = start + self.batches.rows
        if (device_of(self.model) or torch.device("cpu")).type == "cpu":
            attrs["threads"] = torch.get_num_threads()
        if self.plan.site_plan.by_length:
            attrs["passes"] = "texts of like length together"
        if self._forward.gradients:
            attrs["loss"] = self._forward.loss_name
        return attrs


def _columns(batch: Batch) -> dict[str, Array]:
    """The columns of a batch; samples that carry no id are numbered."""
    return {"sample_id": np.arange(batch.start, batch.start + batch.rows)} | batch.columns


def _into(writer: Writer | Unwritten, counts: TokenCounts | None) -> Sink:
    """A sink that gives a writer what is recorded."""

    def give(name: str, reduced: Reduced) -> None:
        if reduced.sample is None or reduced.positions is None:
            writer.put(name, reduced.tensor)
            if reduced.real is not None:
                writer.put_mask(name, reduced.real.given.numpy())
        else:
            if counts is not None:
                counts.check(name, len(reduced.sample))
            writer.append(name, reduced.tensor, reduced.sample.numpy(), reduced.positions.numpy())

    return give
