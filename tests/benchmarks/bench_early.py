"""What a capture of an early layer costs: ``python tests/benchmarks/bench_early.py``.

The third of the twelve layers of a GPT-2-like decoder, with each forward pass left after it and with whole passes,
against only running the model. The decoder has no head, which would make whole passes dearer still.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from bench_probe import VOCABULARY, Decoder
from harness import Row, Table, alone, in_turn, ratio
from loops import Work, forward
from torch import nn

import probekit as pk

SITE, POSITIONS = "blocks.2", 16
FORWARD, WHOLE, EARLY = "forward only", "capture", "capture, stop_early=True"


def measure(options: argparse.Namespace) -> list[Table]:
    """What a capture of layer 3 of 12 costs with stop_early, against whole passes."""
    torch.manual_seed(0)
    model = Decoder().eval()
    model.head = nn.Identity()
    samples, rounds = (8, 1) if options.quick else (144, 3)
    x, y = torch.randint(0, VOCABULARY, (samples, POSITIONS)), torch.zeros(samples, dtype=torch.int64)
    work = Work(model, x, y, 8, (SITE,))
    with TemporaryDirectory() as folder:
        store = partial(captured, work, Path(folder) / "acts.zarr")
        cases = {
            FORWARD: partial(forward, work),
            WHOLE: partial(store, stop_early=False),
            EARLY: partial(store, stop_early=True),
        }
        times = in_turn(cases, rounds)
    table = Table(f"early, layer 3 of {len(model.blocks)} of a decoder, {samples} × {POSITIONS} tokens")
    table.add(
        Row.timed(FORWARD, times[FORWARD]),
        Row.timed(WHOLE, times[WHOLE], ratio(times[WHOLE], times[FORWARD], FORWARD)),
        Row.timed(EARLY, times[EARLY], ratio(times[EARLY], times[FORWARD], FORWARD, 0.4)),
    )
    return [table]


def captured(work: Work, out: Path, *, stop_early: bool) -> None:
    options = {"sites": list(work.sites), "batch_size": work.batch, "overwrite": True}
    pk.capture(work.model, (work.x, work.y), out, stop_early=stop_early, **options)


if __name__ == "__main__":
    alone(measure)
