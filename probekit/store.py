"""Opening a store, and what it holds."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from probekit.errors import StoreError, near
from probekit.layout import ACTIVATION, FORMAT, Json

__all__ = ["SiteInfo", "StoreInfo", "info", "open_store", "read_attrs", "remove"]


@dataclass(frozen=True)
class SiteInfo:
    """One site of a store: `dims` and `shape` of its activation, `tile` (the chunk), and its bytes on disk."""

    name: str
    type: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    tile: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds: its samples, sites, samples of each class, and how it was made (`attrs`)."""

    path: Path
    rows: int
    complete: bool
    sites: tuple[SiteInfo, ...]
    classes: dict[str, int]
    attrs: Json


def read_attrs(path: str | Path) -> Json:
    """The attributes of the store at `path`, read from its commit record alone.

    Raises:
        StoreError: there is no store, or its format is newer than this version reads.
    """
    path = Path(path)
    try:
        attributes: Json = json.loads((path / "zarr.json").read_bytes())["attributes"]
        version = attributes["probekit_format"]
    except FileNotFoundError as error:
        raise StoreError(_absence(path)) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} isn't a store of probekit's: its zarr.json is not a commit record.") from error
    if version > FORMAT:
        raise StoreError(
            f"{path} has store format {version}; this probekit reads up to {FORMAT}. Upgrade: pip install -U probekit"
        )
    return attributes


def _absence(path: Path) -> str:
    if not path.exists():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        return f"There is no store at {path}.{near(path.name, beside)}"
    kind = "a folder without a zarr.json" if path.is_dir() else "a file"
    return f"{path} isn't a store: it is {kind}. A store is a folder that probekit capture made."


def open_store(path: str | Path) -> xr.DataTree:
    """The store at `path`, opened lazily: one group a site, with the samples' label and sample_id attached to each.

    ``tree["layers.0"]["activation"]`` has dims (sample, node), and coords ``label`` and ``sample_id``; class names are
    ``tree["class_name"]``. While a capture runs, or after one was stopped, it is the prefix that is committed.

    Raises:
        StoreError: there is no store at `path`, or it has a newer format.

    Example:
        >>> tree = pk.open("acts.zarr")  # doctest: +SKIP
        >>> tree["layers.0"]["activation"].groupby("label").mean()  # doctest: +SKIP
    """
    attributes = read_attrs(path)
    if not attributes["complete"]:
        expected = attributes.get("expected_rows", "an unknown number of")
        warnings.warn(
            f"{path} holds the first {attributes['rows']} of {expected} samples: its capture runs or was stopped.",
            stacklevel=2,
        )
    raw = xr.open_datatree(path, engine="zarr", consolidated=True, chunks=None)
    root = raw.to_dataset(inherit=False)
    tree = xr.DataTree(root)
    for name, group in raw.children.items():
        dataset = group.to_dataset(inherit=False)
        # Children inherit index coordinates only, and these are none: an index would load every value on opening.
        shared = {column: values for column, values in root.coords.items() if set(values.dims) <= set(dataset.dims)}
        tree[name] = xr.DataTree(dataset.assign_coords(shared))
    return tree


def info(path: str | Path) -> StoreInfo:
    """What the store at `path` holds and how it was made.

    Raises:
        StoreError: there is no store at `path`, or it has a newer format.
    """
    path = Path(path)
    attributes = read_attrs(path)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # `complete` says it
        tree = open_store(path)
    classes = {}
    if "label" in tree.coords:
        names = [str(name) for name in np.asarray(tree["class_name"])]
        counts = np.bincount(np.asarray(tree["label"]), minlength=len(names))
        classes = dict(zip(names, map(int, counts), strict=True))
    return StoreInfo(
        path=path,
        rows=attributes["rows"],
        complete=bool(attributes["complete"]),
        sites=tuple(_site_info(path / name, group) for name, group in tree.children.items()),
        classes=classes,
        attrs=attributes,
    )


def _site_info(folder: Path, group: xr.DataTree) -> SiteInfo:
    activation = group[ACTIVATION]
    return SiteInfo(
        name=group.attrs["site"],
        type=group.attrs["type"],
        dims=tuple(map(str, activation.dims)),
        shape=activation.shape,
        dtype=str(activation.dtype),
        tile=tuple(activation.encoding["chunks"]),
        bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    )


def remove(path: str | Path) -> None:
    """Delete the store at `path`; nothing happens where there is nothing.

    Raises:
        StoreError: what stands there isn't a store, and is left alone.
    """
    path = Path(path)
    if path.exists():
        read_attrs(path)
        shutil.rmtree(path)
