"""Write the tables of docs/small-samples.md: what metrics give of few samples, plain and corrected, beside the truth.

Run it by hand, ``python docs/small_samples.py``: it takes a few minutes. One node is one repeat, so that a table's
means and deviations are over the nodes of a site; for metrics of whole sites and of pairs of sites, these are.
``python docs/small_samples.py sites`` makes the table of these alone, ``… enough`` that of how many samples are enough.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import probekit as pk
from probekit import metrics

PAGE = Path(__file__).parent / "small-samples.md"
BEGIN, END = "<!-- made by docs/small_samples.py: {} -->\n", "<!-- end -->\n"
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
SPARSE = Case(
    "10 classes alike, on for 2 %", 10, lambda rng, y: (rng.normal(size=(len(y), REPEATS)) - 2.05).clip(min=0)
)
LARGE = Case("exponential, one of 10 three times the mean", 10, _exponential)
TWO = Case("on for half of 2 of 10 classes", 10, _of_two)


METRICS: dict[str, tuple[Any, dict[Case, float]]] = {
    "overlap": (metrics.Overlap, {ALIKE: 1, RELU: 1, APART: 0.6171}),
    "ks_mean": (metrics.KS, {ALIKE: 0, RELU: 0, APART: 0.3829}),
    "wasserstein_mean": (metrics.Wasserstein, {ALIKE: 0, RELU: 0, APART: 1}),
    "dprime_mean": (metrics.DPrime, {ALIKE: 0, RELU: 0, APART: 1}),
    "fisher": (metrics.Fisher, {ALIKE: 0, RELU: 0, APART: 0.25}),
    "selectivity": (metrics.Selectivity, {RELU: 0, SPARSE: 0, LARGE: 0.5}),
    "perplexity": (metrics.Perplexity, {RELU: 10, TWO: 2}),
    "mutual_information": (metrics.MutualInformation, {ALIKE: 0, RELU: 0, APART: 0.1606}),
    "entropy": (metrics.Entropy, {ALIKE: 5}),
}
PLAIN = {"overlap": {"bins": 32}, "mutual_information": {"bins": 32}, "entropy": {"bins": 32}}
ALWAYS = {"entropy": {"bins": 32}}  # whose true value depends on the bins


def rows() -> Iterator[Row]:
    """All rows, by metric."""
    found: dict[tuple[str, Case], list[tuple[float, float, float]]] = {}
    for case in (ALIKE, RELU, SPARSE, APART, LARGE, TWO):
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


@dataclass(frozen=True)
class Sites:
    """A metric of sites of noise: the truth, its plain form and the corrected one, None where there is none."""

    name: str
    true: float
    plain: Any
    corrected: Any
    nodes: int = 50
    unequal: bool = False  # classes of n and of 5 n samples, each five, at ReLUs


OF_SITES = [
    Sites("effective_rank", 50, metrics.EffectiveRank(corrected=False), metrics.EffectiveRank()),
    Sites("participation_ratio", 50, metrics.ParticipationRatio(biased=True), metrics.ParticipationRatio()),
    Sites("rankme", 50, metrics.RankMe(), None),
    Sites("stable_rank", 50, metrics.StableRank(), None),
    Sites("twonn", 50, metrics.TwoNN(), None),
    Sites("twonn", 4, metrics.TwoNN(), None, nodes=4),
    Sites("cka", 0, metrics.CKA(biased=True), metrics.CKA(), nodes=100),
    Sites("procrustes", 2**0.5, metrics.Procrustes(corrected=False), metrics.Procrustes()),
    Sites("svcca", 0, metrics.SVCCA(corrected=False), metrics.SVCCA(), nodes=10),
    Sites("pwcca", 0, metrics.PWCCA(corrected=False), metrics.PWCCA(), nodes=10),
    Sites("rsa", 0, metrics.RSA("correlation"), metrics.RSA(), unequal=True),
]


def sites_table(number: int = 8) -> str:
    """What metrics of sites give of noise, at so many sites that each is a repeat, or each pair of them."""
    head = ["metric", "sites", "true", *(f"n = {samples:,}" for samples in SAMPLES)]
    lines = [head, ["---"] * len(head)]
    for row in OF_SITES:
        kind = "ReLUs, classes of n and 5 n" if row.unequal else f"{row.nodes} normal nodes"
        cells = [_of_noise(row, samples, number) for samples in SAMPLES]
        lines.append([f"`{row.name}`", kind, f"{row.true:.3g}", *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _of_noise(row: Sites, samples: int, number: int) -> str:
    rng = np.random.default_rng(samples)
    y = np.repeat(np.arange(10), [samples, 5 * samples] * 5) if row.unequal else np.zeros(samples, int)
    root = xr.Dataset(coords={"label": ("sample", y)})
    sites = {"/": root}
    for n in range(number):
        x = rng.normal(size=(len(y), row.nodes))
        x = (x + rng.normal(size=row.nodes)).clip(min=0) if row.unequal else x
        sites[f"s{n}"] = xr.Dataset({"activation": (("sample", "node"), x.astype(np.float32))})
    tree, found = xr.DataTree.from_dict(sites), []
    for metric in filter(None, (row.plain, row.corrected)):
        measured = pk.measure(tree, metric)
        between = measured[row.name].values[np.triu_indices(number, 1)] if row.name in measured else None
        each = [float(site[row.name]) for site in measured.children.values()] if between is None else between
        found.append((np.mean(each), np.std(each)))
    if np.isnan(found[0][0]):
        return "NaN"
    plain, (value, deviation) = found[0][0], found[-1]
    return (
        f"{plain:.3g} ± {deviation:.2g}"
        if row.corrected is None
        else f"{plain:.3g} → **{value:.3g}** ± {deviation:.2g}"
    )


BOUNDS = (0.2, 0.1, 0.05)
GRID = (10, 15, 20, 30, 40, 50, 70, 100, 150, 200, 300, 400, 600, 1000)
ENOUGH = ("overlap", "ks_mean", "auroc", "wasserstein_mean", "dprime_mean", "fisher", "mutual_information")


def enough_table() -> str:
    """The fewest samples of each of two classes, one σ apart, for a node's error to be under a bound.

    The error is the root mean square over nodes, of which the bias is a part.
    """
    truths = {name: METRICS[name][1][APART] for name in ENOUGH if name in METRICS} | {"auroc": 0.7602}
    errors: dict[str, list[float]] = {name: [] for name in ENOUGH}
    for samples in GRID:
        chosen = [metrics.AUROC(), *(METRICS[name][0]() for name in ENOUGH if name in METRICS)]
        found = pk.measure(_tree(APART, samples), chosen)["a"]
        for name in ENOUGH:
            values = found[name].values[0, 1] if name == "auroc" else found[name].values
            errors[name].append(float(np.sqrt(np.nanmean((values - truths[name]) ** 2))))
    lines = [["metric", "true", *(f"error {bound}" for bound in BOUNDS)], ["---"] * (2 + len(BOUNDS))]
    for name, each in errors.items():
        fewest = (next((n for n, e in zip(GRID, each, strict=True) if e <= bound), None) for bound in BOUNDS)
        lines.append(
            [f"`{name}`", f"{truths[name]:.3g}", *(f"over {GRID[-1]:,}" if n is None else f"{n:,}" for n in fewest)]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write(name: str, made: str) -> None:
    """Put a table where the page has one of this name."""
    before, rest = PAGE.read_text().split(BEGIN.format(name))
    PAGE.write_text(before + BEGIN.format(name) + "\n" + made + "\n" + END + rest.split(END, 1)[1])


def nodes_table() -> str:
    """The table of metrics of single nodes; prints those of the docstrings."""
    made = list(rows())
    for row in made:
        print(f"{row.variable}, {row.case.name}: {row.true}\n{in_docstring(row)}\n")
    return table(made)


TABLES = {"nodes": nodes_table, "sites": sites_table, "enough": enough_table}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or TABLES:
        write(chosen, TABLES[chosen]())
