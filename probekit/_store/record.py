"""What a store says of itself: the metadata of its nodes, and the commit record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from probekit._store import layout
from probekit._store.backend import Place
from probekit._store.codec import TileCodec
from probekit._store.layout import CLASS_NAME, CLASS_NAMES, RECORD, SAMPLES, ArraySpec, Json, Layout
from probekit.errors import StoreError

__all__ = ["class_name_tiles", "create", "dump", "lengths_of", "nodes_of", "record_of"]

_CLASS_NAMES = ArraySpec(CLASS_NAME, ("label",), (), np.dtype(np.str_), (CLASS_NAMES,))


def nodes_of(store: Layout, rows: int) -> dict[str, Json]:
    """The metadata of every node of a store but the root, by its path, at so many samples."""
    nodes: dict[str, Json] = {
        store.groups[site.name]: {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"site": site.name, **site.attrs},
        }
        for site in store.sites
    }
    for dim, arrays in store.arrays.items():
        for spec in arrays:
            nodes[spec.path] = TileCodec(spec).metadata(rows if dim == SAMPLES else 0)
    if "label" in store.sample_columns:
        nodes[CLASS_NAME] = TileCodec(_CLASS_NAMES).metadata(0)
    return nodes


def record_of(
    store: Layout, nodes: Mapping[str, Json], lengths: Mapping[str, int], class_names: Sequence[str], attrs: Json
) -> Json:
    """The commit record at these lengths of the row dimensions."""
    of_arrays = {spec.path: lengths[dim] for dim, arrays in store.arrays.items() for spec in arrays}
    attrs = {**attrs, "chunk_rows": store.chunk_rows, "token_rows": store.token_rows, "rows": lengths[SAMPLES]}
    return layout.record(nodes, lengths=of_arrays, coordinates=store.columns, class_names=class_names, attrs=attrs)


def lengths_of(store: Layout, record: Json) -> dict[str, int]:
    """The lengths of the row dimensions that a record says are committed."""
    nodes = record["consolidated_metadata"]["metadata"]
    return {dim: nodes[arrays[0].path]["shape"][0] for dim, arrays in store.arrays.items()}


def class_name_tiles(names: Sequence[str]) -> list[tuple[str, list[bytes]]]:
    """The tiles that hold the names of the classes, each with its path."""
    codec = TileCodec(_CLASS_NAMES)
    tiles = []
    for first in range(0, len(names), CLASS_NAMES):
        part = names[first : first + CLASS_NAMES]
        tile = np.array([*part, *[""] * (CLASS_NAMES - len(part))], object)
        tiles.append((codec.spec.key(first // CLASS_NAMES, 0), [bytes(each) for each in codec.encode(tile)]))
    return tiles


def create(place: Place, store: Layout, attrs: Json, rows: int) -> dict[str, Json]:
    """Lay a new store out at `place`, for as many samples as are expected; the metadata of its nodes.

    Raises:
        StoreError: a site or a column can't have its name, or the place refuses.
    """
    layout.check_columns(store.columns)
    nodes = nodes_of(store, rows)
    record = record_of(store, nodes, dict.fromkeys(store.arrays, 0), (), {**attrs, "complete": 0})
    try:
        place.create({**{f"{path}/{RECORD}": dump(node) for path, node in nodes.items()}, RECORD: dump(record)})
    except OSError as error:
        raise StoreError(f"{place.url} can't be created: {error.strerror or error}.") from error
    return nodes


def dump(content: Json) -> bytes:
    return json.dumps(content).encode()
