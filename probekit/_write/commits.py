"""Committing chunk rows that have been written: when readers see them, and what remains at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from probekit._store.backend import Backend
from probekit._store.codec import checksum_of, vouched
from probekit._store.layout import CLASS_NAME, MARKERS, RECORD, SAMPLES, ArraySpec, Json, Layout
from probekit._store.record import Checksums, CommitRecord, class_name_chunks, dump

__all__ = ["Commit", "Commits", "PrefixCommits", "RecordFile", "Start", "first_samples"]


@dataclass(frozen=True)
class Start:
    """Where writing begins.

    Attributes:
        layout: the store's arrays.
        nodes: the metadata of all of the store's nodes but the root, by their paths.
        attrs: attributes of the root group, JSON values.
        lengths: the committed length of each row dimension; rows in chunks that aren't full are read back.
        class_names: of the classes named so far.
        checksums: of the chunks that are there.
    """

    layout: Layout
    nodes: Mapping[str, Json]
    attrs: Json
    lengths: Mapping[str, int]
    class_names: tuple[str, ...] = ()
    checksums: Checksums = field(default_factory=dict)


@dataclass(frozen=True)
class Commit:
    """The lengths that are true when everything before has been written, and the names of the classes."""

    lengths: dict[str, int]
    class_names: tuple[str, ...]


class Commits(Protocol):
    """How a writer commits.

    Attributes:
        committed: the lengths that are there to stay.
        offset: the number in the store of the data's first sample.
        short_rows: whether a chunk row that isn't full is committed when writing stops early.
    """

    committed: dict[str, int]
    offset: int
    short_rows: bool

    @property
    def compares(self) -> bool:
        """Whether samples of the data are in the store already."""

    @property
    def kept(self) -> str:
        """What is there to stay where writing fails, as a sentence for users."""

    def begin(self) -> None:
        """Before the first chunk is written."""

    def token_rows(self, chunk_row: int) -> Mapping[str, range]:
        """Where the tokens of a chunk row's samples go, by row dimension; none where they follow those before."""

    def key(self, spec: ArraySpec, number: int, across: int, rows: range) -> str:
        """Where a chunk is written, by its number along rows and nodes, that has these `rows` of the array."""

    def wrote(self, chunk_row: int, checksums: Checksums) -> None:
        """When a chunk row of some arrays has been written, whose chunks have these checksums."""

    def settle(self, commit: Commit) -> None:
        """When everything before the commit has been written."""

    def finish(self, *, complete: bool) -> None:
        """After the last chunk; `complete` says whether all samples are there."""

    def give_up(self) -> None:
        """After writing has failed: leave nothing that doesn't count."""


def first_samples(count: int) -> str:
    """What is kept of a store that gets longer."""
    return f"Its first {count} samples are committed and can be read; resume=True resumes from there."


class RecordFile:
    """The commit record of a store that is being written, and the class names beside it, as far as they are written."""

    def __init__(self, backend: Backend, start: Start) -> None:
        self._backend, self._start = backend, start
        self._checksums = dict(start.checksums)
        self.class_names = start.class_names
        self._vouch_for_names()

    def wrote(self, chunk_row: int, checksums: Checksums) -> None:
        """Vouch for the chunks of a chunk row from the next commit on."""
        for path, new in checksums.items():
            known, at = self._checksums.get(path, b""), chunk_row * len(new)
            self._checksums[path] = known[:at].ljust(at, b"\0") + new + known[at + len(new) :]

    def vouches(self, path: str, chunk_row: int, across: int) -> bool:
        """Whether the checksum of the last chunk of a chunk row is known."""
        return vouched(self._checksums.get(path, b""), (chunk_row + 1) * across - 1) is not None

    def write_names(self, names: tuple[str, ...]) -> None:
        """Write the names of the classes, where there are new ones."""
        if names != self.class_names:
            for key, contents in class_name_chunks(names):
                self._backend.write(key, contents)
            self.class_names = names
            self._vouch_for_names()

    def _vouch_for_names(self) -> None:
        found = [checksum_of(contents) for _, contents in class_name_chunks(self.class_names)]
        self._checksums[CLASS_NAME] = b"".join(found)

    def publish(self, lengths: Mapping[str, int]) -> None:
        """Replace the commit record: from now on readers see these lengths."""
        self._backend.commit(RECORD, self.at(lengths, complete=False).dump())

    def at(self, lengths: Mapping[str, int], *, complete: bool) -> CommitRecord:
        """The record at these lengths."""
        start = self._start
        attrs = {**start.attrs, "complete": int(complete)}
        return CommitRecord.of(start.layout, start.nodes, lengths, self.class_names, attrs, self._checksums)

    def close(self, record: CommitRecord) -> None:
        """Replace the record for the last time, and every array's own metadata.

        Readers that ignore the record see the latter, which have to agree with it now.
        """
        for path in record.arrays:
            self._backend.write(f"{path}/{RECORD}", [dump(record.nodes[path])])
        self._backend.commit(RECORD, record.dump())


class PrefixCommits:
    """Commits of a growing prefix of samples, each of which readers see at once."""

    short_rows = True

    def __init__(self, backend: Backend, start: Start) -> None:
        self._backend = backend
        self._file = RecordFile(backend, start)
        self.committed = dict(start.lengths)
        self.offset = int(start.attrs["start"])

    @property
    def _append(self) -> bool:
        return self.offset == self.committed[SAMPLES] > 0

    @property
    def compares(self) -> bool:
        return self.committed[SAMPLES] > self.offset

    @property
    def kept(self) -> str:
        return first_samples(self.committed[SAMPLES])

    def begin(self) -> None:
        self._backend.delete(MARKERS)  # of several processes, whose chunk rows are written anew
        if self._append:  # chunks that the record vouches for are written again, with more rows
            self._file.publish(self.committed)

    def token_rows(self, chunk_row: int) -> Mapping[str, range]:
        return {}

    def key(self, spec: ArraySpec, number: int, across: int, rows: range) -> str:
        return spec.key(number, across)

    def wrote(self, chunk_row: int, checksums: Checksums) -> None:
        self._file.wrote(chunk_row, checksums)

    def settle(self, commit: Commit) -> None:
        self._file.write_names(commit.class_names)
        self._file.publish(commit.lengths)
        self.committed = dict(commit.lengths)

    def finish(self, *, complete: bool) -> None:
        self._file.close(self._file.at(self.committed, complete=complete))

    def give_up(self) -> None:
        """Nothing: chunks beyond the record are written again."""
