"""How long exact metrics take: ``python tests/benchmarks/bench_metrics.py``.

60,000 samples × 800 nodes of float32, 10 classes: an untrained ReLU layer (half zeros), read from an uncompressed zarr
store with tiles of 4096 × 200, against the loop over the classes that a user writes with numpy, in memory.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
from harness import Figure, Row, Table, Timing, alone, in_turn, ratio

import probekit as pk
from probekit.metrics import Mean, Overlap, Sparsity, Std, median

CLASSES = 10
NUMPY, ALL = "numpy: mask each class, np.median", "median, std, sparsity, overlap"


def measure(options: argparse.Namespace) -> list[Table]:
    """How long exact metrics take, from a store but where said."""
    samples, nodes = (6_000, 100) if options.quick else (60_000, 800)
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((samples, nodes), dtype=np.float32), 0)
    y = rng.integers(0, CLASSES, samples)
    columns = xr.Dataset(coords={"label": ("sample", y)})
    tree = xr.DataTree.from_dict({"/": columns, "relu": xr.Dataset({"activation": (("sample", "node"), x)})})
    with tempfile.TemporaryDirectory() as folder:
        times = in_turn(cases(x, y, tree, Path(folder) / "acts.zarr"), 1 if options.quick else 3)
    return [Table(f"metrics, {samples:,} × {nodes} float32, {CLASSES} classes, stored", rows(times))]


def cases(x: np.ndarray, y: np.ndarray, tree: xr.DataTree, path: Path) -> dict[str, partial[object]]:
    tiles = {"activation": {"chunks": (4096, min(200, x.shape[1])), "compressors": None}}
    tree.to_zarr(path, encoding={"/relu": tiles}, consolidated=False)
    stored = partial(pk.measure, xr.open_datatree(path, engine="zarr", chunks=None, consolidated=False))
    return {
        NUMPY: partial(class_medians, x, y),
        "median, in memory": partial(pk.measure, tree, median),
        "median": partial(stored, median),
        "mean, std, sparsity": partial(stored, [Mean(), Std(), Sparsity()]),
        "overlap": partial(stored, Overlap()),
        ALL: partial(stored, [median, Std(), Sparsity(), Overlap()]),
        "overlap and its null": partial(stored, Overlap(null="permute")),
    }


def class_medians(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    return [np.median(x[y == c], axis=0) for c in range(CLASSES)]


def rows(times: dict[str, Timing]) -> list[Row]:
    return [Row.timed(name, timing, *figures(name, times)) for name, timing in times.items()]


def figures(name: str, times: dict[str, Timing]) -> list[Figure]:
    if name == NUMPY:
        return []
    against_numpy = ratio(times[name], times[NUMPY], "numpy, in memory", 1 / 3 if name == "median" else None)
    together = [ratio(times[name], times["median"], "median", 4)] if name == ALL else []
    return [against_numpy, *together]


if __name__ == "__main__":
    alone(measure)
