"""One call of `capture`: what it does about a store that exists, and with whom it writes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from probekit._capture.fingerprint import inputs_checksum, weights_digest
from probekit._capture.plan import BatchTooLarge, CaptureOptions, plan_capture
from probekit._capture.process_group import Group
from probekit._capture.session import Session
from probekit._capture.token_counts import TokenCounts
from probekit._data.batches import Batch, Batches, peek
from probekit._data.sampler import ChunkSampler
from probekit._probe.sharded import is_sharded, runs_in_parts
from probekit._sizes import format_size
from probekit._store.backend import Backend
from probekit._store.integrity import with_checksums
from probekit._store.layout import MARKERS, Json
from probekit._store.leftovers import sweep
from probekit._store.markers import marked
from probekit._store.record import CommitRecord
from probekit._store.store import (
    check_absent,
    check_replaceable,
    class_names,
    read_record,
    require_record,
)
from probekit._write.rank_commits import done_chunks, token_rows
from probekit._write.transfer import Transfer
from probekit._write.unwritten import Unwritten
from probekit._write.writer import Writer
from probekit.errors import DataError, StoreError, check_choice
from probekit.progress import Progress

__all__ = ["CaptureJob", "IfExists"]


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
class CaptureJob:
    """One call of `capture`.

    `origin` says where the model and the data came from. `smaller` gives the data in batches of so many samples, where
    the user didn't say of how many and they can be read again.
    """

    model: nn.Module
    options: CaptureOptions
    batches: Batches
    backend: Backend
    if_exists: IfExists
    transfer: Transfer
    progress: Progress
    origin: Json = field(default_factory=dict)
    smaller: Callable[[int], Batches] | None = None

    def run(self) -> None:
        """Capture what the store lacks, in this process alone or with the others of its group."""
        if self.batches.chunks is not None:
            self._run_with_others(self.batches.chunks)
        elif is_sharded(self.model) and len(set(Group.of_all().by_all(lambda: self.backend.url))) == 1:
            self._run_in_step(Group.of_all())
        else:
            self._run_alone()

    def _run_alone(self) -> None:
        with ExitStack() as stack:
            record = self._existing(stack)
            job = self if record is None else self._as_in(record)
            first, stream = peek(job.batches)
            try:
                session = job._session(first)
            except BatchTooLarge as error:
                job = job._in_smaller_batches(error)
                first, stream = peek(job.batches)
                session = job._session(first)
            writer = job._writer(session, record, stack)
            if writer is not None:
                session.run(job._shown(stream, session.plan.bytes), stack.enter_context(writer), record)

    def _as_in(self, record: CommitRecord) -> CaptureJob:
        """The same with what the store that is added to has, where the user doesn't say."""
        batches, run = self.batches, self.options.run
        if self.smaller is not None:
            batches = self.smaller(record.batch_size)
        if run.predictions == "auto":
            run = replace(run, predictions=record.attributes.get("predictions") == "kept")
        batches.begin_with(class_names(self.backend, record))
        return replace(self, batches=batches, options=replace(self.options, run=run))

    def _in_smaller_batches(self, error: BatchTooLarge) -> CaptureJob:
        """The same in batches that fit in memory."""
        if self.smaller is None or error.fits < 1:
            raise error
        warnings.warn(f"Batches have {error.size} samples, since larger ones don't fit: {error}", stacklevel=5)
        return replace(self, batches=self.smaller(error.size), smaller=None)

    def _run_in_step(self, group: Group) -> None:
        """Run a sharded model on the same samples in all processes; the first one writes the store."""
        with ExitStack() as stack:
            store = _Opened(self, stack)
            names = group.by_first(store.names)
            if names is not None:
                self.batches.begin_with(names)
            first, stream = peek(self.batches)
            self._require_same(group, first)
            session = self._session(first)
            begun = group.by_first(lambda: store.begin(session))
            if begun is None:  # the store is complete
                return
            if store.writer is None:
                session.run(stream, Unwritten(*begun), None)
            else:
                session.run(self._shown(stream, session.plan.bytes), stack.enter_context(store.writer), store.record)
        group.by_first(lambda: None)  # the store is complete when any process returns

    def _require_same(self, group: Group, first: Batch) -> None:
        """Raise DataError where the processes that run a model together have different data."""
        if len(set(group.by_all(lambda: (self.batches.rows, inputs_checksum(first.inputs))))) > 1:
            raise DataError(
                f"{type(self.model).__name__} is sharded over several processes, which run it together, and their data "
                "differ. Give all of them the same data in the same order: the first process then writes what they "
                "give. Where fully_shard alone has sharded it, a DataLoader with a probekit.ChunkSampler lets each "
                "process capture samples of its own."
            )

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
        sharded = is_sharded(self.model)
        group = Group.of(sampler, in_step=sharded)
        if self.if_exists.append:
            raise DataError(
                "append= takes data in order, and no ChunkSampler. Give a loader without one.", arguments=("append",)
            )
        first = next(iter(self.batches), None)
        if sharded and not group.alone:
            self._require_passes(group, first)
        session = None if first is None else self._session(first)
        with ExitStack() as stack:
            if group.by_first(lambda: self._lay_out(session, stack)) == "complete":
                return
            record = read_record(self.backend)
            markers = marked(self.backend, record.capture)
            sampler.done = done_chunks(record, markers, sampler)
            counts = None if session is None else TokenCounts(session.plan.site_plan)
            counted = group.by_all(lambda: self._counted(session, counts, record, sampler))
            of_all = {chunk_row: found for of_one in counted for chunk_row, found in of_one.items()}
            rows = group.by_first(lambda: token_rows(record, markers, sampler, of_all))
            if session is None or counts is None:  # this process has no chunk row of its own
                group.by_all(lambda: None)
                group.by_first(lambda: None)
                return
            writer, commits = session.ranked(record, sampler, rows)
            passes = group.by_all(lambda: len(list(sampler.starts(self.batches.batch_rows))))
            along = max(passes) - passes[group.rank] if sharded else 0
            group.by_all(lambda: self._run_own(session, writer, counts, along))
            group.by_first(commits.close)

    def _require_passes(self, group: Group, first: Batch | None) -> None:
        """Raise where not every process can take part in the forward passes of all."""
        model = type(self.model).__name__
        if runs_in_parts(self.model):
            raise DataError(
                f"Each process computes parts of what the modules of {model} give (parallelize_module), so all have to "
                "run the same samples, and a ChunkSampler gives them different ones. Give a loader without one: the "
                "first process then writes what they give."
            )
        rows = group.by_all(lambda: 0 if first is None else first.rows)
        if len(set(rows)) > 1:
            raise DataError(
                f"The parameters of {model} are sharded over the processes, so each takes part in every forward pass, "
                f"and their first batches have {', '.join(map(str, rows))} samples. Choose the ChunkSampler's "
                "chunk_rows so that each process has a chunk row that begins with a whole batch."
            )

    def _counted(
        self, session: Session | None, counts: TokenCounts | None, record: CommitRecord, sampler: ChunkSampler
    ) -> dict[int, dict[str, int]]:
        """The rows that this process's chunk rows will have at token sites, by the paths of their activations."""
        if session is None or counts is None:
            return {}
        paths = session.token_paths(record)
        if counts.masked:
            counts.read(self._shown(self.batches, does="count the tokens of"))
        return {
            chunk_row: {
                paths[site]: rows
                for site, rows in counts.of_samples(sampler.rows(chunk_row), record.batch_size).items()
            }
            for chunk_row in sampler.chunks
        }

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
        self.backend.make_room([MARKERS, *session.fragment_folders])
        return "to be written"

    def _run_own(self, session: Session, writer: Writer, counts: TokenCounts, along: int) -> None:
        with writer:
            session.run(self._shown(iter(self.batches)), writer, None, counts)
            session.run_along(along)

    def _session(self, first: Batch) -> Session:
        free = self.backend.free()
        if free is not None and self.if_exists.overwrite:
            free += self.backend.used("")
        plan = plan_capture(self.model, self.batches, first, self.options, free)
        weights = weights_digest(self.model) if is_sharded(self.model) else None  # for which all processes have to ask
        return Session(
            self.model, self.options, self.batches, first, plan, self.backend, self.transfer, self.origin, weights
        )

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

    def _shown(self, stream: Iterable[Batch], size: int | None = None, does: str = "capture") -> Iterable[Batch]:
        """The stream, with the progress that it makes in what will be so many bytes."""
        named = f"{does} {self.backend.url.rpartition('/')[2]}"
        return self.progress(stream, named if size is None else f"{named} ({format_size(size)})", self.batches.count)


class _Opened:
    """The store that the first of several processes writes, and in the others nothing.

    Attributes:
        record: that of the store before, if there was one.
        writer: of the store, unless it is complete.
    """

    def __init__(self, job: CaptureJob, stack: ExitStack) -> None:
        self._job, self._stack = job, stack
        self.record: CommitRecord | None = None
        self.writer: Writer | None = None

    def names(self) -> tuple[str, ...] | None:
        """The names of the classes of a store that is added to; None for a new store."""
        self.record = self._job._existing(self._stack)
        return None if self.record is None else class_names(self._job.backend, self.record)

    def begin(self, session: Session) -> tuple[int, int] | None:
        """How many samples are there already, and the number of the data's first sample; None if all are there."""
        self.writer = self._job._writer(session, self.record, self._stack)
        return None if self.writer is None else (self.writer.committed, self.writer.commits.offset)
