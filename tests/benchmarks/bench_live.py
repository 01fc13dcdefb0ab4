"""What metrics cost while a model runs: ``python tests/benchmarks/bench_live.py``."""

from __future__ import annotations

import argparse
from functools import partial

from harness import Row, Table, alone, in_turn, ratio
from loops import Work, forward, mlp, resnet

import probekit as pk
from probekit.metrics import AUROC, KS, Entropy, Mean, MutualInformation, Overlap, Sparsity, Std, median

FORWARD = "forward only"


def measure(options: argparse.Namespace) -> list[Table]:
    """Moments and sparsity of a model as it runs, against only running it."""
    models = {
        "MLP 784–4×200–10": (mlp(6_000 if options.quick else 60_000), 9, 2.0),
        "ResNet-18, images of 64²": (resnet(64 if options.quick else 1_024), 3, 1.05),
    }
    return [table(*given, name, quick=options.quick) for name, given in models.items()] + [end(quick=options.quick)]


def table(work: Work, rounds: int, limit: float, name: str, *, quick: bool) -> Table:
    live = partial(pk.measure_live, work.model, (work.x, work.y), sites=list(work.sites), batch_size=work.batch)
    times = in_turn(
        {
            FORWARD: partial(forward, work),
            "std, sparsity": partial(live, metrics=[Std(), Sparsity()]),
            "mean, std, sparsity": partial(live, metrics=[Mean(), Std(), Sparsity()]),
            "median, from a sketch": partial(live, metrics=median),
        },
        1 if quick else rounds,
    )
    made = Table(f"live, {name}, {len(work.x):,} samples, {len(work.sites)} sites")
    for case, timing in times.items():
        judged = limit if case == "std, sparsity" else None
        made.add(
            Row.timed(case, timing, *([] if case == FORWARD else [ratio(timing, times[FORWARD], FORWARD, judged)]))
        )
    return made


def end(*, quick: bool) -> Table:
    """Column metrics of more samples than are kept: what it costs to count them, and the results at the end."""
    work = mlp(100_000 if quick else 200_000)
    live = partial(pk.measure_live, work.model, (work.x, work.y), sites=list(work.sites), batch_size=work.batch)
    every = [median, AUROC(), KS(), Overlap(), MutualInformation(), Entropy()]
    cases = {FORWARD: partial(forward, work)} | {each.name: partial(live, metrics=each) for each in every}
    times = in_turn(cases | {"all of these": partial(live, metrics=every)}, 1 if quick else 3)
    made = Table(f"live, column metrics of {len(work.x):,} samples in 10 classes, {len(work.sites)} sites")
    for case, timing in times.items():
        made.add(Row.timed(case, timing, *([] if case == FORWARD else [ratio(timing, times[FORWARD], FORWARD)])))
    return made


if __name__ == "__main__":
    alone(measure)
