"""Results on disk: a zarr store that is there whole or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr
import zarr
from zarr.core.buffer import Buffer
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from probekit._store.backend import backend_of
from probekit.errors import StoreError

__all__ = ["as_store_errors", "files_of", "require_absent", "write"]


def require_absent(out: Path) -> None:
    """Raise StoreError if something stands at `out`."""
    if out.exists():
        raise StoreError(
            f"{out} exists already, and measure never replaces anything. Remove it, or give another path (out=).",
            arguments=("out",),
        )


def files_of(tree: xr.DataTree, encoding: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """The files of a zarr store that holds `tree`, by their paths in it; `encoding` is that of ``DataTree.to_zarr``."""
    memory: dict[str, Buffer] = {}
    # By default zarr leaves out chunks of nothing but fill, and their folders with them.
    whole = zarr.config.set({"array.write_empty_chunks": True})
    with warnings.catch_warnings(action="ignore", category=ZarrUserWarning), whole:
        tree.to_zarr(MemoryStore(memory), encoding=encoding, zarr_format=3, consolidated=True)
    return {key: buffer.to_bytes() for key, buffer in memory.items()}


def write(results: xr.DataTree, out: Path) -> None:
    """Write `results` as a zarr store, readable by ``xarray.open_datatree``, which appears whole or not at all.

    Raises:
        StoreError: something stands at `out`, or it can't be written.
    """
    files = files_of(results)
    require_absent(out)
    with as_store_errors(str(out)):
        backend_of(out).create(files)


@contextmanager
def as_store_errors(url: str) -> Iterator[None]:
    """Turn the system's error for a disk that is full or refuses into a StoreError that names the store."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"The results can't be written to {url}: {error.strerror or error}.") from error
