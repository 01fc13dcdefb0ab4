"""What the benchmarks share: cases timed in turn within one run, medians, and a table of ratios that is JSON too.

A ratio is the median over the rounds of the ratio within each round, so that whatever else the machine does falls on
both sides of it.
"""

from __future__ import annotations

import argparse
import inspect
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

__all__ = [
    "Figure",
    "Row",
    "Table",
    "Timing",
    "alone",
    "forked",
    "fresh",
    "in_turn",
    "peak_mib",
    "print_tables",
    "ratio",
]

Case = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, by the clock and of CPU."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def __add__(self, other: Timing) -> Timing:
        """What both take one after the other."""
        seconds = [mine + theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True)]
        return Timing(seconds, [mine + theirs for mine, theirs in zip(self.cpu, other.cpu, strict=True)])

    @property
    def middle(self) -> float:
        return median(self.seconds)


@dataclass(frozen=True)
class Figure:
    """A number that is judged: what it is, and the most that it may be, where anything says so."""

    value: float
    what: str
    limit: float | None = None

    @property
    def over(self) -> bool:
        return self.limit is not None and self.value > self.limit


@dataclass(frozen=True)
class Row:
    """One case: what its rounds gave (`unit` each), CPU seconds where timed, and its figures."""

    case: str
    rounds: list[float]
    unit: str = "s"
    cpu: float | None = None
    figures: Sequence[Figure] = ()
    note: str = ""

    @classmethod
    def timed(cls, case: str, timing: Timing, *figures: Figure, note: str = "") -> Row:
        return cls(case, timing.seconds, "s", median(timing.cpu), figures, note)


@dataclass
class Table:
    """Cases that are compared: `title` says on what."""

    title: str
    rows: list[Row] = field(default_factory=list)

    def add(self, *rows: Row) -> None:
        self.rows.extend(rows)

    def as_json(self) -> dict[str, Any]:
        cases = [asdict(row) | {"median": median(row.rounds) if row.rounds else None} for row in self.rows]
        return {"title": self.title, "cases": cases}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Table:
        rows = [{key: value for key, value in case.items() if key != "median"} for case in content["cases"]]
        made = [Row(**row | {"figures": [Figure(**figure) for figure in row["figures"]]}) for row in rows]
        return cls(content["title"], made)


def in_turn(
    cases: Mapping[str, Case],
    rounds: int,
    *,
    fewer: Mapping[str, int] | None = None,
    warm_up: bool = True,
    around: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> dict[str, Timing]:
    """Each case once a round, after a round that only warms up, inside what `around` makes of its name, untimed.

    Each round begins with another case, since what one leaves behind, such as memory that the system has at hand, is
    the next one's to find. Cases named in `fewer` run in that many rounds only, and aren't warmed up.
    """
    fewer = fewer or {}
    timings = {name: Timing() for name in cases}
    for number in range(-1 if warm_up else 0, rounds):
        first = number % len(cases)
        for name in [*cases][first:] + [*cases][:first]:
            if name in fewer and not 0 <= number < fewer[name]:
                continue
            with around(name):
                cpu, start = time.process_time(), time.perf_counter()
                cases[name]()
                seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            if number >= 0:
                timings[name].seconds.append(seconds)
                timings[name].cpu.append(cpu)
    return timings


def ratio(ours: Timing, theirs: Timing, to: str, limit: float | None = None) -> Figure:
    """How many times as long as `theirs` ours takes, over the rounds that both ran in."""
    pairs = zip(ours.seconds, theirs.seconds, strict=False)
    return Figure(median(mine / other for mine, other in pairs), f"÷ {to}", limit)


def fresh(function: Callable[..., Any], *arguments: object) -> Any:
    """What the function gives in a new process that has imported its module and done nothing else, all as JSON."""
    file = Path(inspect.getfile(function))
    command = [sys.executable, "-c", CALL, file.stem, function.__name__, json.dumps(arguments)]
    return json.loads(subprocess.run(command, cwd=file.parent, check=True, stdout=subprocess.PIPE).stdout)


# What the function itself prints goes to stderr.
CALL = """
import contextlib, importlib, json, sys
module, name, arguments = sys.argv[1:]
with contextlib.redirect_stdout(sys.stderr):
    given = getattr(importlib.import_module(module), name)(*json.loads(arguments))
print(json.dumps(given))
"""


def forked(function: Callable[..., Any], *arguments: object) -> Any:
    """What the function gives in a fork of this process: one of its own that needn't import again, which takes seconds.

    This process must have done nothing but import.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(function, *arguments).result()


def peak_mib() -> float:
    """The most memory (RSS) that this process has had. Not getrusage's, which a child has from its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def alone(
    measure: Callable[[argparse.Namespace], Sequence[Table]],
    options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """Run one benchmark from the command line: print its tables, or with ``--json`` write them into a file."""
    parser = argparse.ArgumentParser(description=measure.__doc__)
    parser.add_argument("--quick", action="store_true", help="small and few, to see that all of it runs")
    parser.add_argument("--json", type=Path, help="a file to write the tables into, in place of printing it")
    if options:
        options(parser)
    given = parser.parse_args()
    tables = measure(given)
    if given.json:
        given.json.write_text(json.dumps([table.as_json() for table in tables]))
    else:
        print_tables(tables)


HEAD = ("", "median", "rounds", "CPU", "figure", "", "limit", "")


def print_tables(tables: Sequence[Table]) -> None:
    """All tables as one, under one head."""
    bodies = [[line for row in table.rows for line in _lines(row)] for table in tables]
    widths = [max(map(len, column)) for column in zip(HEAD, *(line for body in bodies for line in body), strict=True)]
    print(_aligned(HEAD, widths))
    for table, body in zip(tables, bodies, strict=True):
        print(f"\n{table.title}", *(_aligned(line, widths) for line in body), sep="\n")
    over = sum(figure.over for table in tables for row in table.rows for figure in row.figures)
    print(f"\n{over} over the limit" if over else "\nall within the limits")


def _lines(row: Row) -> list[tuple[str, ...]]:
    """A row as lines of text: one a figure, at least one."""
    middle = _amount(median(row.rounds), row.unit) if row.rounds else row.note
    cpu = "" if row.cpu is None else _amount(row.cpu, "s")
    judged = [_judged(figure) for figure in row.figures] or [("", "", "", "")]
    measured = (row.case, middle, str(len(row.rounds) or ""), cpu)
    return [(*measured, *judged[0]), *(("", "", "", "", *more) for more in judged[1:])]


def _amount(value: float, unit: str) -> str:
    return f"{1e3 * value:.3g} ms" if unit == "s" and value < 0.1 else f"{value:.3g} {unit}"


def _judged(figure: Figure) -> tuple[str, ...]:
    limit = "" if figure.limit is None else f"≤ {figure.limit:.3g}"
    return f"{figure.value:.3g}", figure.what, limit, "OVER" if figure.over else ""


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    words = (0, 5)
    cells = enumerate(zip(line, widths, strict=True))
    return "  ".join(
        cell.ljust(width) if index in words else cell.rjust(width) for index, (cell, width) in cells
    ).rstrip()
