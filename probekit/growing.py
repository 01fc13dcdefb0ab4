"""A tile that goes to its file as its rows come, without a stay in memory."""

from __future__ import annotations

import math

import google_crc32c
import numpy as np

from probekit.places import Folder
from probekit.tiles import CHECKSUM_BYTES, Array, TileCodec

__all__ = ["GrowingTile"]

_ZEROS = np.zeros(2**16, np.uint8)


class GrowingTile:
    """A tile of numbers that aren't compressed, in the file `key`, which appears when it is whole.

    What is appended has just been made and is still in the processor's caches: written at once it costs less than a
    copy into memory that a thread writes later. The system keeps it until the disk is ready.

    Attributes:
        shape: of a row in the tile.
        dtype: of its values.
    """

    def __init__(self, folder: Folder, codec: TileCodec, key: str) -> None:
        self.shape, self.dtype = codec.spec.tile[1:], codec.dtype
        self._row_bytes = math.prod(self.shape) * self.dtype.itemsize
        self._bytes = codec.spec.tile[0] * self._row_bytes
        self._file = folder.begin(key)
        self._rows = 0
        self._checksum: int | None = 0  # None while it isn't known what the file holds

    def append(self, rows: Array) -> None:
        """Put `rows`, in C order, behind those that are there."""
        data = rows.reshape(-1).view(np.uint8)
        checksum, self._checksum = self._checksum, None
        self._file.write(data)
        self._rows += len(rows)
        self._checksum = google_crc32c.extend(checksum, data)

    def finish(self, rows: int) -> None:
        """Have the tile appear with the first so many `rows`, and zeros behind."""
        checksum = self._checksum
        if checksum is None or rows < self._rows:  # Ctrl-C came in between, or a batch didn't end
            checksum = google_crc32c.value(self._file.cut(rows * self._row_bytes))
        for rest in range(self._bytes - rows * self._row_bytes, 0, -len(_ZEROS)):
            checksum = google_crc32c.extend(checksum, _ZEROS[:rest])
        self._file.skip(self._bytes - rows * self._row_bytes)
        self._file.write(checksum.to_bytes(CHECKSUM_BYTES, "little"))
        self._file.end()

    def drop(self) -> None:
        """Leave nothing of it."""
        self._file.drop()
