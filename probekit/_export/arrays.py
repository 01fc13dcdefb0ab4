"""A folder for each site, with its numbers as arrays, of numpy or safetensors, and its texts as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from probekit._export.site_rows import Column, SiteRows
from probekit._store.layout import ACTIVATION, CLASS_NAME
from probekit.errors import DataError

__all__ = ["write_npy", "write_safetensors"]

ABOUT = "about.json"
_ALIGNED = 8  # bytes, at a multiple of which safetensors has its numbers begin
_DTYPES = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
}


def write_npy(rows: SiteRows, folder: Path) -> Iterator[None]:
    """Write ``SITE/COLUMN.npy`` for each column of numbers; yields whenever it has read some activations."""
    place = _folder(rows, folder)
    for name, column in _numbers(rows).items():
        with open(place / f"{name}.npy", "wb") as file:
            about = {"descr": column.dtype.str, "fortran_order": False, "shape": column.shape}
            np.lib.format.write_array_header_2_0(file, about)
            yield from _written(name, column, rows, file)


def write_safetensors(rows: SiteRows, folder: Path) -> Iterator[None]:
    """Write ``SITE/rows.safetensors`` with all columns of numbers; yields whenever it has read some activations.

    The library writes only what is in memory as a whole. Its format is a header, and the values of one tensor after
    the other.
    """
    place, numbers, header, end = _folder(rows, folder), _numbers(rows), {}, 0
    for name, column in numbers.items():
        start, end = end, end + int(np.prod(column.shape, dtype=object)) * column.dtype.itemsize
        header[name] = {"dtype": _dtype(name, column), "shape": column.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNED)
    with open(place / "rows.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, column in numbers.items():
            yield from _written(name, column, rows, file)


def _folder(rows: SiteRows, folder: Path) -> Path:
    """The folder of a site, with all that isn't numbers."""
    place = folder / rows.key
    place.mkdir()
    (place / ABOUT).write_text(_json(rows.about), encoding="utf-8")
    if rows.class_names is not None:
        (place / f"{CLASS_NAME}.json").write_text(_json(rows.class_names), encoding="utf-8")
    for name, column in rows.columns.items():
        if column.is_text:
            with open(place / f"{name}.json", "w", encoding="utf-8") as file:
                texts = (text for batch in column.batches(rows.rows) for text in batch.tolist())
                file.write(f"[{next(map(_json, texts), '')}")
                file.writelines(f",\n{_json(text)}" for text in texts)
                file.write("]")
    return place


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _numbers(rows: SiteRows) -> dict[str, Column]:
    """The columns of numbers, the widest first, so that each tensor of a file begins at a multiple of its width."""
    numbers = {name: column for name, column in rows.columns.items() if not column.is_text}
    return dict(sorted(numbers.items(), key=lambda each: -each[1].dtype.itemsize))


def _written(name: str, column: Column, rows: SiteRows, file: BinaryIO) -> Iterator[None]:
    for batch in column.batches(rows.rows):
        file.write(np.ascontiguousarray(batch).data)
        if name == ACTIVATION:
            yield


def _dtype(name: str, column: Column) -> str:
    if column.dtype.name not in _DTYPES:
        raise DataError(f"The column {name!r} holds {column.dtype}, which safetensors doesn't know. Export to npy.")
    return _DTYPES[column.dtype.name]
