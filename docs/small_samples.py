"""Write the tables of docs/small-samples.md: what metrics give of few samples, plain and corrected, beside the truth.

Run it by hand, ``python docs/small_samples.py``: it takes a few minutes. One node is one repeat, so that a table's
means and deviations are over the nodes of a site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import probekit as pk
from probekit import metrics

PAGE = Path(__file__).parent / "small-samples.md"
BEGIN, END = "<!-- made by docs/small_samples.py -->\n", "<!-- end -->\n"
SAMPLES = (10, 20, 50, 180, 1000)  # of each class
REPEATS = 400

Array = np.ndarray[Any, np.dtype[Any]]
Draw = Callable[[np.random.Generator, Array], Array]


@dataclass(frozen=True)
class Case:
    """Classes of known distributions: `draw` gives the values (sample, node) of samples with codes (sample, 1)."""

    name: str
    classes: int
    draw: Draw


@dataclass(frozen=True)
class Row:
    """A variable of a metric in a case: its true value, and for each number of samples means and a deviation."""

    variable: str
    case: Case
    true: float
    plain: list[float]
    corrected: list[float]
    deviation: list[float]


def _exponential(rng: np.random.Generator, y: Array) -> Array:
    return rng.exponential(size=(len(y), REPEATS)) * (1 + 2 * (y == 0))


def _of_two(rng: np.random.Generator, y: Array) -> Array:
    """On for half of the samples of two classes."""
    return (rng.random((len(y), REPEATS)) < 0.5 * (y < 2)).astype(np.float32)


ALIKE = Case("10 normal classes, all alike", 10, lambda rng, y: rng.normal(size=(len(y), REPEATS)))
RELU = Case("the same after a ReLU", 10, lambda rng, y: rng.normal(size=(len(y), REPEATS)).clip(min=0))
APART = Case("2 normal classes, one σ apart", 2, lambda rng, y: rng.normal(size=(len(y), REPEATS)) + y)
LARGE = Case(
    "exponential, one of 10 three times the mean", 10, lambda rng, y: _exponential(rng, y) * (1 + 2 * (y == 0))
)
TWO = Case("on for half of 2 of 10 classes", 10, _of_two)


METRICS: dict[str, tuple[Any, dict[Case, float]]] = {
    "overlap": (metrics.Overlap, {ALIKE: 1, RELU: 1, APART: 0.6171}),
    "ks_mean": (metrics.KS, {ALIKE: 0, RELU: 0, APART: 0.3829}),
    "wasserstein_mean": (metrics.Wasserstein, {ALIKE: 0, RELU: 0, APART: 1}),
    "dprime_mean": (metrics.DPrime, {ALIKE: 0, RELU: 0, APART: 1}),
    "fisher": (metrics.Fisher, {ALIKE: 0, RELU: 0, APART: 0.25}),
    "selectivity": (metrics.Selectivity, {RELU: 0, LARGE: 0.5}),
    "perplexity": (metrics.Perplexity, {RELU: 10, TWO: 2}),
    "mutual_information": (metrics.MutualInformation, {ALIKE: 0, RELU: 0, APART: 0.1606}),
    "entropy": (metrics.Entropy, {ALIKE: 5}),
}
PLAIN = {"overlap": {"bins": 32}, "mutual_information": {"bins": 32}, "entropy": {"bins": 32}}
ALWAYS = {"entropy": {"bins": 32}}  # whose true value depends on the bins


def rows() -> Iterator[Row]:
    """All rows, by metric."""
    found: dict[tuple[str, Case], list[tuple[float, float, float]]] = {}
    for case in (ALIKE, RELU, APART, LARGE, TWO):
        names = [name for name, (_, cases) in METRICS.items() if case in cases]
        for samples in SAMPLES:
            tree = _tree(case, samples)
            plain = pk.measure(tree, [METRICS[name][0](**PLAIN.get(name, {}), corrected=False) for name in names])
            ours = pk.measure(tree, [METRICS[name][0](**ALWAYS.get(name, {})) for name in names])
            for name in names:
                values = ours["a"][name].values
                each = float(plain["a"][name].mean()), float(np.nanmean(values)), float(np.nanstd(values))
                found.setdefault((name, case), []).append(each)
    for name, (_, cases) in METRICS.items():
        for case, true in cases.items():
            yield Row(name, case, true, *(list(each) for each in zip(*found[name, case], strict=True)))


def _tree(case: Case, samples: int) -> xr.DataTree:
    rng, y = np.random.default_rng(samples), np.repeat(np.arange(case.classes), samples)
    x = case.draw(rng, y[:, None]).astype(np.float32)
    root = xr.Dataset(coords={"label": ("sample", y)})
    return xr.DataTree.from_dict({"/": root, "a": xr.Dataset({"activation": (("sample", "node"), x)})})


def table(found: list[Row]) -> str:
    """The rows as a table in Markdown."""
    head = ["metric", "classes", "true", *(f"n = {samples:,}" for samples in SAMPLES)]
    lines = [head, ["---"] * len(head)]
    for row in found:
        cells = [
            f"{plain:.3g} → **{_short(corrected)}** ± {deviation:.2g}"
            for plain, corrected, deviation in zip(row.plain, row.corrected, row.deviation, strict=True)
        ]
        lines.append([f"`{row.variable}`", row.case.name, f"{row.true:.3g}", *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def in_docstring(row: Row) -> str:
    """The row as a table of a docstring."""
    cells = [("samples a class", *(f"{each:,}" for each in SAMPLES))]
    cells += [(name, *map(_short, getattr(row, name))) for name in ("plain", "corrected", "deviation")]
    rule = "    " + "  ".join(["=" * 15, *["=" * 6] * len(SAMPLES)])
    lines = ["    " + "  ".join([f"{line[0]:15}", *(f"{each:6}" for each in line[1:])]).rstrip() for line in cells]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def _short(value: float) -> str:
    text = f"{value:.3f}" if abs(value) < 9.9995 else f"{value:.2f}"
    return "0.000" if text == "-0.000" else text


if __name__ == "__main__":
    made = list(rows())
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + table(made) + "\n" + END + rest.split(END)[1])
    for row in made:
        print(f"{row.variable}, {row.case.name}: {row.true}\n{in_docstring(row)}\n")
