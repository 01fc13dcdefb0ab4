"""Measuring on a cluster of real processes: the numbers of threads, whoever is killed meanwhile."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import xarray as xr

import probekit as pk
from probekit.metrics import Block, Variables

distributed = pytest.importorskip("distributed")

METRICS = ["median", "std", "sparsity", "overlap", "effective_rank", "top_samples", "cka"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cluster") / "acts.zarr"
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(3)))
    pk.capture(model, (torch.randn(600, 64), torch.arange(600) % 4), path, sites=["0", "1", "2"], batch_size=100)
    return path


@pytest.mark.slow
def test_a_cluster_gives_the_same_numbers(store: Path, cluster: Any, tmp_path: Path) -> None:
    expected = pk.measure(store, METRICS)
    found = pk.measure(store, METRICS, scheduler=cluster.scheduler_address, out=tmp_path / "m.zarr", memory="8MiB")
    xr.testing.assert_identical(found, expected)
    xr.testing.assert_identical(xr.open_datatree(tmp_path / "m.zarr", engine="zarr").load(), expected)


class Where:
    """A column metric that tells in which process it ran, and is killed with it when it finds a file to take."""

    name, version, parameters = "where", 1, {}
    kill: ClassVar[Path | None] = None

    def __init__(self, victim: Path | None = None) -> None:
        self.victim = victim

    def compute(self, block: Block) -> Variables:
        if self.victim is not None:
            try:
                self.victim.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            except FileNotFoundError:
                pass  # another has been killed for it
        return {"where": (("node",), np.full(block.nodes, os.getpid()))}


@pytest.mark.slow
def test_an_active_client_is_used(store: Path, cluster: Any) -> None:
    with distributed.Client(cluster):
        ran = pk.measure(store, Where())
    processes = {int(process) for site in ran.children.values() for process in site["where"].values}
    assert os.getpid() not in processes
    ran = pk.measure(store, Where())
    assert {int(process) for site in ran.children.values() for process in site["where"].values} == {os.getpid()}


@pytest.mark.slow
def test_a_killed_worker_costs_its_blocks_only(store: Path, cluster: Any, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    with warnings.catch_warnings(action="ignore"):
        found = pk.measure(store, ["median", Where(victim)], scheduler=cluster.scheduler_address)
    assert not victim.exists(), "nobody was killed"
    expected = pk.measure(store, "median")
    for site in expected.children:
        np.testing.assert_array_equal(found[site]["median"], expected[site]["median"])


@pytest.mark.slow
def test_an_error_of_a_worker_is_that_of_a_thread(store: Path, cluster: Any) -> None:
    with pytest.raises(pk.errors.PluginError, match=r"The metric 'saturation' can't be measured at site '[012]'"):
        pk.measure(store, "saturation", scheduler=cluster.scheduler_address)


def test_a_scheduler_that_is_not_there_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probekit.cluster.CONNECT_SECONDS", 0.5)
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(pk.errors.ProbekitError, match=r"No scheduler of a cluster answers at 'tcp:"),
    ):
        pk.measure(store, "median", scheduler="tcp://127.0.0.1:1")
