"""Opening a store, and what it holds."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from probekit._store.backend import Place, place_of
from probekit._store.codec import Array
from probekit._store.layout import ACTIVATION, CLASS_NAME, FORMAT, RECORD, Json
from probekit._store.lazy_array import open_tree, read_array
from probekit._store.validation import check_record
from probekit.errors import DataError, StoreError, near

__all__ = [
    "Columns",
    "SiteInfo",
    "StoreInfo",
    "check_absent",
    "class_names",
    "info",
    "open_store",
    "read_attrs",
    "read_record",
    "remove",
]


MAX_RECORD_BYTES = 2**25  # some 20,000 sites


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

    path: str
    rows: int
    complete: bool
    sites: tuple[SiteInfo, ...]
    classes: dict[str, int]
    attrs: Json


def read_record(place: Place) -> Json:
    """The commit record of the store at `place`: the metadata of its nodes, and how much of it counts.

    Raises:
        StoreError: there is no store, its format is newer than this version reads, or no writer of stores made it.
    """
    try:
        if place.size(RECORD) > MAX_RECORD_BYTES:
            raise ValueError(f"it is larger than {MAX_RECORD_BYTES} bytes")
        record: Json = json.loads(place.read(RECORD))
        version = int(record["attributes"]["probekit_format"])
        if version == FORMAT:
            check_record(record)
    except FileNotFoundError as error:
        raise StoreError(_absence(place)) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(_no_record(place, error)) from error
    if version != FORMAT:
        raise StoreError(
            f"{place.url} has store format {version}; this probekit reads up to {FORMAT}. Upgrade: "
            "pip install -U probekit"
        )
    return record


def read_attrs(path: str | Path) -> Json:
    """The attributes of the store at `path`, read from its commit record alone.

    Raises:
        StoreError: there is no store, or its format is newer than this version reads.
    """
    attributes: Json = read_record(place_of(path))["attributes"]
    return attributes


def _no_record(place: Place, error: Exception) -> str:
    if not place.is_folder():
        return f"{place.url} isn't a store: it is a file. A store is a folder that probekit capture made."
    reason = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
    return (
        f"{place.url} isn't a store of probekit's, or is damaged: its {RECORD} is not a commit record ({reason}). "
        "What isn't a store can't be opened; of a damaged one, put its record back from a copy, or capture it again."
    )


def _absence(place: Place) -> str:
    if not place.exists() and not place.is_folder():
        return f"There is no store at {place.url}.{near(place.url.rpartition('/')[2], place.neighbours())}"
    return f"{place.url} isn't a store: it is a folder without a {RECORD}. A store is what probekit capture makes."


def class_names(place: Place, record: Json) -> tuple[str, ...]:
    """The names of the classes that a record counts."""
    node = record["consolidated_metadata"]["metadata"].get(CLASS_NAME)
    return () if node is None else tuple(map(str, read_array(place.url, CLASS_NAME, node)))


class Columns:
    """The columns of the samples that a store holds, but for those called `but`, to compare others with."""

    def __init__(self, place: Place, but: Collection[str] = ()) -> None:
        record = read_record(place)
        nodes = record["consolidated_metadata"]["metadata"]
        self._url = place.url
        self.rows = int(record["attributes"]["rows"])
        self._names, self._but = set(record["attributes"]["coordinates"].split()), set(but)
        self._values = {name: read_array(place.url, name, nodes[name]) for name in self._names - self._but}

    def check(self, columns: Mapping[str, Array], start: int) -> None:
        """Raise DataError where `columns`, whose first sample is number `start`, aren't those of the store.

        Samples that the store doesn't hold aren't looked at.
        """
        if columns.keys() | self._but != self._names:
            given, there = (", ".join(sorted(names)) for names in (columns.keys() | self._but, self._names))
            raise DataError(f"The samples would have the columns {given}, and {self._url} has {there}.")
        for name, values in columns.items():
            theirs = self._values[name][start : start + len(values)]
            ours = values[: len(theirs)]
            same = np.array_equal(theirs, ours, equal_nan=ours.dtype.kind == "f")
            if not same:
                first = start + int(np.flatnonzero(theirs != ours)[0])
                raise DataError(
                    f"The data aren't those of {self._url}, or come in another order: {name} of sample {first} is "
                    f"{values[first - start]} and was {self._values[name][first]}. Give the same data in the same "
                    "order, without shuffling."
                )


def check_absent(place: Place) -> None:
    """Raise StoreError where a new store can't be put at `place`."""
    if place.exists():
        raise StoreError(
            f"{place.url} exists already and was left as it is. Choose another path; or pass resume=True (--resume) to "
            "go on with a capture that was stopped, or overwrite=True (--overwrite) to replace it."
        )


def open_store(path: str | Path) -> xr.DataTree:
    """The store at `path`, opened lazily: one group a site, with the samples' label and sample_id attached to each.

    ``tree["layers.0"]["activation"]`` has dims (sample, node), and coords ``label`` and ``sample_id``; class names are
    ``tree["class_name"]``. A site whose rows are tokens has dims (row, node), and its own ``label``, ``sample_id`` and
    ``position``. With dask installed, the activations are dask arrays whose chunks are the tiles. While a capture runs,
    or after one was stopped, it is the prefix that is committed. `path` may be a URL such as ``s3://bucket/acts.zarr``.

    Raises:
        StoreError: there is no store at `path`, or it has a newer format.

    Example:
        >>> tree = pk.open("acts.zarr")  # doctest: +SKIP
        >>> tree["layers.0"]["activation"].groupby("label").mean()  # doctest: +SKIP
    """
    record = read_record(place_of(path))
    attributes = record["attributes"]
    if not attributes["complete"]:
        expected = attributes.get("expected_rows", "an unknown number of")
        warnings.warn(
            f"{path} holds the first {attributes['rows']} of {expected} samples: its capture runs or was stopped.",
            stacklevel=2,
        )
    return open_tree(path, record)


def info(path: str | Path) -> StoreInfo:
    """What the store at `path` holds and how it was made.

    Raises:
        StoreError: there is no store at `path`, or it has a newer format.
    """
    place = place_of(path)
    record = read_record(place)
    attributes, tree = record["attributes"], open_tree(path, record)
    return StoreInfo(
        path=str(path),
        rows=attributes["rows"],
        complete=bool(attributes["complete"]),
        sites=tuple(_site_info(place.used(name), group) for name, group in tree.children.items()),
        classes=_classes(place, record, tree),
        attrs=attributes,
    )


def _classes(place: Place, record: Json, tree: xr.DataTree) -> dict[str, int]:
    """The number of samples of each class; nothing where the samples have no labels."""
    names = class_names(place, record)
    counts = np.zeros(len(names), np.int64)
    rows, step = tree.sizes["sample"], record["attributes"]["chunk_rows"]
    for start in range(0, rows if names else 0, step):
        labels = np.asarray(tree["label"].isel(sample=slice(start, start + step)))
        if labels.min() < 0 or labels.max() >= len(names):
            raise StoreError(
                f"{place.url} has labels from {labels.min()} to {labels.max()} among its samples {start} to "
                f"{start + len(labels) - 1}, and the names of {len(names)} classes, which no writer of a store makes."
            )
        counts += np.bincount(labels, minlength=len(names))
    found: Counter[str] = Counter()
    for name, count in zip(names, counts.tolist(), strict=True):  # a name may stand for two classes
        found[name] += count
    return dict(found)


def _site_info(used: int, group: xr.DataTree) -> SiteInfo:
    activation = group[ACTIVATION]
    return SiteInfo(
        name=group.attrs["site"],
        type=group.attrs["type"],
        dims=tuple(map(str, activation.dims)),
        shape=activation.shape,
        dtype=str(activation.dtype),
        tile=tuple(activation.encoding["chunks"]),
        bytes=used,
    )


def remove(place: Place) -> None:
    """Delete the store at `place`; nothing happens where there is nothing.

    Raises:
        StoreError: what stands there isn't a store, or is being written, and is left alone.
    """
    if place.exists():
        read_record(place)
        with place.lock():
            place.remove()
