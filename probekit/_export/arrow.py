"""A table for each site: parquet, and Hugging Face data sets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from probekit._export.site_rows import SiteRows
from probekit._store.codec import Array
from probekit._store.layout import CLASS_NAME
from probekit.load.packages import extra

__all__ = ["finish_datasets", "write_datasets", "write_parquet"]

ABOUT = "probekit"  # in the metadata of a schema
_TABLE = ".table"  # ends the name of what is to become a data set


def write_parquet(rows: SiteRows, folder: Path) -> Iterator[None]:
    """Write ``SITE.parquet``; yields whenever it has read some rows."""
    extra("pyarrow")  # which says what to do where it is missing
    parquet = import_module("pyarrow.parquet")
    schema = _schema(rows).with_metadata({ABOUT: json.dumps(rows.about, default=str)})
    with parquet.ParquetWriter(folder / f"{rows.key}.parquet", schema) as file:
        for batch in _record_batches(rows, schema):
            file.write_batch(batch)
            yield


def write_datasets(rows: SiteRows, folder: Path) -> Iterator[None]:
    """Write a table that `finish_datasets` makes a data set of; yields whenever it has read some rows."""
    features = extra("datasets").Features.from_arrow_schema(_schema(rows))
    if rows.class_names is not None and len({*rows.class_names}) == len(rows.class_names):
        features["label"] = extra("datasets").ClassLabel(names=list(rows.class_names))
    schema = features.arrow_schema
    with extra("pyarrow").ipc.new_stream(folder / f"{rows.key}{_TABLE}", schema) as file:
        for batch in _record_batches(rows, schema):
            file.write_batch(batch)
            yield


def finish_datasets(tables: Sequence[SiteRows], folder: Path) -> None:
    """Make a data set of each table: ``datasets.load_from_disk`` of the folder gives them all, by site."""
    datasets = extra("datasets")
    files = {rows.key: folder / f"{rows.key}{_TABLE}" for rows in tables}
    found = {rows.key: datasets.Dataset.from_file(str(files[rows.key])) for rows in tables}
    for rows in tables:
        found[rows.key].info.description = json.dumps(rows.about, default=str)
    with _quiet(datasets):
        datasets.DatasetDict(found).save_to_disk(folder)
    for file in files.values():
        file.unlink()


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Without the bars of `datasets`, which it draws of its own accord."""
    drawn = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if drawn:
            datasets.enable_progress_bars()


def _schema(rows: SiteRows) -> Any:
    """The columns' names and types: an array in a row is a list of fixed length, or of such lists."""
    pa = extra("pyarrow")
    fields = {}
    for name, column in rows.columns.items():
        kind = pa.string() if column.is_text else pa.from_numpy_dtype(column.dtype)
        for length in reversed(column.shape[1:]):
            kind = pa.list_(kind, length)
        fields[name] = kind
        if name == "label" and rows.class_names is not None:
            fields[CLASS_NAME] = pa.string()
    return pa.schema(fields.items())


def _record_batches(rows: SiteRows, schema: Any) -> Iterator[Any]:
    pa = extra("pyarrow")
    for values in zip(*(column.batches(rows.rows) for column in rows.columns.values()), strict=True):
        batch = dict(zip(rows.columns, values, strict=True))
        if CLASS_NAME in schema.names and rows.class_names is not None:
            batch[CLASS_NAME] = _names(batch["label"], rows.class_names)
        arrays = [_arrow(batch[field.name], field.type) for field in schema]
        yield pa.record_batch(arrays, schema=schema)


def _names(codes: Array, names: Sequence[str]) -> Array:
    """The name of each code; None of one that no class has."""
    known = (codes >= 0) & (codes < len(names)) & (codes % 1 == 0)
    found = np.full(len(codes), None, object)
    found[known] = np.array(names, object)[codes[known].astype(np.int64)]
    return found


def _arrow(values: Array, kind: Any) -> Any:
    pa = extra("pyarrow")
    if values.ndim == 1:
        return pa.array(values.astype(object) if values.dtype.kind in "UT" else values, kind)
    item = kind
    for _ in values.shape[1:]:
        item = item.value_type
    found = pa.array(values.reshape(-1), item)
    for length in reversed(values.shape[1:]):
        found = pa.FixedSizeListArray.from_arrays(found, length)
    return found
