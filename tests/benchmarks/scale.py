"""What large measurements cost: ``make bench BENCH=--scale``, or ``python tests/benchmarks/scale.py``.

Each case has its data made on the spot (gigabytes; ``--only tokens`` runs one case) and runs in a process of its own:
its time beside a loop by hand over the same store, the bytes that it reads beside those of the store, and its peak
memory, beyond what the process had, beside `memory`.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from bench_reading import bytes_read
from harness import Figure, Row, Table, alone, fresh
from scipy.stats import ks_2samp, wasserstein_distance
from torch import nn

import probekit as pk

LOOPED = 40  # pairs of classes that scipy's loop runs over, at one node
# The shape of a sample, their number, classes, sites; the same in small; what is measured in how much memory, in small.
CASES: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], dict[str, list[str]], tuple[str, str]]] = {
    "wide": (
        ([4096], 200_000, 10, 1),
        ([256], 4_000, 10, 1),
        {"means": ["mean", "std"], "medians": ["median", "quantile"]},
        ("1GiB", "32MiB"),
    ),
    "maps": (([512, 14, 14], 20_000, 10, 1), ([32, 14, 14], 400, 10, 1), {"means": ["mean", "std"]}, ("1GiB", "32MiB")),
    "classes": (
        ([512], 50_000, 1_000, 1),
        ([16], 4_000, 80, 1),
        {"dprime": ["dprime", "fisher"], "ks": ["ks"], "wasserstein": ["wasserstein"]},
        ("1GiB", "256MiB"),
    ),
    "tokens": (
        ([256], 5_000_000, 10, 1),
        ([16], 100_000, 10, 1),
        {"medians": ["median", "quantile"]},
        ("1GiB", "4MiB"),
    ),
    "sites": (
        ([512], 6_000, 10, 300),
        ([64], 1_000, 10, 12),
        {"means": ["mean", "std", "median"]},
        ("256MiB", "32MiB"),
    ),
}


def measure(options: argparse.Namespace) -> list[Table]:
    """What large measurements cost."""
    return [table(name, options.quick) for name in CASES if options.only in (None, name)]


def table(name: str, quick: bool) -> Table:
    full, small, measured, memories = CASES[name]
    shape, samples, classes, sites = small if quick else full
    memory = memories[quick]
    many = f"{sites} sites of " if sites > 1 else ""
    size = 4 * samples * sites * int(np.prod(shape))
    title = (
        f"{many}{samples:,} × {' × '.join(map(str, shape))}, {classes} classes, {size / 1e9:.2g} GB, memory={memory}"
    )
    found = Table(f"{name}: {title}")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "acts.zarr")
        fresh(write, path, shape, samples, classes, sites)
        for kind, metrics in measured.items():
            ours, loop = fresh(ours_of, path, metrics, memory), fresh(by_hand, path, kind)
            found.add(
                Row(f"{kind}, by hand", [loop["seconds"]], note=loop["note"]),
                Row(
                    ", ".join(metrics),
                    [ours["seconds"]],
                    cpu=ours["cpu"],
                    figures=[
                        Figure(ours["seconds"] / loop["seconds"], f"÷ the loop by hand{loop['note']}"),
                        Figure(ours["read"] / size, "bytes read ÷ the store's", 5.5),
                        Figure(ours["peak"] / ours["memory"], "peak ÷ memory", None if quick else 1.25),
                    ],
                ),
            )
    return found


def write(path: str, shape: list[int], samples: int, classes: int, sites: int) -> None:
    """A store of ReLUs; the classes are a little apart."""

    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.ReLU() for _ in range(sites))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x.roll(1, 1))
            return x

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for start in range(0, samples, 500):
            y = torch.arange(start, min(start + 500, samples)) % classes
            x = torch.randn((len(y), *shape), generator=generator)
            yield x + 0.3 * torch.sin(y.float()).reshape(-1, *[1] * len(shape)), y

    names = [str(code) for code in range(classes)]
    pk.capture(Several().eval(), batches(), path, sites="layers.*", class_names=names, memory="256MiB")


def ours_of(path: str, metrics: list[str], memory: str) -> dict[str, float]:
    tree = pk.open(path)
    few = tree.isel(sample=slice(0, 64))
    pk.measure(few, metrics, sites=next(iter(tree.children)), memory="1GiB")  # imports
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on
    before, start, cpu = status("VmRSS"), time.perf_counter(), time.process_time()
    read = bytes_read(lambda: pk.measure(path, metrics, memory=memory))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    bound = int(memory.removesuffix("GiB")) << 30 if memory.endswith("GiB") else int(memory.removesuffix("MiB")) << 20
    return {"seconds": seconds, "cpu": cpu, "read": read, "peak": status("VmHWM") - before, "memory": bound}


def status(name: str) -> int:
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def by_hand(path: str, kind: str) -> dict[str, Any]:
    """The seconds of a loop over the store, a column of chunks at a time; `note` says where it is scaled."""
    torch.set_num_threads(1)
    tree = pk.open(path)
    start, scale, note = time.perf_counter(), 1.0, ""
    if kind in LOOPS:
        scale, note = LOOPS[kind](tree)
    else:
        for site in tree.children.values():
            columns(site, np.median if kind == "medians" else np.mean)
    return {"seconds": scale * (time.perf_counter() - start), "note": note}


def columns(site: xr.DataTree, statistic: Callable[..., np.ndarray]) -> None:
    array, y = site["activation"], site["label"].values
    node, width = array.dims[1], array.encoding["chunks"][1]
    for first in range(0, array.sizes[node], width):
        x = array.isel({node: slice(first, first + width)}).to_numpy()
        x = x.reshape(*x.shape[:2], -1).mean(axis=2)
        for code in np.unique(y):
            statistic(x[y == code], axis=0)


def pairs(function: Callable[[np.ndarray, np.ndarray], object], tree: xr.DataTree) -> tuple[float, str]:
    """Scipy's loop over some pairs at one node, for all of them."""
    site = next(iter(tree.children.values()))
    x, y = site["activation"].isel(node=0).to_numpy(), site["label"].values
    classes = np.unique(y)
    for a, b in islice(combinations(classes, 2), LOOPED):
        function(x[y == a], x[y == b])
    every = len(classes) * (len(classes) - 1) / 2 * site["activation"].sizes["node"]
    return every / LOOPED, f", of which {LOOPED} pairs were run"


def cohens_d(a: np.ndarray, b: np.ndarray) -> float:
    return float(abs(a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 2))


LOOPS: dict[str, Callable[[xr.DataTree], tuple[float, str]]] = {
    "dprime": lambda tree: pairs(cohens_d, tree),
    "ks": lambda tree: pairs(lambda a, b: ks_2samp(a, b, method="asymp"), tree),
    "wasserstein": lambda tree: pairs(wasserstein_distance, tree),
}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=CASES, help="run one case")


if __name__ == "__main__":
    alone(measure, options)
