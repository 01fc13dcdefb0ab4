"""How long exact metrics take, as ratios within one run: ``python tests/benchmarks/bench_metrics.py``.

60,000 samples × 800 nodes of float32, 10 classes: an untrained ReLU layer (half zeros), read from an uncompressed zarr
store with tiles of 4096 × 200, against the loop over the classes that a user writes with numpy, in memory.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

import probekit as pk
from probekit.metrics import Mean, Overlap, Sparsity, Std, median

SAMPLES, NODES, CLASSES, ROUNDS = 60_000, 800, 10, 5


def main() -> None:
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((SAMPLES, NODES), dtype=np.float32), 0)
    y = rng.integers(0, CLASSES, SAMPLES)
    columns = xr.Dataset(coords={"label": ("sample", y)})
    tree = xr.DataTree.from_dict({"/": columns, "relu": xr.Dataset({"activation": (("sample", "node"), x)})})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "acts.zarr"
        tiles = {"activation": {"chunks": (4096, 200), "compressors": None}}
        tree.to_zarr(path, encoding={"/relu": tiles}, consolidated=False)
        stored = xr.open_datatree(path, engine="zarr", chunks=None, consolidated=False)
        run(
            {
                "numpy: mask each class, np.median": lambda: [np.median(x[y == c], axis=0) for c in range(CLASSES)],
                "median, in memory": lambda: pk.measure(tree, median),
                "median": lambda: pk.measure(stored, median),
                "mean, std, sparsity": lambda: pk.measure(stored, [Mean(), Std(), Sparsity()]),
                "overlap": lambda: pk.measure(stored, Overlap()),
                "median, std, sparsity, overlap": lambda: pk.measure(stored, [median, Std(), Sparsity(), Overlap()]),
                "overlap and its null": lambda: pk.measure(stored, Overlap(null="permute")),
            }
        )


def run(cases: dict[str, Callable[[], object]]) -> None:
    """The least of a few rounds of each case, taken in turns, so that a busy machine is busy for all."""
    seconds, cpu = dict.fromkeys(cases, np.inf), dict.fromkeys(cases, np.inf)
    for _ in range(ROUNDS):
        for name, case in cases.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            case()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
            cpu[name] = min(cpu[name], time.process_time() - cpu_start)
    print(f"{SAMPLES} × {NODES} float32, {CLASSES} classes, {os.cpu_count()} cores; from a zarr store but where said")
    print(f"{'':36}{'seconds':>9}{'of CPU':>8}{'÷ median':>10}{'numpy ÷':>9}")
    for name, each in seconds.items():
        ratios = each / seconds["median"], next(iter(seconds.values())) / each
        print(f"{name:36}{each:9.3f}{cpu[name]:8.3f}{ratios[0]:10.2f}{ratios[1]:9.2f}")


if __name__ == "__main__":
    main()
