"""A path is told to hold a store, results, or neither."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import xarray as xr

import probekit as pk
from probekit._results.opening import holds_results, is_store, open_any
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


def test_results_go_to_netcdf_and_back(store: str, tmp_path: Path) -> None:
    measured = pk.measure(store, ["mean", "auroc"])
    measured.to_netcdf(tmp_path / "m.nc")
    with open_any(tmp_path / "m.nc") as found:
        assert str(pk.summary(found)) == str(pk.summary(measured))
        assert holds_results(tmp_path / "m.nc")
        xr.testing.assert_equal(found["0"].to_dataset(), measured["0"].to_dataset())
    xr.Dataset({"x": 1}).to_netcdf(tmp_path / "x.nc")
    with pytest.raises(StoreError, match=r"x\.nc holds no results"):
        open_any(tmp_path / "x.nc")
    (tmp_path / "y.nc").write_text("no netCDF")
    with pytest.raises(StoreError, match=r"y\.nc can't be read as netCDF.*pip install h5netcdf"):
        open_any(tmp_path / "y.nc")


def test_results_in_place_of_a_store_are_said_to_be_results(store: str, tmp_path: Path) -> None:
    pk.measure(store, ["mean"], out=tmp_path / "m.zarr")
    for use in (pk.open, pk.measure, pk.info, pk.verify):
        with pytest.raises(StoreError, match=r"m\.zarr isn't a store: it holds results .*Give the store that was meas"):
            use(tmp_path / "m.zarr")
