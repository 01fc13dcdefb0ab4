"""Adding sites to a store of the same samples."""

from __future__ import annotations

from typing import Self

from probekit._store.backend import Place
from probekit._store.layout import RECORD, Json, Layout
from probekit._store.record import dump
from probekit._write.chunk_buffers import Buffers
from probekit._write.writer import Commit, Start, Writer

__all__ = ["SiteWriter"]


class SiteWriter(Writer):
    """A writer of further sites of the samples that a complete store holds; they appear when they are whole.

    Args:
        record: the store's, as it is.
    """

    offset = 0
    compares = True

    def __init__(self, place: Place, layout: Layout, start: Start, buffers: Buffers, record: Json) -> None:
        super().__init__(place, layout, start, buffers)
        self._before = record

    def __enter__(self) -> Self:
        self._remove()  # what a writer that was killed has left
        for path, node in self._nodes.items():
            if node["node_type"] == "group":
                self.place.make_room([path])
            else:
                self.place.make_room([f"{path}/c"])
            self.place.write(f"{path}/{RECORD}", [dump(node)])
        return super().__enter__()

    def _settle(self, commit: Commit) -> None:
        self._committed = dict(commit.lengths)

    def _finish(self, *, complete: bool) -> None:
        if not complete:
            self._remove()
            return
        record = self._record(self._committed, complete=True)
        both = {**self._before["consolidated_metadata"]["metadata"], **record["consolidated_metadata"]["metadata"]}
        attributes = {**self._before["attributes"], "sites": self.attrs["sites"]}
        metadata = {**self._before["consolidated_metadata"], "metadata": both}
        self._close({**self._before, "attributes": attributes, "consolidated_metadata": metadata})

    def _remove(self) -> None:
        for group in self._layout.groups.values():
            self.place.delete(group)
