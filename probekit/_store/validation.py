"""Whether a record describes what a writer of stores makes: the one module where a store of unknown origin is judged.

Everything that opens, reads, verifies or resumes a store starts from a record that has passed here, so that no
name leads out of the store, no codec but four is looked up, and no length is believed that would fill the memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from probekit._store.layout import (
    ACTIVATION,
    CHECKSUM_BYTES,
    CLASS_NAME,
    INPUTS,
    MASK,
    POSITION,
    ROW,
    SAMPLE,
    TEXTS,
    TOKEN_COLUMNS,
    ArraySpec,
    Json,
)

__all__ = ["check_record", "spec_of", "specs_of"]

MAX_CHUNK_BYTES = 2**31  # what reading one value may take; a writer's chunks are far below
MAX_CHUNK_ROWS = 2**20  # of one array
MAX_CHUNKS = 2**24  # of a store: each is a file
MAX_NAME = 4096  # characters of a site's name
MAX_AXES = 32  # numpy's bound, less what its users add

_NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_DTYPES = {name: np.dtype(name) for name in ("bool", *_NUMBERS, "float16", "float32", "float64")}
_DTYPES |= {"complex64": np.dtype("complex64"), "complex128": np.dtype("complex128"), "string": np.dtype(np.str_)}
_CODECS = (("bytes", "crc32c"), ("bytes", "blosc", "crc32c"))
_TEXT_CODECS = (("vlen-utf8", "crc32c"),)
_KEYS = ({"name": "default", "configuration": {"separator": "/"}}, {"name": "default"})


def check_record(record: Any, checksums: Mapping[str, bytes]) -> None:
    """Raise ValueError, saying what is wrong, for a record that no writer of stores makes.

    `checksums` are those of the chunks that the record has.
    """
    attributes, nodes = record["attributes"], record["consolidated_metadata"]["metadata"]
    rows, coordinates = attributes["rows"], attributes["coordinates"]
    _require(_is_count(rows), f"rows is {rows!r}")
    _require(attributes["complete"] in (0, 1), f"complete is {attributes['complete']!r}")
    _require(isinstance(coordinates, str), f"coordinates is {coordinates!r}")
    _require(_is_count(attributes["chunk_rows"], 1), f"chunk_rows is {attributes['chunk_rows']!r}")
    _require(_is_count(attributes["token_rows"], 1), f"token_rows is {attributes['token_rows']!r}")
    for key in ("start", "batch_size", *({"expected_rows"} & attributes.keys())):
        _require(_is_count(attributes[key]), f"{key} is {attributes[key]!r}")
    sites = attributes["sites"]
    _require(isinstance(sites, list) and all(isinstance(site, str) for site in sites), f"sites is {sites!r}")
    for path, node in nodes.items():
        _check_path(path)
        _require(isinstance(node["attributes"], dict), f"the attributes of {path!r} are no object")
        _check_node(path, node)
    _require(len({path.casefold() for path in nodes}) == len(nodes), "names of nodes differ in case only")
    arrays = specs_of(nodes)
    _check_columns(coordinates.split(), rows, arrays, nodes)
    _check_sites(rows, arrays, nodes)
    for path, spec in arrays.items():
        rows_per_chunk = attributes["token_rows" if spec.dims[0] == ROW else "chunk_rows"]
        _require(path == CLASS_NAME or spec.chunk[0] == rows_per_chunk, f"chunks of {path!r} have {spec.chunk[0]} rows")
    chunks = 0
    for path, spec in arrays.items():
        length = nodes[path]["shape"][0]
        in_rows = math.ceil(length / spec.chunk[0])
        _require(in_rows <= MAX_CHUNK_ROWS, f"{path!r} has {in_rows} chunk rows")
        chunks += in_rows * spec.across
    _require(chunks <= MAX_CHUNKS, f"there are {chunks} chunks")
    _require(checksums.keys() <= arrays.keys(), "there are checksums of arrays that there aren't")
    for path, of_array in checksums.items():
        spec, row_bytes = arrays[path], arrays[path].across * CHECKSUM_BYTES
        most = math.ceil(nodes[path]["shape"][0] / spec.chunk[0]) * row_bytes
        fits = len(of_array) % row_bytes == 0 and len(of_array) <= most
        _require(fits, f"{path!r} has checksums of {len(of_array)} bytes")


def specs_of(nodes: Mapping[str, Json]) -> dict[str, ArraySpec]:
    """The arrays among the nodes of a store, by their paths."""
    return {path: spec_of(path, node) for path, node in nodes.items() if node["node_type"] == "array"}


def spec_of(path: str, node: Json) -> ArraySpec:
    """The array that a node's metadata describe."""
    codecs = [codec["name"] for codec in node["codecs"]]
    return ArraySpec(
        path,
        tuple(node["dimension_names"]),
        tuple(node["shape"][1:]),
        _DTYPES[node["data_type"]],
        tuple(node["chunk_grid"]["configuration"]["chunk_shape"]),
        "blosc" if "blosc" in codecs else None,
    )


def _require(sound: bool, fault: str) -> None:
    if not sound:
        raise ValueError(fault if len(fault) < 300 else f"{fault[:300]}…")


def _is_count(value: object, least: int = 0) -> bool:
    return type(value) is int and least <= value < 2**62


def _check_path(path: str) -> None:
    parts = path.split("/")
    plain = all(part.strip(".") and not any(ord(c) < 32 or c in "\\\x7f" for c in part) for part in parts)
    short = all(len(part.encode()) < 256 for part in parts)
    _require(plain and short and len(parts) <= 2, f"there is a node {path!r}")


def _check_node(path: str, node: Json) -> None:
    if node["node_type"] == "group":
        for key in ("site", "type"):
            value = node["attributes"][key]
            name = isinstance(value, str) and len(value) <= MAX_NAME
            _require("/" not in path and name, f"the attribute {key} of {path!r} is {value!r}")
        return
    _require(node["node_type"] == "array", f"{path!r} is {node['node_type']!r}, neither a group nor an array")
    shape, dims, grid = node["shape"], node["dimension_names"], node["chunk_grid"]
    chunk = grid["configuration"]["chunk_shape"]
    _require(0 < len(shape) <= MAX_AXES and all(map(_is_count, shape)), f"the shape of {path!r} is {shape!r}")
    regular = grid["name"] == "regular" and len(chunk) == len(shape) and all(_is_count(part, 1) for part in chunk)
    _require(regular, f"the chunks of {path!r} are {grid!r}")
    split = sum(length > part for length, part in zip(shape[1:], chunk[1:], strict=True))
    _require(split <= 1, f"the chunks of {path!r} part more than one axis")
    names = len(dims) == len(shape) == len(set(dims)) and all(isinstance(dim, str) and dim for dim in dims)
    _require(names and path.rpartition("/")[2] not in dims, f"the dims of {path!r} are {dims!r}")
    _check_coding(path, node)
    size = math.prod(chunk) * max(1, _DTYPES[node["data_type"]].itemsize)
    _require(size <= MAX_CHUNK_BYTES, f"a chunk of {path!r} takes {size} bytes")


def _check_coding(path: str, node: Json) -> None:
    text = node["data_type"] == "string"
    _require(node["data_type"] in _DTYPES, f"the data_type of {path!r} is {node['data_type']!r}")
    codecs = tuple(codec["name"] for codec in node["codecs"])
    _require(codecs in (_TEXT_CODECS if text else _CODECS), f"the codecs of {path!r} are {codecs}")
    _require(node["fill_value"] in (0, "", [0, 0]), f"the fill value of {path!r} is {node['fill_value']!r}")
    keys, others = node["chunk_key_encoding"], node.get("storage_transformers") or []
    _require(keys in _KEYS and not others, f"the chunks of {path!r} are named by {keys!r} and {others!r}")


def _check_columns(
    coordinates: list[str], rows: int, arrays: Mapping[str, ArraySpec], nodes: Mapping[str, Json]
) -> None:
    """The arrays at the root are the columns of the samples, and the names of the classes."""
    at_root = [path for path in arrays if "/" not in path]
    _require("sample_id" in coordinates, f"coordinates is {' '.join(coordinates)!r}, without sample_id")
    others = {CLASS_NAME, INPUTS} & arrays.keys()
    _require(sorted([*coordinates, *others]) == sorted(at_root), f"the root has {at_root}")
    for name in [*coordinates, *({INPUTS} & others)]:
        _require(arrays[name].dims == (SAMPLE,) and nodes[name]["shape"] == [rows], f"{name!r} has not {rows} rows")
    _require(("label" in coordinates) == (CLASS_NAME in arrays), "there are labels without class names, or names alone")
    if CLASS_NAME in arrays:
        flags = nodes["label"]["attributes"].get("flag_values", [])  # as many in number, so that both are of a size
        _require(nodes[CLASS_NAME]["shape"] == [len(flags)], f"{CLASS_NAME!r} has not one name for each of flag_values")
        kinds = (arrays["label"].dtype.kind, arrays[CLASS_NAME].dtype.kind)
        _require(kinds == ("i", "U"), f"'label' and {CLASS_NAME!r} are not integers and strings")


def _check_sites(rows: int, arrays: Mapping[str, ArraySpec], nodes: Mapping[str, Json]) -> None:
    groups: dict[str, list[str]] = {path: [] for path, node in nodes.items() if node["node_type"] == "group"}
    for path in arrays:
        group, _, name = path.rpartition("/")
        if group:
            _require(group in groups, f"{path!r} lies in no group")
            groups[group].append(name)
    for group, names in groups.items():
        _check_site(group, names, rows, arrays, nodes)


def _check_site(
    group: str, names: Iterable[str], rows: int, arrays: Mapping[str, ArraySpec], nodes: Mapping[str, Json]
) -> None:
    own = [name for name in names if name not in (ACTIVATION, MASK)]
    path = f"{group}/{ACTIVATION}"
    _require(path in arrays, f"{group!r} has no {ACTIVATION}")
    length, dim = nodes[path]["shape"][0], ROW if own else SAMPLE
    _require(arrays[path].dims[0] == dim, f"the dims of {path!r} are {arrays[path].dims}, with columns {own}")
    _require(bool(own) or length == rows, f"{path!r} has {length} rows of {rows}")
    columns = {name for name, spec in arrays.items() if spec.dims == (SAMPLE,) and "/" not in name and name != INPUTS}
    expected = {*columns, POSITION}.difference(TEXTS)
    if MASK in names:
        _check_mask(group, rows, arrays, nodes)
    more = {*TOKEN_COLUMNS, *columns.intersection(TEXTS)}
    _require(not own or expected <= set(own) <= expected | more, f"{group!r} has {own}")
    for name in own:
        of_rows = arrays[f"{group}/{name}"].dims == (ROW,) and nodes[f"{group}/{name}"]["shape"] == [length]
        _require(of_rows, f"{group}/{name} has not {length} rows")


def _check_mask(group: str, rows: int, arrays: Mapping[str, ArraySpec], nodes: Mapping[str, Json]) -> None:
    activation, mask = arrays[f"{group}/{ACTIVATION}"], arrays[f"{group}/{MASK}"]
    positions = [length for dim, length in zip(activation.dims[1:], activation.shape, strict=True) if dim in mask.dims]
    sound = mask.dtype.kind == "b" and nodes[mask.path]["shape"] == [rows, *positions] and len(mask.dims) == 2
    _require(sound, f"{mask.path!r} doesn't fit its activation")
