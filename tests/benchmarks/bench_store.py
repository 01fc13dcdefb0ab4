"""What a capture costs, beside what a person writes by hand: ``python tests/benchmarks/bench_store.py``.

The limit L of a capture is the loop that only runs forward, plus one plain ``write()`` of the same bytes to new files
in blocks of 8 MB. After each case its files are synced and emptied, which isn't timed. They are in ``TMPDIR``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from uuid import uuid4

import torch
from harness import Figure, Row, Table, Timing, alone, fresh, in_turn, peak_mib, ratio
from loops import BY_HAND, CLASSES, FEATURES, PEERS, capture, forward, mlp, raw_write, relu_mlp, resnet, zarr_write
from torch import Tensor, nn

import probekit as pk

SLOW = "hooks, a zarr write a batch"
MEMORY_MIB = 256


def measure(options: argparse.Namespace) -> list[Table]:
    """What capturing into a store costs."""
    return [part(options.quick) for part in (compare, compare_peers, compare_resnet, memory)]


@contextmanager
def cleared(folder: Path) -> Iterator[None]:
    """A new folder, whose content is gone afterwards with nothing left for the disk to do.

    Its files are emptied and moved aside rather than removed: for minutes ext4 looks past each inode that was freed
    whenever it makes a file, which would cost later rounds 0.4 ms a file for what earlier ones left behind.
    """
    folder.mkdir()
    yield
    os.sync()
    for file in folder.rglob("*"):
        if file.is_file():
            os.truncate(file, 0)
    folder.rename(folder.with_name(uuid4().hex))
    os.sync()


@contextmanager
def scratch() -> Iterator[tuple[Path, Callable[[str], AbstractContextManager[None]]]]:
    """Where a case puts its files, and what makes and clears it around each case."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "files"
        yield folder, lambda name: cleared(folder)


def compare(quick: bool) -> Table:
    """The MLP: a capture, the limit, and what is written by hand."""
    work = mlp(6_000 if quick else 60_000)
    activations = work.activations()
    hand = {name: loop for name, loop in BY_HAND.items() if "h5py" not in name or importlib.util.find_spec("h5py")}
    with scratch() as (folder, around):
        cases = {
            "forward only": partial(forward, work),
            "raw write": partial(raw_write, activations, folder),
            "pk.capture": partial(capture, work, folder),
        } | {name: partial(loop, work, folder) for name, loop in {**hand, SLOW: zarr_write}.items()}
        times = in_turn(cases, 2 if quick else 9, fewer={SLOW: 1 if quick else 3}, around=around)
    megabytes = sum(values.nbytes for values in activations.values()) / 1e6
    name = f"MLP {FEATURES}–4×200–{CLASSES}, {len(work.x):,} samples, {megabytes:.0f} MB"
    missing = [Row(loop, [], note="not installed") for loop in BY_HAND if loop not in hand]
    return Table(f"capture, {name}", [*_rows(times, hand), *missing])


def _rows(times: dict[str, Timing], hand: dict[str, object]) -> list[Row]:
    bare, ours = times["forward only"], times["pk.capture"]
    limit = bare + times["raw write"]
    best = min(hand, key=lambda name: times[name].middle)
    judged = ratio(ours, limit, "L", 1.2), ratio(ours, times[best], f"best by hand ({best})", 1.2)
    return [
        Row.timed("forward only", bare),
        Row.timed("raw write", times["raw write"]),
        Row.timed("L = forward only + raw write", limit, ratio(limit, bare, "forward only")),
        Row.timed("pk.capture", ours, *judged, ratio(ours, bare, "forward only")),
        *(Row.timed(name, times[name], ratio(times[name], bare, "forward only")) for name in (*hand, SLOW)),
    ]


def compare_peers(quick: bool) -> Table:
    """Other libraries, each in a process of its own, since some change torch for all that follows in theirs."""
    samples = 1_024 if quick else 60_000
    table = Table(f"the same MLP, {samples:,} samples, beside other libraries")
    for name in ("probekit", *PEERS):
        rounds = 1 if quick or name == "torchlens" else 3
        if importlib.util.find_spec(name):
            bare, theirs = (Timing(**timing) for timing in fresh(peer, name, samples, rounds))
            table.add(Row.timed(name, theirs, ratio(theirs, bare, "forward only")))
        else:
            table.add(Row(name, [], note="not installed"))
    return table


def peer(name: str, samples: int, rounds: int) -> list[dict[str, list[float]]]:
    """The loop that only runs forward, and after its rounds that of a library, each warmed up on a few batches."""
    work, loop = mlp(samples), {"probekit": capture, **PEERS}[name]
    with scratch() as (folder, around):
        forward(work)
        bare = in_turn({name: partial(forward, work)}, rounds, warm_up=False)
        with cleared(folder):
            loop(work.first(2 * work.batch), folder)
        theirs = in_turn({name: partial(loop, work, folder)}, rounds, warm_up=False, around=around)
    return [asdict(bare[name]), asdict(theirs[name])]


def compare_resnet(quick: bool) -> Table:
    work = resnet(128 if quick else 2_048)
    activations = work.activations()
    with scratch() as (folder, around):
        cases = {
            "forward only": partial(forward, work),
            "raw write": partial(raw_write, activations, folder),
            "pk.capture": partial(capture, work, folder),
        }
        times = in_turn(cases, 1 if quick else 5, around=around)
    limit, ours = times["forward only"] + times["raw write"], times["pk.capture"]
    megabytes = sum(values.nbytes for values in activations.values()) / 1e6
    name = f"ResNet-18, {len(work.x):,} images of 64², {megabytes:.0f} MB"
    rows = [
        Row.timed("forward only", times["forward only"]),
        Row.timed("L = forward only + raw write", limit),
        Row.timed("pk.capture", ours, ratio(ours, limit, "L", 1.05)),
    ]
    return Table(f"capture, {name}", rows)


def memory(quick: bool) -> Table:
    """Peak memory, each case in a process of its own."""
    table = Table("peak memory, the same MLP, samples in a stream")
    for samples in (6_000,) if quick else (60_000, 600_000):
        bare, ours = (fresh(peak, case, samples) for case in ("forward", "capture"))
        beyond = Figure(ours - bare - MEMORY_MIB, f"MiB beyond forward only and {MEMORY_MIB}", 100)
        table.add(
            Row(f"forward only, {samples:,} samples", [bare], "MiB"),
            Row(f"pk.capture, memory={MEMORY_MIB}MiB, {samples:,} samples", [ours], "MiB", figures=[beyond]),
        )
    return table


def peak(case: str, samples: int) -> float:
    """The peak of this process's memory after a loop over as many samples, in MiB."""
    keep, model = pk.capture, relu_mlp()  # importing what a capture needs, in either case
    if case == "capture":
        with tempfile.TemporaryDirectory() as folder:
            keep(model, batches(samples), Path(folder) / "acts.zarr", sites=nn.ReLU, memory=f"{MEMORY_MIB}MiB")
            return peak_mib()
    with torch.no_grad():
        for x, _ in batches(samples):
            model(x)
    return peak_mib()


def batches(samples: int) -> Iterator[tuple[Tensor, Tensor]]:
    for labels in (torch.arange(samples) % CLASSES).split(512):
        yield torch.rand(len(labels), FEATURES), labels


if __name__ == "__main__":
    alone(measure)
