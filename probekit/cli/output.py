"""What the command line prints: tables on stdout, progress and messages on stderr."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

T = TypeVar("T")

out = Console()
err = Console(stderr=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, as_json: bool) -> None:
    """Print rows under `columns`: a rich table, or a JSON list with an object a row."""
    if as_json:
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str))
        return
    drawn = Table(title=Text(title), title_justify="left", header_style="bold")
    body = [[_cell(value) for value in row] for row in rows]
    for index, column in enumerate(columns):
        numeric = all(_is_number(row[index]) for row in body)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in body:
        drawn.add_row(*map(Text, row))
    # A piped table isn't cut to the width of a terminal that isn't there.
    (out if out.is_terminal else Console(width=10_000)).print(drawn)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _is_number(text: str) -> bool:
    return text.replace(".", "").replace(",", "").replace("-", "").replace("e+", "").isdigit()


def pairs(title: str, values: Mapping[str, object], *, as_json: bool) -> None:
    """Print names and values, one a line, or as a JSON object."""
    if as_json:
        print(json.dumps(dict(values), default=str))
        return
    table(title, ("", ""), [(name, value) for name, value in values.items()], as_json=False)


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
    """Progress bars on stderr, one a task that is under way, drawn together; a call wraps an iterable."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err
        )
        self._open = 0

    def __call__(self, items: Iterable[T], /, description: str, total: int | None = None) -> Iterator[T]:
        with self._shown():
            task: TaskID = self._progress.add_task(description, total=total)
            for item in items:
                yield item
                self._progress.advance(task)

    @contextmanager
    def _shown(self) -> Iterator[None]:
        self._open += 1
        self._progress.start()
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._progress.stop()


def plain_warnings() -> None:
    """From here on a warning is a line on stderr, without the source line that Python adds."""
    warnings.showwarning = _show_warning
    if not sys.warnoptions:
        warnings.simplefilter("default")
