"""Adding sites to a store of the same samples: readers see them when they are whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from probekit._store.backend import Backend
from probekit._store.layout import RECORD, ArraySpec
from probekit._store.leftovers import remove_node
from probekit._store.record import Checksums, CommitRecord, dump
from probekit._write.commits import Commit, RecordFile, Start

__all__ = ["SiteCommits"]


class SiteCommits:
    """Commits of further sites of the samples that a complete store holds; they appear when they are whole.

    Args:
        before: the store's record, to which they are added.
    """

    offset = 0
    compares = True
    kept = "The sites that were there are as they were; those that were to be added are not there."
    short_rows = True

    def __init__(self, backend: Backend, start: Start, before: CommitRecord) -> None:
        self._backend, self._start, self._before = backend, start, before
        self._file = RecordFile(backend, start)
        self.committed = dict(start.lengths)

    def begin(self) -> None:
        for path, node in self._start.nodes.items():
            self._backend.make_room([path if node["node_type"] == "group" else f"{path}/c"])
            self._backend.write(f"{path}/{RECORD}", [dump(node)])

    def token_rows(self, chunk_row: int) -> Mapping[str, range]:
        return {}

    def key(self, spec: ArraySpec, number: int, across: int, rows: range) -> str:
        return spec.key(number, across)

    def wrote(self, chunk_row: int, checksums: Checksums) -> None:
        self._file.wrote(chunk_row, checksums)

    def settle(self, commit: Commit) -> None:
        self.committed = dict(commit.lengths)

    def finish(self, *, complete: bool) -> None:
        if not complete:
            self._remove()
            return
        added = self._file.at(self.committed, complete=True)
        attributes = {**self._before.attributes, "sites": self._start.attrs["sites"]}
        both = {**self._before.nodes, **added.nodes}
        checksums = {**self._before.checksums, **added.checksums}
        self._file.close(replace(self._before, attributes=attributes, nodes=both, checksums=checksums))

    def give_up(self) -> None:
        self._remove()

    def _remove(self) -> None:
        for group in self._start.layout.groups.values():
            remove_node(self._backend, group)
