"""A study on a cluster of real processes: the networks of one process, though its workers are killed meanwhile."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pandas as pd
import pytest

from probekit.errors import DataError, ProbekitError

distributed = pytest.importorskip("distributed")
recipe = importlib.import_module("probekit.recipes.relu_vs_sigmoid")

SMALL = {"depths": (1, 2), "widths": (16,), "seeds": 2, "epochs": 6, "search_epochs": 1, "checkpoint_every": 1}


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe without what comes after the trainings, which is the same everywhere."""
    monkeypatch.setattr(recipe.figures, "draw", lambda *args: {})
    monkeypatch.setattr(recipe.page, "report", lambda *args: args[-1] / "report.html")


def tables(out: Path) -> list[pd.DataFrame]:
    folder = out / "relu-vs-sigmoid" / "digits"
    return [
        pd.read_csv(folder / f"{name}.csv").drop(columns="seconds", errors="ignore")
        for name in ("results", "curves", "learning_rates")
    ]


def kill_workers(cluster: Any, checkpoint: Path, over: Event, killed: list[int]) -> None:
    """Kill them all while the training that leaves this checkpoint is under way; give up when all is over."""
    while not checkpoint.exists():
        if over.wait(0.001):
            return
    for worker in cluster.workers.values():
        killed.append(worker.pid)
        os.kill(worker.pid, signal.SIGKILL)


def test_networks_of_a_cluster_are_those_of_one_process(cluster: Any, unmeasured: None, tmp_path: Path) -> None:
    killed: list[int] = []
    over, checkpoints = Event(), tmp_path / "there" / "relu-vs-sigmoid" / "digits" / "checkpoints"
    killer = Thread(target=kill_workers, args=(cluster, checkpoints / "2x16-bn.pt", over, killed))
    killer.start()
    try:
        recipe.run(**SMALL, out=tmp_path / "there", scheduler=cluster.scheduler_address)
    finally:
        over.set()
        killer.join()
    assert len(killed) == 2
    recipe.run(**SMALL, out=tmp_path / "here")
    for there, here in zip(tables(tmp_path / "there"), tables(tmp_path / "here"), strict=True):
        pd.testing.assert_frame_equal(there, here)
    assert not any(checkpoints.iterdir())


def test_errors_of_a_training_come_through(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(ProbekitError, match="No scheduler"):
        recipe.run(**SMALL, out=tmp_path, scheduler="tcp://127.0.0.1:1")
    settings = recipe.resolve({"source": "missing.npz"})
    given = settings.shapes[0], settings, tmp_path, 1, None, "cpu"
    with distributed.Client(cluster) as client:  # as a result, which nobody tries again
        error = client.submit(recipe.cluster._train, *given).result()
    assert isinstance(error, DataError)
    assert "missing.npz" in str(error)
