"""What the command line prints: tables on stdout, progress and messages on stderr."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

import rich.table
from rich.console import Console
from rich.text import Text

from probekit._bars import beside_bars
from probekit._table import MISSING, Table, is_missing, is_number, rows_of
from probekit.errors import plain

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_UNLIMITED = 10_000  # characters
_NUMBER = re.compile(r"[\d.,-]*\d(e[+-]\d+)?")
_BETWEEN = 3  # characters between two columns

out = Console()
err = Console(stderr=True)


def table(content: Table, *, as_json: bool) -> None:
    """Print a table for people, or a JSON list with an object a row."""
    if as_json:
        print(json.dumps([_record(content.columns, row) for row in content.rows], default=str))
        return
    console = _console()
    if content.title:
        console.print(Text(plain(content.title), style="italic"), soft_wrap=True)
    if content.rows:
        console.print(_drawn(content))


def _console() -> Console:
    """That of stdout; what is piped isn't cut to the width of a terminal that isn't there."""
    return out if out.is_terminal else Console(width=_UNLIMITED)


def fitting(title: str, wide: Table, narrow: Table) -> None:
    """Print the first of two tables that fits in the terminal, or the second, under a title."""
    chosen = wide if wide.width(_BETWEEN) <= _console().width else narrow
    table(replace(chosen, title=title), as_json=False)


def sentences(lines: Iterable[str]) -> None:
    """Print paragraphs that explain a table, wrapped at words."""
    for line in lines:
        _console().print(Text(plain(line)))


def _record(columns: Sequence[str], row: Sequence[object]) -> dict[str, object]:
    values = (None if is_missing(value) else value for value in row)  # JSON has no NaN
    return dict(zip(columns, values, strict=True))


def _drawn(content: Table) -> rich.table.Table:
    drawn = rich.table.Table(header_style="bold")
    rows = content.shown_rows()
    for column, texts, values in zip(
        content.columns, zip(*rows, strict=True), zip(*content.rows, strict=True), strict=True
    ):
        right = all(map(_is_number, texts)) or all(map(is_number, values))
        drawn.add_column(Text(plain(column)), justify="right" if right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def _is_number(text: str) -> bool:
    """Whether a text reads as a number, as the names of many classes do, or stands for a missing one."""
    return text == MISSING or _NUMBER.fullmatch(text) is not None


def records(frame: pd.DataFrame) -> list[dict[str, object]]:
    """An object for each row of a frame, for JSON."""
    return [_record(list(map(str, frame.columns)), row) for row in rows_of(frame)]


def pairs(title: str, values: Mapping[str, object], *, as_json: bool) -> None:
    """Print names and values, one a line, or as a JSON object."""
    if as_json:
        print(json.dumps(dict(values), default=str))
        return
    table(Table(title, ("", ""), list(values.items())), as_json=False)


def matrices(compared: xr.Dataset) -> None:
    """Print each variable that compares sites as a table of sites by sites, in parts that fit in the terminal.

    Single numbers, such as the batch that a comparison took, are a line each.
    """
    for name, variable in compared.data_vars.items():
        if not variable.dims:
            print(f"{name}: {variable.item()}")
            continue
        sites = [str(site) for site in compared["site"].values]
        columns = list(zip(sites, variable.values.T.tolist(), strict=True))
        while columns:
            part = _most_that_fit(str(name), sites, columns)
            table(part, as_json=False)
            columns = columns[len(part.columns) - 1 :]


def _most_that_fit(title: str, sites: Sequence[str], columns: Sequence[tuple[str, Sequence[object]]]) -> Table:
    """A table of the first of the columns, at least one."""
    best = None
    for count in range(1, len(columns) + 1):
        names, values = zip(*columns[:count], strict=True)
        made = Table(title, ("site", *names), list(zip(sites, *values, strict=True)))
        if best is not None and made.width(_BETWEEN) > _console().width:
            break
        best = made
    assert best is not None  # there is a column
    return best


def paragraph(text: str) -> None:
    """One paragraph on stderr, wrapped by the terminal alone so that a path can be copied whole."""
    with beside_bars():
        err.print(Text(plain(text)), soft_wrap=True)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    paragraph(f"Warning: {message}")


def plain_warnings() -> None:
    """From here on a warning is a line on stderr, without the source line that Python adds."""
    warnings.showwarning = _show_warning
    if not sys.warnoptions:
        warnings.simplefilter("default")
