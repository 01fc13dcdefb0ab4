"""Trainings on a cluster of real processes: the same networks as in one process, even if its workers are killed."""

from __future__ import annotations

import importlib
import os
import signal
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from probekit.errors import DataError, ProbekitError
from probekit.recipes.relu_vs_sigmoid.training.jobs import on_cluster
from tests.recipes.trainings import assert_same_study, jobs, no_training, small_study

distributed = pytest.importorskip("distributed")
recipe = importlib.import_module("probekit.recipes.relu_vs_sigmoid")


def kill_workers(cluster: Any, checkpoint: Path, over: Event, killed: list[int]) -> None:
    """Kill them all during the training that writes this checkpoint; give up when everything is over."""
    while not checkpoint.exists():
        if over.wait(0.001):
            return
    for worker in cluster.workers.values():
        killed.append(worker.pid)
        os.kill(worker.pid, signal.SIGKILL)


@pytest.mark.slow
def test_networks_of_a_cluster_are_those_of_one_process(cluster: Any, tmp_path: Path) -> None:
    killed: list[int] = []
    long = {"epochs": 15, "patience": 0}  # so that there is time to kill workers
    over, there = Event(), jobs(tmp_path / "there", every=1, **long)
    killer = Thread(target=kill_workers, args=(cluster, there.folder / "checkpoints" / "2x24-bn.pt", over, killed))
    killer.start()
    try:
        shapes = list(on_cluster(cluster.scheduler_address, there, None, "cpu"))
    finally:
        over.set()
        killer.join()
    assert len(killed) == 2
    assert sorted(configs[0].shape for configs in shapes) == ["2x24", "2x24-bn"]
    assert_same_study(small_study(replace(there, progress=no_training)), small_study(jobs(tmp_path / "here", **long)))
    assert not any((there.folder / "checkpoints").iterdir())


@pytest.mark.slow
def test_errors_of_a_training_come_through_and_are_not_tried_again(cluster: Any, tmp_path: Path) -> None:
    small = jobs(tmp_path)
    missing = replace(small, settings=replace(small.settings, source="missing.npz"))
    log = cluster.scheduler.transition_log
    before = len(log)
    with pytest.raises(DataError, match=r"missing\.npz"):
        list(on_cluster(cluster.scheduler_address, missing, None, "cpu"))
    started = [key for key, _, state, *_ in list(log)[before:] if state == "processing"]
    assert started
    assert len(started) == len(set(started))


def test_a_run_needs_the_cluster_that_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probekit.cluster.CONNECT_SECONDS", 0.5)
    with pytest.raises(ProbekitError, match="No scheduler"):
        recipe.run(depths=(1,), widths=(8,), out=tmp_path, scheduler="tcp://127.0.0.1:1")
