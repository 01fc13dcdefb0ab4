"""What opening a store and reading from it cost: ``python tests/benchmarks/bench_reading.py``."""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
import xarray as xr
from harness import Figure, Row, Table, alone, fresh, in_turn, ratio
from torch import nn
from torch.utils.data import DataLoader

import probekit as pk

SITES, NODES = 200, 2_048

OPENERS: dict[str, Callable[[Path], object]] = {
    "pk.open": lambda path: pk.open(path),
    "xr.open_datatree, consolidated": lambda path: xr.open_datatree(path, engine="zarr", consolidated=True),
    "xr.open_datatree": lambda path: xr.open_datatree(path, engine="zarr", consolidated=False),
}


def measure(options: argparse.Namespace) -> list[Table]:
    """What opening a store and reading from it cost."""
    return [opening(options.quick), one_node(options.quick), rows(options.quick)]


def opening(quick: bool) -> Table:
    """Opening a store of many sites: for the first time in a process, its imports done, and again and again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "acts.zarr"
        model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(SITES)))
        pk.capture(model, (torch.randn(1_000, 8), torch.arange(1_000) % 10), path, sites=nn.Linear)
        first = [fresh(seconds_to_open, str(path)) for _ in range(1 if quick else 3)]
        times = in_turn({name: partial(_open, name, path) for name in OPENERS}, 2 if quick else 5)
    ours = times["pk.open"]
    rows = [
        Row("pk.open, the first in a process", first, figures=[Figure(median(first), "seconds", 0.5)]),
        Row.timed("pk.open", ours, Figure(ours.middle, "seconds", 0.5)),
        *(Row.timed(name, times[name], ratio(times[name], ours, "pk.open")) for name in list(OPENERS)[1:]),
    ]
    return Table(f"opening a store of {SITES} sites", rows)


def seconds_to_open(path: str) -> float:
    opener = pk.open  # which imports what it needs
    start = perf_counter()
    opener(path)
    return perf_counter() - start


def _open(name: str, path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        OPENERS[name](path)


def one_node(quick: bool) -> Table:
    """One node of all samples, of a site that has several chunks side by side."""
    samples = 8_192 if quick else 32_768
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "acts.zarr"
        pk.capture(nn.Sequential(nn.Linear(64, NODES)), torch.randn(samples, 64), path, sites="0")
        activation = pk.open(path)["0"]["activation"]
        activation[0].to_numpy()  # the first of a process imports what dask needs
        read = bytes_read(lambda: activation.isel(node=NODES // 2).to_numpy())
        cases = {
            "all": lambda: pk.open(path)["0"]["activation"].to_numpy(),
            "one": lambda: pk.open(path)["0"]["activation"].isel(node=NODES // 2).to_numpy(),
        }
        times = in_turn(cases, 2 if quick else 5)
    column = activation.encoding["chunks"][1] * samples * activation.dtype.itemsize
    rows = [
        Row.timed("open and read all", times["all"]),
        Row.timed(
            f"open and read one node ({read / 1e6:.1f} MB)",
            times["one"],
            Figure(read / column, "bytes read ÷ its column of chunks", 1.01),
            ratio(times["one"], times["all"], "all nodes"),
        ),
    ]
    title = f"reading from the page cache, {samples:,} samples × {NODES:,} nodes, {activation.nbytes / 1e6:.0f} MB"
    return Table(title, rows)


def rows(quick: bool) -> Table:
    """All rows of a site in batches of 512, and the plain reads of the files that they lie in."""
    samples = 8_192 if quick else 60_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "acts.zarr"
        data = (torch.randn(samples, 64), torch.arange(samples) % 10)
        site = pk.capture(nn.Sequential(nn.Linear(64, 800)), data, path, sites="0")["0"]
        chunks = [file for file in (path / "0/activation/c").rglob("*") if file.is_file()]
        buffer = bytearray(max(file.stat().st_size for file in chunks))
        cases: dict[str, Callable[[], object]] = {
            "read() of the files": lambda: [_read_into(file, buffer) for file in chunks],
            "as_dataset(site).loader(512)": lambda: _exhaust(pk.as_dataset(site).loader(512)),
            "the same, shuffle=True": lambda: _exhaust(pk.as_dataset(site).loader(512, shuffle=True)),
            "DataLoader(as_dataset(site), 512)": lambda: _exhaust(DataLoader(pk.as_dataset(site), 512)),
        }
        times = in_turn(cases, 2 if quick else 5)
    plain = times["read() of the files"]
    lines = [Row.timed(name, timing, ratio(timing, plain, "read()")) for name, timing in list(times.items())[1:]]
    title = f"all rows in batches of 512, {samples:,} samples × 800 nodes, {site['activation'].nbytes / 1e6:.0f} MB"
    return Table(f"{title}, from the page cache", [Row.timed("read() of the files", plain), *lines])


def _read_into(file: Path, buffer: bytearray) -> None:
    with file.open("rb") as opened:
        opened.readinto(buffer)


def _exhaust(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


def bytes_read(work: Callable[[], object]) -> int:
    """What this process asks the kernel to read meanwhile, in the page cache or not."""
    before = _rchar()
    work()
    return _rchar() - before


def _rchar() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


if __name__ == "__main__":
    alone(measure)
