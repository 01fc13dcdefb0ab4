"""Where a store's tiles are filled, a row of tiles at a time, of each row dimension: in memory, or in their files."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from probekit._store.backend import Folder
from probekit._store.codec import Array, TileCodec
from probekit._store.layout import Index
from probekit._write.chunk_file import GrowingTile

__all__ = ["Buffers", "Rows", "Slot", "Target", "Wait", "no_wait"]

Target: TypeAlias = Array | GrowingTile
Wait: TypeAlias = Callable[[], None]


class Buffers(Protocol):
    """Memory that activations are copied into, and what copies them."""

    immediate: bool  # whether a copy is done when it returns; one into a file has to be

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array: ...

    def copy(self, target: Target, source: Any) -> None: ...

    def fence(self) -> Wait:
        """What waits until all copies that have begun are done."""


def no_wait() -> None:
    pass


class Slot:
    """One row of tiles of several arrays, by their paths: `tiles` in memory, `growing` ones in their files.

    Of the values of each row a growing tile takes what the index beside it picks, an empty one all.

    The memory is used again and again, since fresh pages are slow.
    """

    def __init__(self, codecs: Sequence[TileCodec], buffers: Buffers, grown: Sequence[TileCodec] = ()) -> None:
        self.tiles = {
            codec.spec.path: [_tile(codec, buffers) for _ in range(codec.spec.across)]
            for codec in codecs
            if codec not in grown
        }
        self.growing: dict[str, list[tuple[GrowingTile, Index]]] = {}
        self._grown = grown

    def begin(self, folder: Folder, row: int, rows: int) -> None:
        """Begin the files of the tile row `row`, in which so many `rows` are expected."""
        self.growing = {codec.spec.path: [] for codec in self._grown}
        for codec in self._grown:
            for across, (part, _) in enumerate(codec.spec.parts):
                tile = GrowingTile(folder, codec, codec.spec.key(row, across), rows)
                self.growing[codec.spec.path].append((tile, part))

    def refill(self, path: str, across: int, rows: Array) -> None:
        """Begin one of the tiles with these rows."""
        if path in self.growing:
            self.growing[path][across][0].append(rows)
        else:
            self.tiles[path][across][: len(rows)] = rows

    def finish(self, rows: int) -> None:
        """Have the files appear with so many rows."""
        for tiles in self.growing.values():
            for tile, _ in tiles:
                tile.finish(rows)

    def drop(self) -> None:
        """Leave nothing of the files that haven't appeared."""
        for tiles in self.growing.values():
            for tile, _ in tiles:
                tile.drop()


def _tile(codec: TileCodec, buffers: Buffers) -> Array:
    if codec.dtype == object:
        return np.full(codec.spec.tile, "", object)
    return buffers.zeros(codec.spec.tile, codec.dtype)


class Rows:
    """A row dimension: its arrays, the tiles that are being filled, and how far they are.

    Args:
        codecs: of its arrays.
        in_tile: rows in a tile.
        length: rows that are there already.
        buffers: where the memory comes from.
        slots: rows of tiles that are filled or written at a time.
        grown: those of `codecs` whose tiles are filled in their files.

    Attributes:
        first: the first row of the tiles in ``held[0]``.
        filled: rows that are in them.
        length: rows of the batches that ended.
    """

    def __init__(
        self,
        codecs: Sequence[TileCodec],
        in_tile: int,
        length: int,
        buffers: Buffers,
        slots: int,
        grown: Sequence[TileCodec],
    ) -> None:
        self.codecs = {codec.spec.path: codec for codec in codecs}
        self.in_tile = in_tile
        self.first = length - length % self.in_tile
        self.filled = length % self.in_tile
        self.length = length
        self.held: list[Slot] = []
        self.free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for _ in range(slots):
            self.free.put(Slot(codecs, buffers, grown))

    def pieces(self, path: str, slot: Slot, rows: slice) -> Sequence[tuple[Target, Index]]:
        """Where the values of an array for a slot's `rows` go.

        Each target takes what the index beside it picks of them, an empty one all; what goes to a file goes in order.
        """
        growing = slot.growing.get(path)
        if growing is not None:
            return growing
        parts = self.codecs[path].spec.parts
        return [(tile[rows, *where], part) for tile, (part, where) in zip(slot.tiles[path], parts, strict=True)]
