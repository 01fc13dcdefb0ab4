"""Small trainings for several test files, also for a process that a test kills."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits

from probekit.progress import Progress, silent
from probekit.recipes.relu_vs_sigmoid.data import Split, split_arrays
from probekit.recipes.relu_vs_sigmoid.settings import resolve
from probekit.recipes.relu_vs_sigmoid.training.jobs import Jobs, trained
from probekit.recipes.relu_vs_sigmoid.training.networks import Trained

T = TypeVar("T")

SMALL = {
    "depths": (2,),
    "widths": (24,),
    "seeds": 2,
    "epochs": 16,
    "patience": 4,
    "search_epochs": 2,
    "batch_size": 128,
}

Study = list[tuple[list[Trained], pd.DataFrame | None]]


def digits() -> Split:
    data = load_digits()
    return split_arrays(data.images, data.target, tuple("0123456789"))


def jobs(folder: Path, progress: Progress = silent, every: int = 2, **given: object) -> Jobs:
    return Jobs(resolve({**SMALL, **given}), digits(), folder, every, progress)


def small_study(jobs: Jobs) -> Study:
    """A learning-rate search and then a training for each of two shapes."""
    return [trained(configs, jobs) for configs in jobs.settings.shapes]


def killed_study(folder: Path, sign: str, threads: int) -> None:
    """A small study whose process is killed in the first epoch after the file `sign` is in the folder."""

    def progress(items: Iterable[T], /, description: str, total: int | None = None) -> Iterator[T]:
        for item in items:
            if (folder / sign).exists():
                os.kill(os.getpid(), signal.SIGKILL)
            yield item

    torch.set_num_threads(threads)
    small_study(jobs(folder, progress, every=1))


def same(one: list[Trained], other: list[Trained]) -> bool:
    """Whether two trainings gave the same members, curves and weights, bit by bit."""
    return all(
        a.member == b.member
        and (a.best.epoch, a.last.epoch) == (b.best.epoch, b.last.epoch)
        and all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a.curves, b.curves, strict=True))
        and all(torch.equal(v, b.best.network.state_dict()[name]) for name, v in a.best.network.state_dict().items())
        for a, b in zip(one, other, strict=True)
    )


def assert_same_study(found: Study, expected: Study) -> None:
    for (networks, searched), (theirs, their_search) in zip(found, expected, strict=True):
        assert searched is not None
        assert their_search is not None
        pd.testing.assert_frame_equal(searched.drop(columns="seconds"), their_search.drop(columns="seconds"))
        assert same(networks, theirs)


def no_training(items: Iterable[T], /, description: str, total: int | None = None) -> Iterator[T]:
    """A progress for jobs that must find everything finished."""
    raise AssertionError(f"trained again: {description}")
