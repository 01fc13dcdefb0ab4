"""The memory that a store's tiles are filled in, row of tiles by row of tiles, of each row dimension."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from probekit.tiles import Array, TileCodec

__all__ = ["Buffers", "Memory", "Piece", "Rows", "Slot", "Wait", "no_wait"]

Wait: TypeAlias = Callable[[], None]


class Buffers(Protocol):
    """Memory that activations are copied into."""

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array: ...

    def fence(self) -> Wait:
        """What waits until all copies that have begun are done."""


class Memory:
    """Plain memory, into which a copy is done when it returns."""

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return np.zeros(shape, dtype)

    def fence(self) -> Wait:
        return no_wait


def no_wait() -> None:
    pass


@dataclass(frozen=True)
class Piece:
    """A place for a part of a batch's activation: `array` takes what `index` picks of it."""

    array: Array
    index: tuple[slice, ...]


class Slot:
    """One row of tiles of several arrays, by their paths; used again and again, since fresh pages are slow."""

    def __init__(self, codecs: Sequence[TileCodec], buffers: Buffers) -> None:
        self.tiles = {codec.spec.path: [_tile(codec, buffers) for _ in range(codec.spec.across)] for codec in codecs}


def _tile(codec: TileCodec, buffers: Buffers) -> Array:
    if codec.dtype == object:
        return np.full(codec.spec.tile, "", object)
    return buffers.zeros(codec.spec.tile, codec.dtype)


class Rows:
    """A row dimension: its arrays, the tiles that are being filled, and how far they are.

    Attributes:
        first: the first row of the tiles in ``held[0]``.
        filled: rows that are in them.
        length: rows of the batches that ended.
    """

    def __init__(self, codecs: Sequence[TileCodec], in_tile: int, length: int, buffers: Buffers, slots: int) -> None:
        self.codecs = {codec.spec.path: codec for codec in codecs}
        self.in_tile = in_tile
        self.first = length - length % self.in_tile
        self.filled = length % self.in_tile
        self.length = length
        self.held: list[Slot] = []
        self.free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for _ in range(slots):
            self.free.put(Slot(codecs, buffers))

    def pieces(self, path: str, slot: Slot, rows: slice, source: int) -> Iterator[Piece]:
        """The places in a slot's `rows` for the values of an array from row `source` of the batch on."""
        spec = self.codecs[path].spec
        taken = slice(source, source + rows.stop - rows.start)
        if spec.split is None:
            yield Piece(slot.tiles[path][0][rows], (taken,))
            return
        axis, width = spec.split[0], spec.tile[1 + spec.split[0]]
        before = (slice(None),) * axis
        for across, tile in enumerate(slot.tiles[path]):
            nodes = slice(across * width, min((across + 1) * width, spec.shape[axis]))
            own = slice(0, nodes.stop - nodes.start)
            yield Piece(tile[(rows, *before, own)], (taken, *before, nodes))
