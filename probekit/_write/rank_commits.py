"""Several processes that write one store: each its own chunk rows, the first of them the commit record.

A process that has written a chunk row puts a marker beside the chunks. The first one publishes the longest prefix of
chunk rows that have markers, so that readers see whole rows only, whoever is ahead.
"""

from __future__ import annotations

from probekit._data.sampler import ChunkSampler
from probekit._store.backend import Backend
from probekit._store.layout import MARKERS, SAMPLES
from probekit._store.markers import Marker, marked
from probekit._store.record import Checksums, CommitRecord
from probekit._write.commits import Commit, RecordFile, Start, first_samples
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
        self._capture = start.attrs.get("capture")
        self._published = int(start.attrs["rows"])
        self._written: Checksums = {}

    @property
    def kept(self) -> str:
        return first_samples(self._published)

    def begin(self) -> None:
        """Nothing: the first process has laid the store out."""

    def wrote(self, chunk_row: int, checksums: Checksums) -> None:
        self._written = checksums

    def settle(self, commit: Commit) -> None:
        self.committed = dict(commit.lengths)
        chunk_row = (commit.lengths[SAMPLES] - 1) // self._sampler.chunk_rows
        Marker(commit.class_names, self._written).write(self._backend, self._capture, chunk_row)
        if self._sampler.rank == 0:
            self._publish_prefix()

    def finish(self, *, complete: bool) -> None:
        """Nothing: the others may still write."""

    def give_up(self) -> None:
        """Nothing: chunk rows without markers are written again."""

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
        names, rows = self._file.class_names, self._published
        while rows < self._sampler.total:
            chunk_row = rows // self._sampler.chunk_rows
            marker = Marker.read(self._backend, self._capture, chunk_row)
            if marker is None:
                break
            self._file.wrote(chunk_row, marker.checksums)
            names = max(names, marker.class_names, key=len)
            rows = self._sampler.rows(chunk_row).stop
        if rows > self._published:
            self._file.write_names(names)
            self._file.publish({SAMPLES: rows})
            self._published = rows


def done_chunks(backend: Backend, record: CommitRecord, sampler: ChunkSampler) -> set[int]:
    """The chunk rows that need no capture: those within the committed samples, and those that have markers."""
    count = -(-sampler.total // sampler.chunk_rows)
    whole = {chunk_row for chunk_row in range(count) if sampler.rows(chunk_row).stop <= record.rows}
    return whole | marked(backend, record.capture)
