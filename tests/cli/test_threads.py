"""A command leaves the cores to others that they use, says so, and lets the user decide."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

import probekit as pk
from tests.cli.conftest import Call


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def busy(monkeypatch: pytest.MonkeyPatch, load: float) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)


@pytest.mark.parametrize(("load", "threads"), [(0.2, 4), (1.6, 2), (2.9, 1), (60.0, 1)])
def test_a_capture_takes_the_cores_that_are_free(
    monkeypatch: pytest.MonkeyPatch, call: Call, model: str, load: float, threads: int
) -> None:
    busy(monkeypatch, load)
    code, _, err = call("capture", model, "digits", "acts.zarr", "--sites", "2")
    assert code == 0
    assert (f"Computing with {threads} of 4 threads" in err) == (threads < 4)
    assert pk.info("acts.zarr").attrs["threads"] == threads


def test_a_resumed_capture_keeps_its_threads(monkeypatch: pytest.MonkeyPatch, call: Call, model: str) -> None:
    busy(monkeypatch, 2)
    call("capture", model, "digits", "acts.zarr", "--sites", "2")
    torch.set_num_threads(4)
    busy(monkeypatch, 0)
    code, _, err = call("capture", model, "digits", "acts.zarr", "--sites", "2", "--resume")
    assert (code, torch.get_num_threads()) == (0, 2)
    assert "threads" not in err


def test_the_user_decides(monkeypatch: pytest.MonkeyPatch, call: Call, model: str) -> None:
    busy(monkeypatch, 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)  # as torch does when it is imported
    _, _, err = call("capture", model, "digits", "acts.zarr", "--sites", "2")
    assert torch.get_num_threads() == 3
    assert "threads" not in err
