"""Results that go to disk or into a table and come back: every built-in metric's, for activations of any dtype."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import probekit as pk
from probekit import plugins
from probekit.metrics import Block, Variables

DTYPES = [torch.bool, torch.int32, torch.float16, torch.float32, torch.float64]
NEEDED = {"saturation": ":bounds=(-9, 9)"}  # parameters without which a metric can't be measured here
LABELS = np.arange(60) % 3
X = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) * 3


class Cast(nn.Module):
    """Gives its input in another dtype; for bool whether it is positive."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.cast = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = x > 0 if self.dtype == torch.bool else x.to(self.dtype)
        return self.cast(given)


def stored(dtype: torch.dtype, folder: Path) -> Path:
    columns, names = {"age": np.linspace(0, 1, len(X))}, ["ant", "bee", "cat"]
    pk.capture(Cast(dtype), (X, LABELS), folder / "acts.zarr", sites="cast", columns=columns, class_names=names)
    return folder / "acts.zarr"


@pytest.fixture(params=DTYPES, ids=str, scope="module")
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.DataTree, Path]:
    """The results of all metrics that are built in, and the store that they were written to."""
    names = [p.name for p in plugins.find(plugins.METRICS).values() if p.distribution == "probekit-torch"]
    assert len(names) > 30
    folder = tmp_path_factory.mktemp("measured")
    metrics = [f"{name}{NEEDED.get(name, '')}" for name in names]
    return pk.measure(stored(request.param, folder), metrics, target="age", out=folder / "m.zarr"), folder / "m.zarr"


def assert_same(opened: xr.DataTree, results: xr.DataTree) -> None:
    """The same values of the same dtypes, with the same coordinates and attributes."""
    xr.testing.assert_identical(opened.load(), results.load())
    for node in results.subtree:
        for name, variable in node.data_vars.items():
            assert opened[node.path][name].dtype == variable.dtype, f"{node.path} {name}"


def test_every_result_comes_back_from_zarr(written: tuple[xr.DataTree, Path]) -> None:
    results, out = written
    assert_same(xr.open_datatree(out, engine="zarr"), results)


def test_every_result_comes_back_from_netcdf(written: tuple[xr.DataTree, Path], tmp_path: Path) -> None:
    results, _ = written
    results.to_netcdf(tmp_path / "m.nc", engine="h5netcdf")
    assert_same(xr.open_datatree(tmp_path / "m.nc", engine="h5netcdf"), results)


def test_every_result_comes_back_from_a_table(written: tuple[xr.DataTree, Path]) -> None:
    results, _ = written
    for key, site in results.children.items():
        for name, variable in site.data_vars.items():
            table = pk.to_dataframe(results, str(name))
            column = table.loc[table["site"] == key, str(name)]
            assert column.dtype == variable.dtype
            np.testing.assert_array_equal(column.to_numpy(), variable.values.ravel(), err_msg=f"{key} {name}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_watch_comes_back_as_it_was_measured(dtype: torch.dtype, tmp_path: Path) -> None:
    metrics = ["mean", "count", "min", "median", "histogram", "sparsity", "std", "auroc"]
    watch = pk.Watch(Cast(dtype), (X, LABELS), metrics, every=1, sites="cast", out=tmp_path / "w.zarr")
    steps = [watch(0), watch(1)]
    opened = xr.open_datatree(tmp_path / "w.zarr", engine="zarr")
    for number, step in enumerate(steps):
        assert step is not None
        for name, variable in step["cast"].data_vars.items():
            again = opened["cast"][name].isel(step=number)
            assert again.dtype == variable.dtype, name
            np.testing.assert_array_equal(again.values, variable.values, err_msg=f"{number} {name}")


class Positive:
    """A metric that gives bools."""

    name, version, parameters = "positive", 1, {}

    def compute(self, block: Block) -> Variables:
        return {"positive": (("node",), block.values.mean(1) > 0)}


def test_bools_of_a_metric_stay_bools(tmp_path: Path) -> None:
    expected = X.double().mean(0).numpy() > 0
    pk.measure(stored(torch.float32, tmp_path), Positive(), out=tmp_path / "m.zarr")
    watch = pk.Watch(Cast(torch.float32), (X, LABELS), Positive(), every=1, sites="cast", out=tmp_path / "w.zarr")
    for step in range(3):
        watch(step)
    for file in ("m.zarr", "w.zarr"):
        found = xr.open_datatree(tmp_path / file, engine="zarr")["cast"]["positive"]
        assert found.dtype == bool
        np.testing.assert_array_equal(np.atleast_2d(found), [expected] * np.atleast_2d(found).shape[0])
