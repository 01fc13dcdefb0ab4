"""Several processes that write one store: each its own chunk rows, the first of them the commit record.

A process that has written a chunk row puts a marker beside the chunks. The first one publishes the longest prefix of
chunk rows that have markers, so that readers see whole rows only, whoever is ahead.
"""

from __future__ import annotations

import json

from probekit._data.sampler import ChunkSampler
from probekit._store.backend import Backend
from probekit._store.layout import MARKERS, SAMPLES
from probekit._store.record import dump
from probekit._write.commits import Commit, RecordFile, Start
from probekit.errors import StoreError

__all__ = ["RankCommits", "done_chunks"]


class RankCommits:
    """Commits of one of several processes; `close` ends the work of all, in the first one."""

    offset = 0
    compares = False
    short_rows = False  # only the data set's last chunk row may be short

    def __init__(self, backend: Backend, start: Start, sampler: ChunkSampler) -> None:
        self._backend, self._sampler = backend, sampler
        self._file = RecordFile(backend, start)
        self.committed = dict(start.lengths)
        self._published = int(start.attrs["rows"])

    def begin(self) -> None:
        """Nothing: the first process has laid the store out."""

    def settle(self, commit: Commit) -> None:
        self.committed = dict(commit.lengths)
        chunk_row = (commit.lengths[SAMPLES] - 1) // self._sampler.chunk_rows
        self._backend.commit(f"{MARKERS}/{chunk_row}", dump({"class_names": commit.class_names}))
        if self._sampler.rank == 0:
            self._publish_prefix()

    def finish(self, *, complete: bool) -> None:
        """Nothing: the others may still write."""

    def close(self) -> None:
        """Publish everything as complete, after all processes have ended well.

        Raises:
            StoreError: chunk rows are missing.
        """
        self._publish_prefix()
        if self._published < self._sampler.total:
            raise StoreError(f"{self._backend.url} has only {self._published} of {self._sampler.total} samples.")
        self._file.close(self._file.at({SAMPLES: self._published}, complete=True))
        self._backend.delete(MARKERS)

    def _publish_prefix(self) -> None:
        done = _marked(self._backend)
        names, rows = self._file.class_names, self._published
        while rows < self._sampler.total and (chunk_row := rows // self._sampler.chunk_rows) in done:
            theirs = json.loads(self._backend.read(f"{MARKERS}/{chunk_row}"))["class_names"]
            names = max(names, tuple(theirs), key=len)
            rows = self._sampler.rows(chunk_row).stop
        if rows > self._published:
            self._file.write_names(names)
            self._file.publish({SAMPLES: rows})
            self._published = rows


def done_chunks(backend: Backend, committed: int, sampler: ChunkSampler) -> set[int]:
    """The chunk rows that need no capture: those within the committed samples, and those that have markers."""
    count = -(-sampler.total // sampler.chunk_rows)
    whole = {chunk_row for chunk_row in range(count) if sampler.rows(chunk_row).stop <= committed}
    return whole | _marked(backend)


def _marked(backend: Backend) -> set[int]:
    return set(map(int, backend.names(MARKERS)))
