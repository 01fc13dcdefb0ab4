"""A table of a page: any tabular data as headings and rows of cells, each with its text and its style."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from numbers import Integral
from typing import NamedTuple, TypeAlias

import pandas as pd
import xarray as xr

from probekit._table import is_missing, is_number, rows_of, shown
from probekit.errors import DataError, check_kind

__all__ = ["TONES", "Cells", "Formats", "Tabular", "cells_of"]

Tabular: TypeAlias = pd.DataFrame | xr.DataArray | xr.Dataset | Sequence[Mapping[str, object]]
Formats: TypeAlias = Mapping[Hashable, str] | str

TONES = ("good", "bad", "neutral")
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]\d+)?")  # a text that a script reads as the number it is
_LONG = 40  # characters from which a cell is prose, and gets room to wrap


class Heading(NamedTuple):
    """A cell of the head, above so many `columns`; its `kind` is a class of the style sheet."""

    text: str
    columns: int
    kind: str


class Cell(NamedTuple):
    """A cell of the body; its `kind` is a class of the style sheet, and a badge has a `tone`.

    `value` is the number of a text that isn't one, such as 80.4%, by which a page sorts.
    """

    text: str
    kind: str = ""
    tone: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Cells:
    """What a table shows.

    `headings` has a row for each level of the columns. Each row of the body has its names in the index, which are none
    for an index that says nothing, and its cells.
    """

    index_names: Sequence[str]
    headings: Sequence[Sequence[Heading]]
    rows: Sequence[tuple[Sequence[str], Sequence[Cell]]]


class _Column(NamedTuple):
    levels: tuple[Hashable, ...]  # its name, by level
    spec: str
    numeric: bool


def cells_of(data: Tabular, formats: Formats, badges: Mapping[str, str]) -> Cells:
    """The cells of `data`, with the options of `Page.table`.

    Raises:
        DataError: a badge has an unknown tone, or `data` has no dimension.
    """
    check_kind("formats", formats, (str, Mapping), "a format specification, or several by column")
    check_kind("badges", badges, Mapping, "the tones of values, {value: tone}")
    if wrong := set(badges.values()) - set(TONES):
        raise DataError(f"A badge has one of the tones {', '.join(TONES)}; not {', '.join(sorted(map(str, wrong)))}.")
    frame = _frame(data)
    values = rows_of(frame)
    columns = [_column(name, [row[at] for row in values], formats) for at, name in enumerate(frame.columns)]
    rows = [[_cell(*cell, badges) for cell in zip(row, columns, strict=True)] for row in values]
    return Cells(
        index_names=[str(name or "") for name in frame.index.names] if _has_index(frame) else [],
        headings=[_headings(columns, level) for level in range(frame.columns.nlevels)],
        rows=list(zip(_row_names(frame), rows, strict=True)),
    )


def _frame(data: Tabular) -> pd.DataFrame:
    if isinstance(data, pd.DataFrame):
        return data
    if isinstance(data, xr.Dataset | xr.DataArray) and not data.dims:
        raise DataError("Values without a dimension make no table: show them with numbers({name: value}).")
    if isinstance(data, xr.Dataset):
        return data.to_dataframe()
    if isinstance(data, xr.DataArray) and data.ndim == 2:
        rows, columns = map(data.get_index, data.dims)
        return pd.DataFrame(data.values, index=rows, columns=columns)
    if isinstance(data, xr.DataArray):
        return data.reset_coords(drop=True).to_dataset(name=data.name or "value").to_dataframe()
    given = list(data) if isinstance(data, Sequence) and not isinstance(data, str | bytes) else [data]
    for row in given:
        check_kind("data", row, Mapping, "a DataFrame, a DataArray, a Dataset, or a list of rows, each a dict")
    return pd.DataFrame([dict(row) for row in given], dtype=object)


def _has_index(frame: pd.DataFrame) -> bool:
    """Whether the index says something: it has a name, or isn't just 0, 1, 2, …"""
    return any(name is not None for name in frame.index.names) or not isinstance(frame.index, pd.RangeIndex)


def _row_names(frame: pd.DataFrame) -> list[list[str]]:
    """The names of each row, one for each level of the index if it says something."""
    if not _has_index(frame):
        return [[] for _ in range(len(frame))]
    return [list(map(shown, names)) for names in rows_of(pd.DataFrame(list(frame.index), dtype=object))]


def _column(name: Hashable, values: Sequence[object], formats: Formats) -> _Column:
    levels = name if isinstance(name, tuple) else (name,)
    present = [value for value in values if value is not None]
    numeric = bool(present) and all(map(is_number, present))
    if isinstance(formats, str):
        spec = "" if all(isinstance(value, Integral) for value in values) else formats
    else:
        spec = formats.get(name, formats.get(levels[-1], ""))
    return _Column(levels, spec, numeric)


def _headings(columns: Sequence[_Column], level: int) -> list[Heading]:
    """The headings of a level; equal neighbours under one parent share one."""
    shared = (list(run) for _, run in groupby(columns, lambda column: column.levels[: level + 1]))
    return [_heading(run, level) for run in shared]


def _heading(columns: Sequence[_Column], level: int) -> Heading:
    first = columns[0]
    kind = "group" if level < len(first.levels) - 1 else "num" if first.numeric else ""
    return Heading(str(first.levels[level]), len(columns), kind)


def _cell(value: object, column: _Column, badges: Mapping[str, str]) -> Cell:
    if isinstance(value, str) and value in badges:
        return Cell(value.replace("_", " "), tone=badges[value])
    text = _formatted(value, column.spec)
    if column.numeric:
        read = is_missing(value) or _NUMBER.fullmatch(text)
        return Cell(text, "num", value=float(value) if is_number(value) and not read else None)
    return Cell(text, "long" if len(text) >= _LONG else "")


def _formatted(value: object, spec: str) -> str:
    try:
        return shown(value, spec)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"formats has {spec!r}, which can't format {value!r}: {error}. Write it as for format(), such as '.1%'.",
            arguments=("formats",),
        ) from error
