"""A study on a cluster of real processes: the networks of one process, though a worker is killed meanwhile."""

from __future__ import annotations

import importlib
import os
import signal
import time
from pathlib import Path
from threading import Thread
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


def kill_a_worker(cluster: Any, folder: Path, killed: list[int]) -> None:
    """Kill the worker whose training leaves the first checkpoint of a network that isn't one of the search."""
    wanted = folder / "checkpoints" / "2x16-bn.pt"
    while not wanted.exists():
        time.sleep(0.001)
    killed.extend(worker.pid for worker in cluster.workers.values())
    os.kill(killed[0], signal.SIGKILL)
    os.kill(killed[1], signal.SIGKILL)


def test_networks_of_a_cluster_are_those_of_one_process(cluster: Any, unmeasured: None, tmp_path: Path) -> None:
    killed: list[int] = []
    folder = tmp_path / "there" / "relu-vs-sigmoid" / "digits"
    killer = Thread(target=kill_a_worker, args=(cluster, folder, killed))
    killer.start()
    recipe.run(**SMALL, out=tmp_path / "there", scheduler=cluster.scheduler_address)
    killer.join()
    assert len(killed) == 2
    recipe.run(**SMALL, out=tmp_path / "here")
    for there, here in zip(tables(tmp_path / "there"), tables(tmp_path / "here"), strict=True):
        pd.testing.assert_frame_equal(there, here)
    assert not any((folder / "checkpoints").iterdir())


def test_errors_of_a_training_come_through(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(ProbekitError, match="No scheduler"):
        recipe.run(**SMALL, out=tmp_path, scheduler="tcp://127.0.0.1:1")
    settings = recipe.resolve({"source": "missing.npz"})
    given = settings.shapes[0], settings, tmp_path, 1, None, "cpu"
    with distributed.Client(cluster) as client:  # as a result, which nobody tries again
        error = client.submit(recipe.cluster._train, *given).result()
    assert isinstance(error, DataError)
    assert "missing.npz" in str(error)
