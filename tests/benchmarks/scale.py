"""What large measurements cost: ``make bench BENCH=--scale``, or ``python tests/benchmarks/scale.py``.

Each case has its data made on the spot (gigabytes; ``--only tokens`` runs one case) and runs in a process of its own:
its time beside a loop by hand over the same store, the bytes that it reads beside those of the store, and its peak
memory, beyond what the process had, beside `memory`.
"""

from __future__ import annotations

import argparse
import gc
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, islice
from math import comb, prod
from pathlib import Path
from typing import Any

import dask.array  # noqa: F401  # what a store's first use in a process would import
import numpy as np
import torch
import xarray as xr
from bench_reading import bytes_read
from harness import Figure, Row, Table, alone, forked
from scipy.stats import ks_2samp, wasserstein_distance
from torch import nn

import probekit as pk
from probekit._sizes import parse_size

__all__ = ["Data", "ours_of", "written"]

LOOPED = 40  # pairs of classes that scipy's loop runs over, at one node
BATCH = 2**26  # bytes of the activations that are made at a time
READS = 5.0  # how often a store may be read at most
PEAK = 1.25  # the peak of memory at most, as a multiple of `memory`


@dataclass(frozen=True)
class Data:
    """The sizes of a store: what a sample is, and how many there are."""

    shape: tuple[int, ...]
    samples: int
    classes: int
    sites: int = 1

    @property
    def small(self) -> Data:
        """So few that it is only seen to run."""
        return replace(self, shape=(self.shape[0] // 16, *self.shape[1:]), samples=self.samples // 20)

    def __str__(self) -> str:
        many = f"{self.sites} sites of " if self.sites > 1 else ""
        gigabytes = 4e-9 * self.samples * self.sites * prod(self.shape)
        sizes = " × ".join(f"{each:,}" for each in (self.samples, *self.shape))
        return f"{many}{sizes}, {self.classes:,} classes, {gigabytes:.2g} GB"


@dataclass(frozen=True)
class Case:
    """What is measured of a store at a time, in so much memory; `small`, and the second memory, are for ``--quick``."""

    full: Data
    small: Data
    measured: list[list[str]]
    memory: tuple[str, str]


CASES = {
    "wide": Case(
        Data((4096,), 200_000, 10),
        Data((256,), 4_000, 10),
        [["mean", "std"], ["median", "quantile"]],
        ("1GiB", "32MiB"),
    ),
    "maps": Case(Data((512, 14, 14), 20_000, 10), Data((32, 14, 14), 400, 10), [["mean", "std"]], ("1GiB", "32MiB")),
    "classes": Case(
        Data((512,), 50_000, 1_000),
        Data((16,), 4_000, 80),
        [["dprime", "fisher"], ["ks"], ["wasserstein"]],
        ("1GiB", "256MiB"),
    ),
    "tokens": Case(Data((256,), 5_000_000, 10), Data((16,), 100_000, 10), [["median", "quantile"]], ("1GiB", "4MiB")),
    "sites": Case(
        Data((512,), 6_000, 10, 300),
        Data((64,), 1_000, 10, 12),
        [["mean", "std", "median"]],
        ("256MiB", "32MiB"),
    ),
}


def measure(options: argparse.Namespace) -> list[Table]:
    """What large measurements cost."""
    return [table(name, options.quick) for name in CASES if options.only in (None, name)]


def table(name: str, quick: bool) -> Table:
    case = CASES[name]
    data, memory = (case.small if quick else case.full), case.memory[quick]
    found = Table(f"{name}: {data}, memory={memory}")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "acts.zarr")
        forked(written, path, data)
        for metrics in case.measured:
            ours, loop = forked(ours_of, path, metrics, memory), forked(by_hand, path, metrics)
            found.add(
                Row(f"{', '.join(metrics)}, by hand", [loop["seconds"]], cpu=loop["cpu"], note=loop["note"]),
                Row(
                    ", ".join(metrics),
                    [ours["seconds"]],
                    cpu=ours["cpu"],
                    figures=[
                        Figure(ours["seconds"] / loop["seconds"], f"÷ the loop by hand{loop['note']}"),
                        Figure(ours["cpu"] / loop["cpu"], "÷ its CPU time"),
                        Figure(ours["read"], "bytes read ÷ the store's", READS),
                        Figure(ours["peak"], "peak ÷ memory", None if quick else PEAK),
                    ],
                ),
            )
    return found


def written(path: str, data: Data) -> None:
    """Write a store of sigmoids, whose classes are a little apart, with a column of numbers, `age`."""

    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sigmoid()
            self.layers = nn.ModuleList(nn.Identity() for _ in range(data.sites))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            for layer in self.layers:
                x = layer(x.roll(1, 1))
            return x

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        generator, rows = torch.Generator().manual_seed(0), min(500, BATCH // (4 * data.sites * prod(data.shape)))
        for start in range(0, data.samples, rows):
            y = torch.arange(start, min(start + rows, data.samples)) % data.classes
            x = torch.randn((len(y), *data.shape), generator=generator)
            x += 0.3 * torch.sin(y.float()).reshape(-1, *[1] * len(data.shape))
            yield {"x": x, "label": y, "age": y + torch.rand(len(y), generator=generator)}

    names, sites = [str(code) for code in range(data.classes)], "layers.*" if data.sites > 1 else "first"
    pk.capture(
        Several().eval(), batches(), path, sites=sites, class_names=names, columns={"age": "age"}, memory="256MiB"
    )


def ours_of(path: str, metrics: list[str], memory: str, target: str | None = None) -> dict[str, float]:
    """The seconds of a measurement, by the clock and of CPU, and what it reads and holds as multiples of its bounds.

    It holds its results in addition, which don't count.
    """
    tree = pk.open(path)
    few = tree.isel(sample=slice(0, 64))
    with warnings.catch_warnings(action="ignore"):  # so few samples are no result
        pk.measure(few, metrics, sites=[*tree.children][:2], target=target, memory="4GiB")  # imports
    gc.collect()  # the results of that measurement
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on
    before, start, cpu = status("VmRSS"), time.perf_counter(), time.process_time()
    results: list[xr.DataTree] = []
    read = bytes_read(lambda: results.append(pk.measure(path, metrics, target=target, memory=memory)))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    bound, kept = parse_size(memory), sum(each.nbytes for each in results)
    return {
        "seconds": seconds,
        "cpu": cpu,
        "read": read / sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file()),
        "peak": (status("VmHWM") - before - kept) / bound,
    }


def status(name: str) -> int:
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def by_hand(path: str, metrics: list[str]) -> dict[str, Any]:
    """The seconds of a loop over the store, a column of chunks at a time; `note` says where it is scaled."""
    torch.set_num_threads(1)
    tree = pk.open(path)
    next(iter(tree.children.values()))["activation"][:1].to_numpy()  # imports
    if metrics[0] in PAIRS:
        return pairs(PAIRS[metrics[0]], tree)
    start, cpu = time.perf_counter(), time.process_time()
    for site in tree.children.values():
        columns(site, [STATISTICS[metric] for metric in metrics])
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "note": ""}


def columns(site: xr.DataTree, statistics: Sequence[Callable[[np.ndarray], np.ndarray]]) -> None:
    array, y = site["activation"], site["label"].values
    node, width = array.dims[1], array.encoding["chunks"][1]
    for first in range(0, array.sizes[node], width):
        x = array.isel({node: slice(first, first + width)}).to_numpy()
        x = x.reshape(*x.shape[:2], -1).mean(axis=2) if x.ndim > 2 else x
        for code in np.unique(y):
            of_class = x[y == code]
            for statistic in statistics:
                statistic(of_class)


def pairs(function: Callable[[np.ndarray, np.ndarray], object], tree: xr.DataTree) -> dict[str, Any]:
    """Scipy's loop over some pairs at one node, for all of them."""
    site = next(iter(tree.children.values()))
    x, y = site["activation"].isel(node=0).to_numpy(), site["label"].values
    classes = np.unique(y)
    of_class = [x[y == code] for code in classes]
    start, cpu = time.perf_counter(), time.process_time()
    for a, b in islice(combinations(of_class, 2), LOOPED):
        function(a, b)
    scale = comb(len(classes), 2) * site["activation"].sizes["node"] / LOOPED
    seconds, cpu = scale * (time.perf_counter() - start), scale * (time.process_time() - cpu)
    return {"seconds": seconds, "cpu": cpu, "note": f", of which {LOOPED} pairs were run"}


def cohens_d(a: np.ndarray, b: np.ndarray) -> float:
    return float(abs(a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 2))


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": partial(np.mean, axis=0),
    "std": partial(np.std, axis=0),
    "median": partial(np.median, axis=0),
    "quantile": partial(np.quantile, q=pk.metrics.Quantile().q, axis=0),
}
PAIRS: dict[str, Callable[[np.ndarray, np.ndarray], object]] = {
    "dprime": cohens_d,
    "ks": lambda a, b: ks_2samp(a, b, method="asymp"),
    "wasserstein": wasserstein_distance,
}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=CASES, help="run one case")


if __name__ == "__main__":
    alone(measure, options)
