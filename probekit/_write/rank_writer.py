"""Several processes that write one store: each its own chunk-rows, the first of them the commit record.

A process that has written a chunk-row puts a marker beside the tiles. The first one publishes the longest prefix of
chunk-rows that have markers, so that readers see whole rows only, whoever is ahead.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from probekit._data.sampler import ChunkSampler
from probekit._store.backend import Place
from probekit._store.layout import MARKERS, SAMPLES, Layout
from probekit._store.record import dump
from probekit._write.chunk_buffers import Buffers
from probekit._write.writer import Commit, Start, Writer
from probekit.errors import ProbekitError, StoreError

__all__ = ["Group", "RankWriter", "done_chunks"]

T = TypeVar("T")


class Group:
    """The processes that capture together."""

    def __init__(self, sampler: ChunkSampler) -> None:
        self.rank, self._alone = sampler.rank, sampler.world == 1
        if self._alone:
            return
        if not dist.is_initialized() or (dist.get_rank(), dist.get_world_size()) != (sampler.rank, sampler.world):
            found = "torch.distributed says otherwise" if dist.is_initialized() else "there is no process group"
            raise StoreError(
                f"The loader's ChunkSampler is that of process {sampler.rank} of {sampler.world}, and {found}. Start "
                'with torchrun, and call torch.distributed.init_process_group("gloo") first.'
            )

    def by_first(self, work: Callable[[], T]) -> T:
        """What `work` returns in the first process, in all of them; what it raises, they raise too."""
        if self._alone:
            return work()
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = work()
            except ProbekitError as error:
                box[1] = error
        dist.broadcast_object_list(box)
        if box[1] is not None:
            raise box[1]
        return box[0]  # type: ignore[no-any-return]

    def by_all(self, work: Callable[[], None]) -> None:
        """Have each process do its `work`, and wait for all.

        Raises:
            StoreError: another process failed; what this one's work raises, it raises itself.
        """
        if self._alone:
            work()
            return
        failure: Exception | None = None
        try:
            work()
        except Exception as error:
            failure = error
        texts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(texts, None if failure is None else f"{type(failure).__name__}: {failure}")
        if failure is not None:
            raise failure
        for rank, text in enumerate(texts):
            if text is not None:
                raise StoreError(
                    f"Process {rank} failed: {text} The chunk-rows that are finished stay; start all again with "
                    "resume=True (--resume), also with another number of processes."
                )


def done_chunks(place: Place, committed: int, sampler: ChunkSampler) -> set[int]:
    """The chunk-rows that need no capture: those within the committed samples, and those that have markers."""
    whole = {chunk for chunk in range(-(-sampler.total // sampler.chunk_rows)) if sampler.rows(chunk).stop <= committed}
    return whole | set(map(int, place.names(MARKERS)))


class RankWriter(Writer):
    """The writer of one of several processes; `close` ends the work of all, in the first one."""

    offset = 0
    compares = False

    def __init__(self, place: Place, layout: Layout, start: Start, buffers: Buffers, sampler: ChunkSampler) -> None:
        super().__init__(place, layout, start, buffers)
        self._sampler = sampler
        self._published = int(start.attrs["rows"])

    def _hand_over_rest(self, *, complete: bool) -> None:
        if complete:  # then what is left is the data set's last chunk-row, which may be short
            super()._hand_over_rest(complete=True)

    def _settle(self, commit: Commit) -> None:
        self._committed = dict(commit.lengths)
        chunk = (commit.lengths[SAMPLES] - 1) // self._sampler.chunk_rows
        self.place.commit(f"{MARKERS}/{chunk}", dump({"class_names": commit.class_names}))
        if self._sampler.rank == 0:
            self._publish_prefix()

    def _publish_prefix(self) -> None:
        done = set(map(int, self.place.names(MARKERS)))
        names, rows = self._written_names, self._published
        while rows < self._sampler.total and (chunk := rows // self._sampler.chunk_rows) in done:
            theirs = json.loads(self.place.read(f"{MARKERS}/{chunk}"))["class_names"]
            names = max(names, tuple(theirs), key=len)
            rows = self._sampler.rows(chunk).stop
        if rows > self._published:
            self._write_names(names)
            self._publish({SAMPLES: rows})
            self._published = rows

    def _finish(self, *, complete: bool) -> None:
        """Nothing: the others may still write."""

    def close(self) -> None:
        """Publish everything as complete, after all processes have ended well."""
        self._publish_prefix()
        if self._published < self._sampler.total:
            raise StoreError(f"{self.place.url} has only {self._published} of {self._sampler.total} samples.")
        self._committed = {SAMPLES: self._published}
        super()._finish(complete=True)
