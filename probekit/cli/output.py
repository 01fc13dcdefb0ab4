"""What the command line prints: tables on stdout, progress and messages on stderr."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import xarray as xr

T = TypeVar("T")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

out = Console()
err = Console(stderr=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, as_json: bool) -> None:
    """Print rows under `columns`: a rich table, or a JSON list with an object a row."""
    if as_json:
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str))
        return
    drawn = Table(header_style="bold")
    body = [[_cell(value) for value in row] for row in rows]
    for index, column in enumerate(columns):
        numeric = all(_is_number(row[index]) for row in body)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in body:
        drawn.add_row(*map(Text, row))
    # A piped table isn't cut to the width of a terminal that isn't there.
    shown = out if out.is_terminal else Console(width=10_000)
    if title:
        shown.print(Text(_cell(title), style="italic"), soft_wrap=True)
    if body:
        shown.print(drawn)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)  # a store of unknown origin may hold a terminal's commands


def _is_number(text: str) -> bool:
    return text.replace(".", "").replace(",", "").replace("-", "").replace("e+", "").isdigit()


def pairs(title: str, values: Mapping[str, object], *, as_json: bool) -> None:
    """Print names and values, one a line, or as a JSON object."""
    if as_json:
        print(json.dumps(dict(values), default=str))
        return
    table(title, ("", ""), [(name, value) for name, value in values.items()], as_json=False)


def matrices(compared: xr.Dataset) -> None:
    """Print each variable that compares sites as a table of sites by sites."""
    for name, variable in compared.data_vars.items():
        sites = [str(site) for site in compared["site"].values]
        rows = [[site, *row] for site, row in zip(sites, variable.values.tolist(), strict=True)]
        table(str(name), ["site", *sites], rows, as_json=False)


def paragraph(text: str) -> None:
    """One paragraph on stderr, wrapped by the terminal alone so that a path can be copied whole."""
    err.print(Text(text), soft_wrap=True)


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
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err) as self._shown:
            try:
                yield from _advance(self._shown, items, description, total)
            finally:
                self._shown = None


def _advance(bars: Progress, items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    task = bars.add_task(description, total=total)
    for item in items:
        yield item
        bars.advance(task)


def plain_warnings() -> None:
    """From here on a warning is a line on stderr, without the source line that Python adds."""
    warnings.showwarning = _show_warning
    if not sys.warnoptions:
        warnings.simplefilter("default")
