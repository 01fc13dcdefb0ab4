"""Opening a store, and what it holds."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from probekit._store.backend import Backend, backend_of
from probekit._store.consolidation import is_suspect, restored
from probekit._store.layout import (
    ACTIVATION,
    CLASS_NAME,
    FORMAT,
    MARKERS,
    MAX_RECORD_BYTES,
    RECORD,
    Json,
    Layout,
    check_columns,
    group_names,
)
from probekit._store.lazy_array import open_tree, read_array
from probekit._store.leftovers import own_nodes, remove_node
from probekit._store.record import CommitRecord, dump, nodes_of
from probekit._store.store_info import SiteInfo, StoreInfo
from probekit.errors import StoreError, near, upgrade_command

__all__ = [
    "are_of_results",
    "check_absent",
    "check_layout",
    "check_replaceable",
    "class_names",
    "create",
    "info",
    "lay_out",
    "open_record",
    "open_store",
    "read_attrs",
    "read_record",
    "require_record",
    "root_attributes",
]


_FAULTS = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)  # of what no writer makes


def read_record(backend: Backend) -> CommitRecord:
    """The commit record of the store at `backend`: the metadata of its nodes, and how much of it counts.

    Raises:
        StoreError: there is no store, its format is newer than this version reads, or no writer of stores made it.
    """
    try:
        record = _parsed(backend, backend.read(RECORD, MAX_RECORD_BYTES))
    except FileNotFoundError as error:
        raise StoreError(_absence(backend)) from error
    except _FAULTS as error:
        raise StoreError(_no_record(backend, error)) from error
    if not 1 <= record.format <= FORMAT:
        raise StoreError(
            f"{backend.url} has store format {record.format}; this probekit reads up to {FORMAT}. Upgrade: "
            f"{upgrade_command()}."
        )
    return record


def _parsed(backend: Backend, content: bytes) -> CommitRecord:
    """The record that a root ``zarr.json`` holds, or over which zarr has written it."""
    try:
        record = CommitRecord.parse(content)
    except _FAULTS as fault:
        try:
            return restored(backend, content)
        except _FAULTS:
            raise fault from None
    return restored(backend, content) if record.format == 1 and is_suspect(record) else record


def read_attrs(path: str | Path) -> Json:
    """The attributes of the store at `path`, read from its commit record alone.

    Raises:
        StoreError: there is no store, or its format is newer than this version reads.
    """
    return read_record(backend_of(path)).attributes


def _no_record(backend: Backend, error: Exception) -> str:
    if not backend.is_folder():
        return f"{backend.url} isn't a store: it is a file. A store is a folder that `probekit capture` wrote."
    if not isinstance(error, OSError) and are_of_results(root_attributes(backend)):
        return (
            f"{backend.url} isn't a store: it holds results of `probekit measure --out`. Give the store that was "
            "measured. `probekit info`, plot and report take results; in Python, "
            f"xarray.open_datatree({backend.url!r}, engine='zarr') opens them."
        )
    reason = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
    return (
        f"{backend.url} isn't a store of probekit's, or is damaged: its {RECORD} is not a commit record ({reason}). "
        "If it is a damaged store, put its record back from a copy, or capture it again with overwrite=True."
    )


def root_attributes(backend: Backend) -> Mapping[str, object]:
    """The attributes of a zarr store's root; none where what lies there isn't JSON of zarr's."""
    try:
        found = json.loads(backend.read(RECORD, MAX_RECORD_BYTES))["attributes"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def are_of_results(attributes: Mapping[Any, Any]) -> bool:
    """Whether a root with these attributes holds results rather than a store or anything else."""
    return "by" in attributes and "probekit_format" not in attributes


def _absence(backend: Backend) -> str:
    if not backend.exists() and not backend.is_folder():
        return f"There is no store at {backend.url}.{near(backend.url.rpartition('/')[2], backend.neighbours())}"
    if not backend.is_folder():
        return f"{backend.url} isn't a store: it is a link to what isn't there, or nothing that can be opened."
    return f"{backend.url} isn't a store: it is a folder without a {RECORD}. A store is what `probekit capture` writes."


def class_names(backend: Backend, record: CommitRecord) -> tuple[str, ...]:
    """The names of the classes that a record counts."""
    node = record.nodes.get(CLASS_NAME)
    return () if node is None else tuple(map(str, read_array(backend, record, CLASS_NAME)))


def require_record(backend: Backend) -> None:
    """Raise StoreError where there is no commit record, without a look at what it says."""
    try:
        backend.size(RECORD)
    except OSError as error:
        nothing = isinstance(error, FileNotFoundError) and (backend.is_folder() or not backend.exists())
        raise StoreError(_absence(backend) if nothing else _no_record(backend, error)) from error


def check_absent(backend: Backend) -> None:
    """Raise StoreError where a new store can't be put at `backend`."""
    if backend.exists():
        raise StoreError(
            f"{backend.url} exists already and was left as it is. Choose another path; or pass resume=True to resume "
            "a capture that was stopped, or overwrite=True to replace it.",
            arguments=("resume", "overwrite"),
        )


def open_store(path: str | Path) -> xr.DataTree:
    """The store at `path`, opened lazily: one group a site, with the samples' label and sample_id attached to each.

    ``tree["layers.0"]["activation"]`` has dims (sample, node), and coords ``label`` and ``sample_id``; class names are
    ``tree["class_name"]``. A site whose rows are tokens has dims (row, node), and its own ``label``, ``sample_id`` and
    ``position``. With dask installed, the activations are dask arrays of the same chunks. While a capture runs, or
    after one was stopped, it is the prefix that is committed. `path` may be a URL such as ``s3://bucket/acts.zarr``.

    Raises:
        StoreError: there is no store at `path`, or it has a newer format.

    Example:
        >>> tree = pk.open("acts.zarr")  # doctest: +SKIP
        >>> tree["layers.0"]["activation"].groupby("label").mean()  # doctest: +SKIP
    """
    backend = backend_of(path)
    return open_record(backend, read_record(backend))


def open_record(backend: Backend, record: CommitRecord) -> xr.DataTree:
    """The store at `backend`, whose record has been read, as `open_store` gives it; warns where it isn't complete."""
    if not record.complete:
        expected = "an unknown number of" if record.expected_rows is None else record.expected_rows
        warnings.warn(
            f"{backend.url} holds the first {record.rows} of {expected} samples: its capture is running or was "
            "stopped.",
            stacklevel=3,
        )
    return open_tree(backend, record)


def info(path: str | Path) -> StoreInfo:
    """The contents of the store at `path`, and how it was made.

    Raises:
        StoreError: there is no store at `path`, or it has a newer format.
    """
    backend = backend_of(path)
    record = read_record(backend)
    tree = open_tree(backend, record)
    return StoreInfo(
        path=str(path),
        rows=record.rows,
        complete=record.complete,
        sites=tuple(_site_info(backend.used(name), group) for name, group in tree.children.items()),
        classes=_classes(backend, record, tree),
        attrs=record.attributes,
        accuracy=_accuracy(backend, record),
    )


def _accuracy(backend: Backend, record: CommitRecord) -> float | None:
    names = ("prediction", "label")
    if not record.rows or not {*names} <= {*record.columns}:
        return None
    predicted, labels = (read_array(backend, record, name) for name in names)
    return float((predicted == labels).mean())


def _classes(backend: Backend, record: CommitRecord, tree: xr.DataTree) -> dict[str, int]:
    """The number of samples of each class; nothing where the samples have no labels."""
    names = class_names(backend, record)
    counts = np.zeros(len(names), np.int64)
    rows, step = tree.sizes["sample"], record.rows_per_chunk
    for start in range(0, rows if names else 0, step):
        labels = np.asarray(tree["label"].isel(sample=slice(start, start + step)))
        if labels.min() < 0 or labels.max() >= len(names):
            raise StoreError(
                f"{backend.url} has labels from {labels.min()} to {labels.max()} among its samples {start} to "
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
        chunk=tuple(activation.encoding["chunks"]),
        bytes=used,
        kept=_kept(group.attrs),
    )


def _kept(attrs: Mapping[Any, Any]) -> dict[str, str]:
    kept = {name: str(attrs[name]) for name in ("reduce", "mask") if name in attrs}
    if kept.get("reduce", "none") != "none":
        steps = json.loads(kept["reduce"])
        kept["reduce"] = ", ".join(step if isinstance(step, str) else json.dumps(step) for step in steps)
    if "node_dim" in attrs:
        kept["node_dim"] = f"{attrs['node_dim']}, known by {attrs['node_dim_from']}"
    return kept


def check_layout(layout: Layout) -> None:
    """Raise StoreError where a site or a column can't have its name in a store."""
    check_columns(layout.columns)
    for site in layout.sites:
        if both := layout.columns.keys() & {*site.token_columns}:
            raise StoreError(
                f"A column can't be called {min(both)!r}, as {site.name} calls what is known of its tokens. Give it "
                "another name.",
                arguments=("columns",),
            )
    group_names([site.name for site in layout.sites], layout.columns)


def create(backend: Backend, layout: Layout, attrs: Json, rows: int, *, replace: bool) -> dict[str, Json]:
    """Lay a new store out, for as many samples as are expected; the metadata of its nodes but the root.

    With `replace`, a store that is already there, and locked, makes way: readers see it until they see the new one,
    which has no samples yet. What isn't the old store's stays.

    Raises:
        StoreError: a site or a column can't have its name, or the backend refuses.
    """
    check_layout(layout)
    nodes = nodes_of(layout, rows)
    record = CommitRecord.of(layout, nodes, dict.fromkeys(layout.arrays, 0), (), {**attrs, "complete": 0}, {})
    try:
        if replace:
            backend.commit(RECORD, record.dump())
            lay_out(backend, nodes)
        else:
            backend.create({**_metadata_files(nodes), RECORD: record.dump()})
    except OSError as error:
        raise StoreError(f"{backend.url} can't be created: {error.strerror or error}.") from error
    return nodes


def lay_out(backend: Backend, nodes: Mapping[str, Json]) -> None:
    """Remove all that a store has but its record, which counts no sample, and write the metadata of its `nodes`.

    Of a store that another one has replaced, chunks would be in the way.
    """
    for name in {*own_nodes(backend), *(path.partition("/")[0] for path in nodes)}:
        remove_node(backend, name)
    backend.delete(MARKERS)
    backend.make_room(f"{path}/c" for path, node in nodes.items() if node["node_type"] == "array")
    for path, content in _metadata_files(nodes).items():
        backend.write(path, [content])


def _metadata_files(nodes: Mapping[str, Json]) -> dict[str, bytes]:
    return {f"{path}/{RECORD}": dump(node) for path, node in nodes.items()}


def check_replaceable(backend: Backend) -> None:
    """Raise StoreError where something stands at `backend` that isn't a store, whole or damaged."""
    if not backend.exists():
        return
    try:
        read_record(backend)
    except StoreError:
        try:
            content = backend.read(RECORD, MAX_RECORD_BYTES)
        except OSError:
            content = b""
        if not any(f'"probekit_format": {version}'.encode() in content for version in range(1, FORMAT + 1)):
            raise
