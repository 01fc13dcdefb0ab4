"""Chunks as bytes: what zarr's codecs make of an array, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

import google_crc32c
import numpy as np
import zarr
from numcodecs import VLenUTF8
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import Buffer, default_buffer_prototype

from probekit._files import Content
from probekit._store.layout import CHECKSUM_BYTES, ArraySpec, Json
from probekit.errors import StoreError

__all__ = [
    "Array",
    "ChunkCodec",
    "Content",
    "array_metadata",
    "check_compression",
    "checksum_bytes",
    "checksum_of",
    "is_sound",
    "is_sound_chunk",
    "vouched",
]

# Both shuffle bits, which brings the equal ones of neighbouring values together.
COMPRESSIONS = {
    "fast": BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
    "small": BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"),
}

_FRAME_BYTES = 2**16  # what compression adds to a chunk at the most
_TEXT_BYTES = 2**28  # of a chunk of strings
_TEXT = VLenUTF8()  # zarr's vlen-utf8

Array: TypeAlias = np.ndarray[Any, Any]


def check_compression(compression: str | None) -> None:
    """Raise StoreError for a compression that there isn't."""
    if compression is not None and not (isinstance(compression, str) and compression in COMPRESSIONS):
        known = ", ".join(map(repr, COMPRESSIONS))
        raise StoreError(
            f"compression is {compression!r}; it can be {known}, or None for none.", arguments=("compression",)
        )


class ChunkCodec:
    """The chunks of one array: their bytes on disk, as zarr writes them, and the array's metadata."""

    def __init__(self, spec: ArraySpec) -> None:
        self.spec = spec
        # Without compression a chunk of numbers is its values' bytes and their checksum.
        self.plain = spec.compression is None and spec.dtype.kind != "U"

    @property
    def lengths(self) -> tuple[int, int]:
        """The least and the most bytes that a chunk may have."""
        if self.spec.dtype.kind == "U":
            return CHECKSUM_BYTES + 1, _TEXT_BYTES
        plain = self._plain_bytes + CHECKSUM_BYTES
        return (plain, plain) if self.plain else (CHECKSUM_BYTES + 1, plain + _FRAME_BYTES)

    @property
    def _plain_bytes(self) -> int:
        return math.prod(self.spec.chunk) * self.spec.dtype.itemsize

    def check(self, data: bytes, checksum: bytes | None = None) -> None:
        """Raise ValueError, saying what is wrong, where `data` aren't a chunk of the array, or of another `checksum`.

        What a chunk says of its size is compared with the array before anybody takes memory for it.
        """
        if not is_sound_chunk(data):
            raise ValueError("wrong checksum")
        if checksum not in (None, data[-CHECKSUM_BYTES:]):
            raise ValueError("sound, and another chunk than the one that was committed here")
        if self.spec.dtype.kind == "U":
            sound = int.from_bytes(data[:4], "little") == self.spec.chunk[0]
        elif self.plain:
            sound = len(data) == self.lengths[0]
        else:  # blosc's header: the bytes of the values, and its own
            values, own = (int.from_bytes(data[at : at + 4], "little") for at in (4, 12))
            sound = (values, own) == (self._plain_bytes, len(data) - CHECKSUM_BYTES)
        if not sound:
            raise ValueError("a chunk of another size")

    def metadata(self, rows: int) -> Json:
        """The array's ``zarr.json`` at so many rows."""
        spec = self.spec
        return array_metadata(spec.dims, (rows, *spec.shape), spec.dtype, spec.chunk, spec.compression)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of a chunk in memory: of strings, objects, since a fixed width would cut the longer ones."""
        return np.dtype(object) if self.spec.dtype.kind == "U" else self.spec.dtype

    def encode(self, chunk: Array) -> list[Content]:
        """The bytes of a whole chunk, as contents to be written one after the other."""
        if self.spec.compression is None:  # needs no zarr, which takes twenty times as long
            data = chunk.reshape(-1).view(np.uint8) if self.plain else bytes(_TEXT.encode(chunk))
            return [data, checksum_bytes(google_crc32c.value(data))]
        memory, array, key = self._one_chunk
        array[...] = chunk
        return [memory.pop(key).to_bytes()]

    def decode(self, data: bytes, checksum: bytes | None = None) -> Array:
        """The chunk that `data` holds.

        Raises:
            ValueError: its checksum or its length is wrong, or it isn't the chunk of the `checksum`, if one is given.
        """
        self.check(data, checksum)
        if self.plain:
            return np.frombuffer(data[:-CHECKSUM_BYTES], self.spec.dtype).reshape(self.spec.chunk)
        memory, array, key = self._one_chunk
        memory[key] = default_buffer_prototype().buffer.from_bytes(data)
        return np.asarray(array[...])

    @cached_property
    def _one_chunk(self) -> tuple[dict[str, Buffer], zarr.Array[Any], str]:
        """An array of one chunk in memory, and the key of its bytes there: zarr encodes and decodes through it."""
        spec = self.spec
        memory, array = _in_memory(spec.dims, spec.dtype, spec.chunk, spec.compression)
        return memory, array, "/".join(["c", *["0"] * len(spec.chunk)])


def array_metadata(
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    chunk: tuple[int, ...],
    compression: str | None = None,
) -> Json:
    """The ``zarr.json`` of an array."""
    found: Json = json.loads(_metadata(dims, dtype, chunk, compression))
    return {**found, "shape": list(shape)}


def vouched(checksums: bytes, number: int) -> bytes | None:
    """The checksum of a chunk, by its number, among those that a commit record has; None where it has none."""
    found = checksums[number * CHECKSUM_BYTES : (number + 1) * CHECKSUM_BYTES]
    return found if any(found) else None


def checksum_of(contents: Sequence[Content]) -> bytes:
    """The checksum that ends a chunk of these `contents`."""
    return bytes(contents[-1][-CHECKSUM_BYTES:])


def checksum_bytes(checksum: int) -> bytes:
    """A crc32c as it ends a chunk."""
    return checksum.to_bytes(CHECKSUM_BYTES, "little")


def is_sound_chunk(data: bytes) -> bool:
    """Whether a whole chunk ends with the checksum of what is before."""
    body = np.frombuffer(data, np.uint8)[:-CHECKSUM_BYTES]  # without a copy
    return len(data) > CHECKSUM_BYTES and is_sound(body, data[-CHECKSUM_BYTES:])


def is_sound(body: Content, checksum: bytes) -> bool:
    """Whether a chunk's `body` has the checksum that ends the chunk."""
    return checksum_bytes(google_crc32c.value(body)) == checksum


def _in_memory(
    dims: tuple[str, ...], dtype: np.dtype[Any], chunk: tuple[int, ...], compression: str | None
) -> tuple[dict[str, Buffer], zarr.Array[Any]]:
    text = dtype.kind == "U"
    memory: dict[str, Buffer] = {}
    array = zarr.create_array(
        memory,
        shape=chunk,
        chunks=chunk,
        dtype=str if text else dtype,  # strings of any length, which fixed-width ones are cut to
        dimension_names=dims,
        compressors=[*([] if compression is None else [COMPRESSIONS[compression]]), Crc32cCodec()],
        filters=None,
        fill_value="" if text else np.zeros((), dtype)[()],
        config={"write_empty_chunks": True},  # so that a missing file always means a missing chunk
    )
    return memory, array


@lru_cache(maxsize=1024)  # layers of a model are often alike, and each takes zarr milliseconds
def _metadata(dims: tuple[str, ...], dtype: np.dtype[Any], chunk: tuple[int, ...], compression: str | None) -> bytes:
    return _in_memory(dims, dtype, chunk, compression)[0]["zarr.json"].to_bytes()
