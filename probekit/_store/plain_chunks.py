"""Reading tiles that are plain files of values: as fast as the disk gives them, and each checked by its checksum."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import product
from typing import Any, TypeAlias

import google_crc32c
import numpy as np

from probekit._store.codec import CHECKSUM_BYTES, Array
from probekit._store.layout import Json

__all__ = ["PlainTiles", "is_plain"]

Span: TypeAlias = tuple[int, int]


def is_plain(node: Json) -> bool:
    """Whether the tiles of the array that `node` describes are the bytes of its values and a checksum."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    return node["codecs"] in ([little, {"name": "crc32c"}], [{"name": "bytes"}, {"name": "crc32c"}])


class PlainTiles:
    """An array whose tiles lie below `folder`, uncompressed.

    Zarr reads the same values, through five copies and an event loop, which takes several times as long.
    """

    def __init__(self, folder: str, shape: tuple[int, ...], tile: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.folder = folder
        self.shape = shape
        self.tile = tile
        self.dtype = dtype

    def read(self, key: Sequence[int | slice]) -> Array:
        """The values at `key`, as numpy indexes with integers and slices of step 1.

        Raises:
            OSError: a tile is missing.
            ValueError: a tile is damaged.
        """
        spans = [_span(part, length) for part, length in zip(key, self.shape, strict=True)]
        values = np.empty([stop - start for start, stop in spans], self.dtype)
        parts = (range(a // n, -(-b // n)) if b > a else () for (a, b), n in zip(spans, self.tile, strict=True))
        for place in product(*parts):
            self._copy(place, spans, values)
        found: Array = values[tuple(slice(None) if isinstance(part, slice) else 0 for part in key)]
        return found

    def _copy(self, place: tuple[int, ...], spans: Sequence[Span], values: Array) -> None:
        """Copy what `values`, which stands at `spans`, has of the tile at `place`."""
        inside, outside = [], []
        for number, (start, stop), length in zip(place, spans, self.tile, strict=True):
            first, last = max(start, number * length), min(stop, (number + 1) * length)
            inside.append(slice(first - number * length, last - number * length))
            outside.append(slice(first - start, last - start))
        target = values[tuple(outside)]
        if target.shape == self.tile and target.flags.c_contiguous:
            self._load(place, target)
        else:
            tile = np.empty(self.tile, self.dtype)
            self._load(place, tile)
            target[...] = tile[tuple(inside)]

    def _load(self, place: tuple[int, ...], tile: Array) -> None:
        name = "/".join(["c", *map(str, place)])
        data = tile.reshape(-1).view(np.uint8)
        try:
            with open(os.path.join(self.folder, name), "rb") as file:
                count = file.readinto(data.data)
                checksum = file.read(CHECKSUM_BYTES + 1)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{name} is missing") from error
        if count < data.nbytes or len(checksum) != CHECKSUM_BYTES:
            size = math.prod(self.tile) * self.dtype.itemsize + CHECKSUM_BYTES
            raise ValueError(f"{name} is {'shorter' if count < data.nbytes else 'of another size'} than {size} bytes")
        if google_crc32c.value(data) != int.from_bytes(checksum, "little"):
            raise ValueError(f"the checksum of {name} is wrong")


def _span(part: int | slice, length: int) -> Span:
    if isinstance(part, slice):
        start, stop, _ = part.indices(length)
        return start, max(start, stop)
    at = range(length)[part]
    return at, at + 1
