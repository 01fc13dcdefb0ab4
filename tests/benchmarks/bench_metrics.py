"""How long exact metrics take: ``python tests/benchmarks/bench_metrics.py``.

60,000 samples × 800 nodes of float32, 10 classes: an untrained ReLU layer (half zeros), captured into a store, against
what a user writes with numpy, xarray and scipy on the same array in memory.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from harness import Figure, Row, Table, Timing, alone, fresh, in_turn, peak_mib, ratio
from scipy.stats import ks_2samp, mannwhitneyu

import probekit as pk
from probekit.metrics import AUROC, KS, Mean, Overlap, Quantile, Sparsity, Std, median

CLASSES = 10
NUMPY = "numpy: mask each class, np.median"
FLOX = "xarray: groupby(label).median with flox"
SCIPY = "scipy: ks_2samp and mannwhitneyu of 45 pairs"
TOGETHER = "median, quantile, std, sparsity, overlap"
PAIRS = "ks, auroc"
LOOPED = 4  # nodes that scipy's loop runs over, for all of them


def measure(options: argparse.Namespace) -> list[Table]:
    """How long exact metrics take, from a store but where said, and how much memory."""
    samples, nodes = (6_000, 100) if options.quick else (60_000, 800)
    rounds = 1 if options.quick else 5
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "acts.zarr"
        x, y = captured(path, samples, nodes)
        times = in_turn(cases(x, y, path), rounds, fewer={FLOX: 3})
        sizes = proportion(Path(folder), path, samples, nodes, rounds)
        memory = [] if options.quick else [memories(Path(folder), path)]
    title = f"metrics, {samples:,} × {nodes} float32, {CLASSES} classes, stored"
    loop = in_turn({SCIPY: partial(scipy_pairs, x[:, :LOOPED], y), PAIRS: partial(ours_pairs, x, y)}, rounds)
    pairs = Table(f"{len(list(combinations(range(CLASSES), 2)))} pairs of classes, {nodes} nodes, in memory")
    pairs.add(Row.timed(SCIPY, loop[SCIPY], note=f"{LOOPED} nodes"))
    scaled = ratio(loop[PAIRS], loop[SCIPY], f"scipy's loop, {nodes} nodes of which {LOOPED} were run")
    pairs.add(Row.timed(PAIRS, loop[PAIRS], Figure(scaled.value * LOOPED / nodes, scaled.what, 1 / 20)))
    return [Table(title, rows(times)), pairs, sizes, *memory]


def captured(path: Path, samples: int, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """A store of ReLUs, and what is in it."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, nodes), dtype=np.float32)
    y = rng.integers(0, CLASSES, samples)
    pk.capture(torch.nn.Sequential(torch.nn.ReLU()), (x, y), path, sites="0", batch_size=512)
    return np.maximum(x, 0), y


def cases(x: np.ndarray, y: np.ndarray, path: Path) -> dict[str, Callable[[], object]]:
    array = xr.DataArray(x, dims=("sample", "node"), coords={"label": ("sample", y)})
    columns = xr.Dataset(coords={"label": ("sample", y)})
    tree = xr.DataTree.from_dict({"/": columns, "0": array.drop_vars("label").to_dataset(name="activation")})
    stored = partial(pk.measure, path)
    return {
        NUMPY: lambda: [np.median(x[y == c], axis=0) for c in range(CLASSES)],
        FLOX: lambda: flox_medians(array),
        "median, in memory": partial(pk.measure, tree, median),
        "median": partial(stored, median),
        "mean, std, sparsity": partial(stored, [Mean(), Std(), Sparsity()]),
        "overlap": partial(stored, Overlap()),
        TOGETHER: partial(stored, [median, Quantile(), Std(), Sparsity(), Overlap()]),
        "overlap and its null": partial(stored, Overlap(null="permute")),
    }


def flox_medians(array: xr.DataArray) -> xr.DataArray:
    with xr.set_options(use_flox=True):
        return array.groupby("label").median()


def rows(times: dict[str, Timing]) -> list[Row]:
    return [Row.timed(name, timing, *figures(name, times)) for name, timing in times.items()]


def figures(name: str, times: dict[str, Timing]) -> list[Figure]:
    if name in (NUMPY, FLOX):
        return []
    found = [ratio(times[name], times[NUMPY], "numpy, in memory", 1 / 3 if name == "median" else None)]
    if name == "median":
        found.append(ratio(times[name], times[FLOX], "xarray with flox, in memory", 1 / 10))
    if name == TOGETHER:
        found.append(ratio(times[name], times["median"], "median", 4))
    return found


def scipy_pairs(x: np.ndarray, y: np.ndarray) -> None:
    of_class = [x[y == c] for c in range(CLASSES)]
    for node in range(x.shape[1]):
        for a, b in combinations(range(CLASSES), 2):
            ks_2samp(of_class[a][:, node], of_class[b][:, node], method="asymp")
            mannwhitneyu(of_class[b][:, node], of_class[a][:, node], method="asymptotic")


def ours_pairs(x: np.ndarray, y: np.ndarray) -> None:
    columns = xr.Dataset(coords={"label": ("sample", y)})
    site = xr.Dataset({"activation": (("sample", "node"), x)})
    pk.measure(xr.DataTree.from_dict({"/": columns, "relu": site}), [KS(), AUROC()])


def proportion(folder: Path, path: Path, samples: int, nodes: int, rounds: int) -> Table:
    """Whether four times the samples take four times as long; the same bytes in longer columns take n log n."""
    stores = {
        f"{samples // 4:,} × {nodes}": folder / "quarter.zarr",
        f"{samples:,} × {nodes}": path,
        f"{samples * 10:,} × {nodes // 10}": folder / "long.zarr",
    }
    quarter, whole, long = stores
    captured(stores[quarter], samples // 4, nodes)
    captured(stores[long], samples * 10, nodes // 10)
    times = in_turn({name: partial(pk.measure, store, median) for name, store in stores.items()}, rounds)
    table = Table("median, time and bytes")
    for name, timing in times.items():
        relative = ratio(timing, times[quarter], "")
        limit = 1.25 if name == whole else None
        figure = Figure(relative.value / 4, f"× the time a byte of {quarter}", limit)
        table.add(Row.timed(name, timing, *([] if name == quarter else [figure])))
    return table


def memories(folder: Path, path: Path) -> Table:
    """The most memory of a process, beyond one that measures a store of 1,000 samples."""
    captured(folder / "small.zarr", 1_000, 800)
    captured(folder / "large.zarr", 600_000, 80)
    table = Table("peak memory, median and overlap, memory=256MiB")
    base = fresh(peak, str(folder / "small.zarr"))
    table.add(Row("1,000 × 800", [base], "MiB"))
    for what, store in (("60,000 × 800", path), ("600,000 × 80", folder / "large.zarr")):
        found = fresh(peak, str(store))
        table.add(Row(what, [found], "MiB", None, [Figure(found - base, "MiB beyond 1,000 × 800", 256)]))
    return table


def peak(path: str) -> float:
    pk.measure(path, [median, Overlap()], memory="256MiB")
    return peak_mib()


if __name__ == "__main__":
    alone(measure)
