"""A store's record as an xarray tree, of which nothing is read before it is asked for."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.abc.store import Store
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import FsspecStore, LocalStore, StorePath

from probekit.errors import StoreError
from probekit.layout import ACTIVATION, Json
from probekit.tiles import Array

__all__ = ["open_array", "open_tree"]

_MAX_TILE_BYTES = 2**31  # what reading one value may take; a writer's tiles are far below


class _Stored(BackendArray):
    """One array of a store, read when it is indexed."""

    def __init__(self, array: zarr.Array[Any]) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = np.dtype(array.dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.VECTORIZED, self._read)

    def _read(self, key: tuple[Any, ...]) -> Array:
        if any(isinstance(part, np.ndarray) for part in key):
            return np.asarray(self.array.vindex[key] if _pointwise(key) else self.array.oindex[key])
        return np.asarray(self.array[key])


def _pointwise(key: tuple[Any, ...]) -> bool:
    return sum(isinstance(part, np.ndarray) for part in key) == len(key) > 1


def open_tree(url: str | Path, record: Json) -> xr.DataTree:
    """The tree that a store's record describes: one group a site, the samples' columns attached to each as coords.

    Only arrays that a store has are opened, and nothing is read: no index, which xarray would load, is made of them.

    Raises:
        StoreError: the record has what no writer makes.
    """
    store = _store(url)
    root: dict[str, xr.Variable] = {}
    sites: dict[str, dict[str, xr.Variable]] = {}
    attrs: dict[str, Json] = {}
    for path, node in record["consolidated_metadata"]["metadata"].items():
        group, name = _parts(str(url), path)
        if node.get("node_type") == "group":
            attrs[path], sites[path] = node.get("attributes", {}), sites.get(path, {})
        else:
            variables = sites.setdefault(group, {}) if group else root
            variables[name] = _variable(store, str(url), path, node)
    columns = {name: root[name] for name in record["attributes"]["coordinates"].split() if name in root}
    others = {name: variable for name, variable in root.items() if name not in columns}
    children = {
        group: xr.DataTree(_site(variables, columns, attrs.get(group, {}))) for group, variables in sites.items()
    }
    return xr.DataTree(xr.Dataset(others, columns, record["attributes"]), children)


def _site(variables: Mapping[str, xr.Variable], columns: Mapping[str, xr.Variable], attrs: Json) -> xr.Dataset:
    # Children inherit index coordinates only, and these are none: an index would load every value on opening.
    own = {name: variable for name, variable in variables.items() if name != ACTIVATION}
    values = {name: variable for name, variable in variables.items() if name == ACTIVATION}
    dims = {dim for variable in values.values() for dim in variable.dims}
    shared = {name: column for name, column in columns.items() if set(column.dims) <= dims}
    return xr.Dataset(values, shared | own, attrs)


def _variable(store: Store, url: str, path: str, node: Json) -> xr.Variable:
    array = open_array(store, url, path, node)
    dims = tuple(node["dimension_names"])
    lazy = indexing.LazilyIndexedArray(_Stored(array))
    tiles = dict(zip(dims, array.chunks, strict=True))
    encoding = {"chunks": array.chunks, "preferred_chunks": tiles}
    if any(dim == path.rpartition("/")[2] for dim in dims):
        raise StoreError(f"{url} has {path!r} of dims {dims}, which no writer of a store makes; it wasn't opened.")
    variable = xr.Variable(dims, lazy, node.get("attributes", {}), encoding, fastpath=True)
    return variable.chunk(tiles) if importlib.util.find_spec("dask") else variable


def open_array(store: Store | str | Path, url: str, path: str, node: Json) -> zarr.Array[Any]:
    """The array at `path` as a record's `node` describes it, whatever its own metadata say meanwhile."""
    store = store if isinstance(store, Store) else _store(store)
    try:
        tile = node["chunk_grid"]["configuration"]["chunk_shape"]
        array = zarr.Array(zarr.AsyncArray(ArrayV3Metadata.from_dict(node), StorePath(store, path)))
        if len(node["dimension_names"]) != array.ndim or math.prod(tile) * array.dtype.itemsize > _MAX_TILE_BYTES:
            raise ValueError(f"dims {node['dimension_names']}, tiles {tile}")
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{url} has {path!r} with metadata that no writer of a store makes: {error}.") from error
    return array


def _store(url: str | Path) -> Store:
    text = str(url)
    return FsspecStore.from_url(text, read_only=True) if "://" in text else LocalStore(text, read_only=True)


def _parts(url: str, path: str) -> tuple[str, str]:
    """The group, "" for the root, and the name of a node."""
    parts = path.split("/")
    if len(parts) > 2 or any(not part.strip(".") or set(part) & set("\\\0") for part in parts):
        raise StoreError(f"{url} has a node {path!r}, which no writer of a store makes; it wasn't opened.")
    return ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])
