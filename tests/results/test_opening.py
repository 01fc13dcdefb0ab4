"""A path is told to hold a store, results, or neither."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import xarray as xr

import probekit as pk
from probekit._results.opening import is_store, open_any
from probekit.errors import StoreError

X, Y = torch.arange(12.0).reshape(6, 2), torch.arange(6) % 2


@pytest.fixture
def store(tmp_path: Path) -> str:
    pk.capture(torch.nn.Sequential(torch.nn.ReLU()), (X, Y), tmp_path / "acts.zarr", sites="0")
    return str(tmp_path / "acts.zarr")


def test_a_store_and_its_results_are_told_apart(store: str, tmp_path: Path) -> None:
    measured = pk.measure(store, ["mean"], out=tmp_path / "m.zarr")
    assert is_store(open_any(store))
    found = open_any(tmp_path / "m.zarr")
    assert not is_store(found)
    xr.testing.assert_equal(found["0"].to_dataset(), measured["0"].to_dataset())


def test_the_steps_of_a_training_are_results(tmp_path: Path) -> None:
    pk.Watch(torch.nn.Sequential(torch.nn.ReLU()), (X, Y), ["mean"], every=1, sites="0", out=tmp_path / "w.zarr")(0)
    assert open_any(tmp_path / "w.zarr")["step"].values.tolist() == [0]


@pytest.mark.parametrize("content", ["[]", "{", json.dumps({"attributes": {"title": "mine"}}), '{"attributes": 3}'])
def test_anything_else_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "other.zarr").mkdir()
    (tmp_path / "other.zarr" / "zarr.json").write_text(content)
    with pytest.raises(StoreError, match=r"other\.zarr is neither a store .* nor results"):
        open_any(tmp_path / "other.zarr")


def test_where_there_is_nothing_what_is_near_is_named(store: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store at .*act\.zarr\. Near: 'acts\.zarr'"):
        open_any(tmp_path / "act.zarr")
