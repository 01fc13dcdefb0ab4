"""What lies at a path: a captured store, or measured results."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from probekit._store.backend import backend_of
from probekit._store.layout import ACTIVATION
from probekit._store.store import are_of_results, open_store, require_record, root_attributes
from probekit.errors import StoreError

__all__ = ["holds_results", "is_store", "open_any"]

_NETCDF = (".nc", ".nc4")


def open_any(path: str | Path) -> xr.DataTree:
    """The store at `path` as `open_store` gives it, or the results there, read when they are indexed.

    Results are a zarr store, as ``measure(out=...)`` writes it, or a file of netCDF.

    Raises:
        StoreError: there is neither, or a store of a newer format; or what reads netCDF isn't installed.
    """
    if _is_netcdf(path):
        return _open_netcdf(path)
    backend = backend_of(path)
    require_record(backend)
    attributes = root_attributes(backend)
    if "probekit_format" in attributes:
        return open_store(path)
    if not are_of_results(attributes):
        raise StoreError(
            f"{backend.url} is neither a store that `probekit capture` wrote nor results of `probekit measure --out`."
        )
    return xr.open_datatree(backend.url, engine="zarr")


def holds_results(path: str | Path) -> bool:
    """Whether results lie at `path`, and neither a store nor nothing."""
    try:
        return _is_netcdf(path) or are_of_results(root_attributes(backend_of(path)))
    except OSError:
        return False


def _is_netcdf(path: str | Path) -> bool:
    return Path(path).suffix.lower() in _NETCDF and Path(path).is_file()


def _open_netcdf(path: str | Path) -> xr.DataTree:
    try:
        tree = xr.open_datatree(path)
    except (OSError, ValueError) as error:  # ValueError: nothing that is installed reads it
        raise StoreError(
            f"{path} can't be read as netCDF: it is no such file, or nothing is installed that reads it. "
            "`pip install h5netcdf` installs that."
        ) from error
    if not are_of_results(tree.attrs):
        raise StoreError(f"{path} holds no results of probekit.measure, written by their to_netcdf.")
    return tree


def is_store(tree: xr.DataTree) -> bool:
    """Whether an open tree holds activations, rather than what was measured of them."""
    return any(ACTIVATION in site.variables for site in tree.children.values())
