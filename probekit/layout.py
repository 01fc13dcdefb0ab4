"""The store's layout on disk: names of groups, tiles, the arrays' metadata, and the commit record.

Rows become real when the root ``zarr.json`` is replaced: it carries the metadata of every array inline, with the
committed lengths as their shapes. Readers see exactly that prefix, whenever the writer stops.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from probekit.errors import StoreError

__all__ = [
    "ACTIVATION",
    "FORMAT",
    "Json",
    "SiteSpec",
    "check_columns",
    "create",
    "group_names",
    "open_for_writing",
    "record",
    "replace",
]

FORMAT = 1
ACTIVATION = "activation"
TILE_BYTES = 4 * 2**20
CLASS_NAME = "class_name"
ROOT_VARIABLES = ("label", "sample_id", CLASS_NAME)  # no site's group may be called like one
MAX_NAME_BYTES = 200

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class SiteSpec:
    """One site of a store: its name, the dims and the shape of one sample, the dtype on disk, attributes."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes_per_sample(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def group_names(sites: Sequence[str], columns: Iterable[str] = ()) -> dict[str, str]:
    """The name of each site's group: the site's own, with what a path or a root variable could mistake encoded.

    Raises:
        StoreError: two names differ in case only, which some file systems can't keep apart.
    """
    reserved = {*ROOT_VARIABLES, *columns, "zarr.json"}
    groups = {site: _encode(site, reserved) for site in sites}
    owner: dict[str, str] = {}
    for site, group in groups.items():
        other = owner.setdefault(group.casefold(), site)
        if other != site:
            raise StoreError(f"The sites {other!r} and {site!r} differ in case only; capture them into two stores.")
    return groups


def check_columns(columns: Iterable[str]) -> None:
    """Raise StoreError for a column whose name can't be a variable of the root."""
    for name in columns:
        if not name.isidentifier() or name in (CLASS_NAME, "sample"):
            raise StoreError(f"A column can't be called {name!r}: name it like a Python variable, such as 'split'.")


def _encode(site: str, reserved_names: Collection[str]) -> str:
    text = re.sub(r"[/\\%\x00-\x1f\x7f]", lambda found: _percent(found[0]), site)
    reserved = text.startswith("__") or not text.strip(".") or text in reserved_names
    text = _percent(text[0]) + text[1:] if reserved and text else text
    if len(text.encode()) <= MAX_NAME_BYTES:
        return text
    digest = hashlib.sha256(site.encode()).hexdigest()[:32]
    return f"{text.encode()[:160].decode(errors='ignore')}%{digest}"


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


def create(
    folder: Path, sites: Sequence[SiteSpec], columns: Mapping[str, np.dtype[Any]], *, chunk_rows: int, rows: int
) -> dict[str, Json]:
    """Lay out the arrays of a new store in `folder`; the metadata of every node but the root, by its path."""
    root = zarr.open_group(folder, mode="w", zarr_format=3)
    groups = group_names([spec.name for spec in sites], columns)
    for spec in sites:
        group = root.create_group(groups[spec.name], attributes={"site": spec.name, **spec.attrs})
        _create_site(group, spec, chunk_rows, rows)
    for column, dtype in columns.items():
        _create_array(root, column, (rows,), (chunk_rows,), dtype, ("sample",))
    if "label" in columns:
        root.create_array(CLASS_NAME, shape=(0,), chunks=(1024,), dtype=str, dimension_names=("label",))
    files = sorted(folder.glob("**/zarr.json"))
    return {
        str(file.parent.relative_to(folder).as_posix()): json.loads(file.read_bytes())
        for file in files
        if file.parent != folder
    }


def _create_site(group: zarr.Group, spec: SiteSpec, chunk_rows: int, rows: int) -> None:
    tile = (chunk_rows, *tile_shape(spec, chunk_rows))
    _create_array(group, ACTIVATION, (rows, *spec.shape), tile, spec.dtype, ("sample", *spec.dims))


def tile_shape(spec: SiteSpec, chunk_rows: int) -> tuple[int, ...]:
    """The shape of a tile after its rows: as many nodes as make a few MB; other axes whole.

    The node is the last axis, or the channel of a feature map, as `dims` say.
    """
    if not spec.shape:
        return ()
    axis = node_axis(spec.dims)
    node_bytes = max(1, chunk_rows * spec.bytes_per_sample // max(1, spec.shape[axis]))
    shape = [max(1, length) for length in spec.shape]
    columns = math.ceil(shape[axis] / max(1, TILE_BYTES // node_bytes))
    shape[axis] = math.ceil(shape[axis] / columns)  # even ones, so that threads have equal work
    return tuple(shape)


def node_axis(dims: Sequence[str]) -> int:
    """Which of a sample's axes counts the nodes: ``channel`` where there is one, else the last."""
    return dims.index("channel") if "channel" in dims else len(dims) - 1


def _create_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: np.dtype[Any],
    dims: tuple[str, ...],
) -> None:
    text = dtype.kind == "U"
    group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype=str if text else dtype,  # strings of any length, which fixed-width ones are cut to
        dimension_names=dims,
        compressors=[Crc32cCodec()],
        filters=None,
        fill_value="" if text else np.zeros((), dtype)[()],
    )


def open_for_writing(path: Path) -> zarr.Array[Any]:
    # A tile of zeros is stored like any other, so that a missing file always means a missing tile. The setting belongs
    # to the array as opened; open_array's own `config` applies to arrays that it creates.
    with zarr.config.set({"array.write_empty_chunks": True}):
        return zarr.open_array(path, mode="r+", zarr_format=3)


def write_class_names(folder: Path, names: Sequence[str]) -> None:
    array = open_for_writing(folder / CLASS_NAME)
    array.resize((len(names),))
    array[:] = np.array(names, dtype=object)


def record(
    nodes: Mapping[str, Json], *, rows: int, columns: Collection[str], class_names: Sequence[str], attrs: Json
) -> Json:
    """The root's metadata: `nodes` inline with their shapes at `rows` samples, and the store's attributes."""
    inline = {path: _at_length(node, rows) for path, node in nodes.items()}
    if "label" in columns:
        inline[CLASS_NAME]["shape"] = [len(class_names)]
        inline["label"]["attributes"] = {
            "flag_values": list(range(len(class_names))),
            "flag_meanings": " ".join(re.sub(r"\s+", "_", name) or "_" for name in class_names),
        }
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"probekit_format": FORMAT, **attrs, "rows": rows, "coordinates": " ".join(columns)},
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": inline},
    }


def _at_length(node: Json, rows: int) -> Json:
    return {**node, "shape": [rows, *node["shape"][1:]]} if node["node_type"] == "array" else node


def replace(path: Path, content: Json) -> None:
    """Put `content` as JSON in the place of `path`, so that a reader sees the old or the new and nothing between."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content))
    os.replace(partial, path)
