"""Activations in another order than that of their store, which is read once, in its own order."""

from __future__ import annotations

import os
import shutil
from math import prod
from tempfile import TemporaryFile, gettempdir
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from probekit._measure.site_source import Source
from probekit._sizes import format_size
from probekit.errors import ProbekitError

__all__ = ["reordered"]

_READ_BYTES = 16 * 2**20  # read at a time, unless a chunk row is larger


def reordered(source: Source, rows: npt.NDArray[np.int64]) -> xr.Variable:
    """The `rows` of a site, in their order, as a temporary file.

    To read them from the store in that order would decode every chunk once for each part that is read. So each row is
    put where it belongs, while the chunk rows come one after the other. The file has no name, and is gone with the
    array.

    Raises:
        ProbekitError: the file has no room.
    """
    variable, by_row = source.variable, np.argsort(rows, kind="stable")
    ascending = rows[by_row]
    shape, dtype = (len(rows), *variable.shape[1:]), variable.dtype
    size = prod(shape[1:]) * dtype.itemsize  # of a row
    _check_room(len(rows) * size, source.name)
    together = max(1, _READ_BYTES // size // source.chunk[0]) * source.chunk[0]
    with TemporaryFile(prefix="probekit-") as file:
        for first in range(0, source.rows, together):
            start, stop = np.searchsorted(ascending, [first, first + together])
            if start < stop:
                values = np.ascontiguousarray(variable[first : first + together].values)
                _put(file.fileno(), values, ascending[start:stop] - first, by_row[start:stop], size)
        found: npt.NDArray[Any] = np.memmap(file, dtype, "r", shape=shape)
    known = {"chunks": variable.encoding["chunks"]} if "chunks" in variable.encoding else {}  # how it is read best
    return xr.Variable(variable.dims, found, encoding=known)


def _put(
    file: int, values: npt.NDArray[Any], rows: npt.NDArray[np.int64], places: npt.NDArray[np.int64], size: int
) -> None:
    """Write rows of the values, each at its place."""
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        os.pwrite(file, values[row].tobytes(), place * size)


def _check_room(needed: int, site: str) -> None:
    folder = gettempdir()
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ProbekitError(
            f"Site {site!r} has its samples in another order than the first store. To put them in order takes a "
            f"temporary file of {format_size(needed)} in {folder}, which has {format_size(free)} free. Set TMPDIR to a "
            "folder with room, or choose fewer sites (sites=)."
        )
