"""A chunk that goes to its file row by row, without waiting in memory."""

from __future__ import annotations

import math
from functools import lru_cache

import google_crc32c

from probekit._files import PartialFile
from probekit._store.codec import Array, ChunkCodec, checksum_bytes

__all__ = ["ChunkFile"]

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, which crc32c divides by; as in a crc, bit 31 is the coefficient of x⁰


class ChunkFile:
    """A chunk of numbers that aren't compressed, in a file that appears when the chunk is whole.

    What is appended has just been made and is still in the processor's caches: written at once it costs less than a
    copy into memory that a thread writes later. The system keeps it until the disk is ready.

    Args:
        file: where the chunk goes.
        codec: of the chunk's array.
        rows: how many are expected, for which room is reserved.

    Attributes:
        shape: of a row in the chunk.
        dtype: of its values.
    """

    def __init__(self, file: PartialFile, codec: ChunkCodec, rows: int) -> None:
        self.shape, self.dtype = codec.spec.chunk[1:], codec.dtype
        self._row_bytes = math.prod(self.shape) * self.dtype.itemsize
        self._bytes = codec.spec.chunk[0] * self._row_bytes
        self._file = file
        self._file.reserve(rows * self._row_bytes)
        self._rows = 0
        self._checksum: int | None = 0  # None while it isn't known what the file holds

    def append(self, rows: Array) -> None:
        """Put `rows`, in C order, behind those that are there."""
        checksum, self._checksum = self._checksum, None
        self._file.write(rows)
        self._rows += len(rows)
        self._checksum = google_crc32c.extend(checksum, rows)

    def finish(self, rows: int) -> bytes:
        """Have the chunk appear with the first so many `rows`, and zeros behind; its checksum."""
        checksum = self._checksum
        if checksum is None or rows < self._rows:  # Ctrl-C came in between, or a batch didn't end
            checksum = google_crc32c.value(self._file.cut(rows * self._row_bytes))
        padding = self._bytes - rows * self._row_bytes
        self._file.skip(padding)
        ending = checksum_bytes(_after_zeros(checksum, padding))
        self._file.write(ending)
        self._file.end()
        return ending

    def drop(self) -> None:
        """Leave nothing of it."""
        self._file.drop()


def _after_zeros(checksum: int, count: int) -> int:
    """The crc32c of content with this `checksum` and so many zero bytes behind it, without reading any of them.

    A zero byte multiplies the inverted checksum by x⁸ modulo the polynomial.
    """
    return _product(_eighth_power(count), checksum ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


@lru_cache(maxsize=64)  # the chunks of a row have as many zeros each
def _eighth_power(exponent: int) -> int:
    """x⁸ to the `exponent`, modulo crc32c's polynomial."""
    power, square = 1 << 31, 1 << 23
    while exponent:
        if exponent & 1:
            power = _product(power, square)
        square, exponent = _product(square, square), exponent >> 1
    return power


def _product(a: int, b: int) -> int:
    """The product of two polynomials over GF(2), modulo crc32c's."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product
