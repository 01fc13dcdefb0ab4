"""Where a store's chunks are filled, a chunk row at a time, for each row dimension: in memory, or in their files."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence

import numpy as np

from probekit._files import PartialFile
from probekit._store.codec import Array, ChunkCodec
from probekit._store.layout import Index
from probekit._write.chunk_file import ChunkFile
from probekit._write.transfer import Target, Transfer

__all__ = ["RowBuffer", "RowDimension"]


class RowBuffer:
    """One chunk row of several arrays, by their paths: `chunks` in memory, and chunks in `files`.

    Beside each file stands the index of the nodes that go to it, ``()`` for all.

    The memory is used again and again, since fresh pages are slow.
    """

    def __init__(self, codecs: Sequence[ChunkCodec], transfer: Transfer, in_files: Sequence[ChunkCodec] = ()) -> None:
        self.chunks = {
            codec.spec.path: [_empty_chunk(codec, transfer) for _ in range(codec.spec.across)]
            for codec in codecs
            if codec not in in_files
        }
        self.files: dict[str, list[tuple[ChunkFile, Index]]] = {}
        self._in_files = in_files

    def begin(self, begin: Callable[[str], PartialFile], row: int, rows: int) -> None:
        """Begin the files of the chunk row `row`, in which so many `rows` are expected."""
        self.files = {codec.spec.path: [] for codec in self._in_files}
        for codec in self._in_files:
            for across, (nodes, _) in enumerate(codec.spec.node_spans):
                file = ChunkFile(begin(codec.spec.key(row, across)), codec, rows)
                self.files[codec.spec.path].append((file, nodes))

    def refill(self, path: str, across: int, rows: Array) -> None:
        """Begin one of the chunks with these rows."""
        if path in self.files:
            self.files[path][across][0].append(rows)
        else:
            self.chunks[path][across][: len(rows)] = rows

    def finish(self, rows: int) -> dict[str, bytes]:
        """Have the files appear with so many rows; the checksums of their chunks, by the paths of their arrays."""
        return {path: b"".join(file.finish(rows) for file, _ in files) for path, files in self.files.items()}

    def drop(self) -> None:
        """Leave nothing of the files that haven't appeared."""
        for files in self.files.values():
            for file, _ in files:
                file.drop()


def _empty_chunk(codec: ChunkCodec, transfer: Transfer) -> Array:
    if codec.dtype == object:
        return np.full(codec.spec.chunk, "", object)
    return transfer.zeros(codec.spec.chunk, codec.dtype)


class RowDimension:
    """A row dimension: its arrays, the row buffers that are being filled, and how far they are.

    Args:
        codecs: of its arrays.
        rows_per_chunk: rows in a chunk.
        length: rows that are there already.
        transfer: where the memory comes from.
        buffers: how many row buffers are filled or written at a time.
        in_files: those of `codecs` whose chunks are filled in their files.

    Attributes:
        first: the first row of the chunks in ``filling[0]``.
        filled: rows that are in them.
        others: how many of these another process writes, which aren't in them.
        length: rows of the batches that ended.
    """

    def __init__(
        self,
        codecs: Sequence[ChunkCodec],
        rows_per_chunk: int,
        length: int,
        transfer: Transfer,
        buffers: int,
        in_files: Sequence[ChunkCodec],
    ) -> None:
        self.codecs = {codec.spec.path: codec for codec in codecs}
        self.rows_per_chunk = rows_per_chunk
        self.first = length - length % rows_per_chunk
        self.filled = length % rows_per_chunk
        self.others = 0
        self.length = length
        self.filling: list[RowBuffer] = []
        self.free: queue.SimpleQueue[RowBuffer] = queue.SimpleQueue()
        for _ in range(buffers):
            self.free.put(RowBuffer(codecs, transfer, in_files))

    def begin_at(self, row: int) -> None:
        """Have this `row` come next, of a chunk row whose rows before it another process writes."""
        self.first, self.filled = row - row % self.rows_per_chunk, row % self.rows_per_chunk
        self.length, self.others = row, self.filled

    def targets(self, path: str, buffer: RowBuffer, rows: slice) -> Sequence[tuple[Target, Index]]:
        """Where the values of an array for a buffer's `rows` go, each with the index of its nodes, ``()`` for all.

        What goes to a file goes in order.
        """
        files = buffer.files.get(path)
        if files is not None:
            return files
        spans = self.codecs[path].spec.node_spans
        return [(chunk[rows, *where], nodes) for chunk, (nodes, where) in zip(buffer.chunks[path], spans, strict=True)]
