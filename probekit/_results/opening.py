"""What lies at a path: a captured store, or measured results."""

from __future__ import annotations

import json
from pathlib import Path

import xarray as xr

from probekit._store.backend import Backend, backend_of
from probekit._store.layout import ACTIVATION, MAX_RECORD_BYTES, RECORD
from probekit._store.store import open_store, require_record
from probekit.errors import StoreError

__all__ = ["holds_results", "is_store", "open_any"]


def open_any(path: str | Path) -> xr.DataTree:
    """The store at `path` as `open_store` gives it, or the results there, read when they are indexed.

    Raises:
        StoreError: there is neither, or a store of a newer format.
    """
    backend = backend_of(path)
    require_record(backend)
    attributes = _attributes(backend)
    if "probekit_format" in attributes:
        return open_store(path)
    if "by" not in attributes:
        raise StoreError(
            f"{backend.url} is neither a store that `probekit capture` wrote nor results of `probekit measure --out`."
        )
    return xr.open_datatree(backend.url, engine="zarr")


def holds_results(path: str | Path) -> bool:
    """Whether results lie at `path`, and neither a store nor nothing."""
    try:
        attributes = _attributes(backend_of(path))
    except OSError:
        return False
    return "by" in attributes and "probekit_format" not in attributes


def _attributes(backend: Backend) -> dict[str, object]:
    """The attributes of the root; none where what lies there isn't JSON of zarr's."""
    try:
        found = json.loads(backend.read(RECORD, MAX_RECORD_BYTES))["attributes"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def is_store(tree: xr.DataTree) -> bool:
    """Whether an open tree holds activations, rather than what was measured of them."""
    return any(ACTIVATION in site.variables for site in tree.children.values())
