"""What the command line prints: tables on stdout, progress and messages on stderr."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO, TypeVar

import rich.table
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from probekit._table import MISSING, Table, is_missing
from probekit.errors import plain

if TYPE_CHECKING:
    import xarray as xr

T = TypeVar("T")

out = Console()
err = Console(stderr=True)


def table(content: Table, *, as_json: bool) -> None:
    """Print a table for people, or a JSON list with an object a row."""
    if as_json:
        print(json.dumps([_record(content.columns, row) for row in content.rows], default=str))
        return
    # A piped table isn't cut to the width of a terminal that isn't there.
    console = out if out.is_terminal else Console(width=10_000)
    if content.title:
        console.print(Text(plain(content.title), style="italic"), soft_wrap=True)
    if content.rows:
        console.print(_drawn(content))


def _record(columns: Sequence[str], row: Sequence[object]) -> dict[str, object]:
    values = (None if is_missing(value) else value for value in row)  # JSON has no NaN
    return dict(zip(columns, values, strict=True))


def _drawn(content: Table) -> rich.table.Table:
    drawn = rich.table.Table(header_style="bold")
    rows = content.shown_rows()
    for column, texts in zip(content.columns, zip(*rows, strict=True), strict=True):
        drawn.add_column(
            Text(plain(column)), justify="right" if all(map(_is_number, texts)) else "left", overflow="fold"
        )
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def _is_number(text: str) -> bool:
    """Whether a text reads as a number, as the names of many classes do, or stands for a missing one."""
    return text == MISSING or text.replace(".", "").replace(",", "").replace("-", "").replace("e+", "").isdigit()


def pairs(title: str, values: Mapping[str, object], *, as_json: bool) -> None:
    """Print names and values, one a line, or as a JSON object."""
    if as_json:
        print(json.dumps(dict(values), default=str))
        return
    table(Table(title, ("", ""), list(values.items())), as_json=False)


def matrices(compared: xr.Dataset) -> None:
    """Print each variable that compares sites as a table of sites by sites."""
    for name, variable in compared.data_vars.items():
        sites = [str(site) for site in compared["site"].values]
        rows = [[site, *row] for site, row in zip(sites, variable.values.tolist(), strict=True)]
        table(Table(str(name), ["site", *sites], rows), as_json=False)


def paragraph(text: str) -> None:
    """One paragraph on stderr, wrapped by the terminal alone so that a path can be copied whole."""
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


class Bars:
    """Progress bars on stderr; a call wraps an iterable. Bars of nested iterables are drawn together."""

    def __init__(self) -> None:
        self._shown: Progress | None = None
        self.used = False  # whether there was anything to wrap

    def __call__(self, items: Iterable[T], /, description: str, total: int | None = None) -> Iterator[T]:
        self.used = True
        if self._shown is not None:
            yield from _advance(self._shown, items, description, total)
            return
        described = TextColumn("{task.description}", markup=False)
        columns = (described, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err) as self._shown:
            try:
                yield from _advance(self._shown, items, description, total)
            finally:
                self._shown = None


def _advance(bars: Progress, items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    task = bars.add_task(plain(description), total=total)
    for item in items:
        yield item
        bars.advance(task)


def plain_warnings() -> None:
    """From here on a warning is a line on stderr, without the source line that Python adds."""
    warnings.showwarning = _show_warning
    if not sys.warnoptions:
        warnings.simplefilter("default")
