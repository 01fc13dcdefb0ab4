"""`.probekit` on xarray's trees, datasets and arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import probekit as pk
from probekit import plot
from probekit._accessor import FIGURES
from probekit.errors import DataError
from probekit.plot import Drawing
from tests.stores import three_sites

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return three_sites(tmp_path_factory.mktemp("store") / "acts.zarr")


@pytest.fixture(scope="module")
def measured(store: Path) -> xr.DataTree:
    return pk.measure(store, ["median", "auroc"])


def test_a_store_is_measured(store: Path, measured: xr.DataTree) -> None:
    tree = pk.open(store)
    xr.testing.assert_identical(tree.probekit.measure(["median", "auroc"]), pk.measure(tree, ["median", "auroc"]))
    for one in (tree["1"], tree["1"].to_dataset(), tree["1"]["activation"]):
        (found,) = one.probekit.measure("median").children.values()
        np.testing.assert_array_equal(found["median"], measured["1"]["median"])


def test_a_store_is_exported_and_read(store: Path, tmp_path: Path) -> None:
    tree = pk.open(store)
    tree["1"].probekit.export(tmp_path / "out", "npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "1" / "activation.npy"), tree["1"]["activation"])
    assert len(tree["1"].probekit.as_dataset()) == 50


def test_results_are_summed_up(measured: xr.DataTree) -> None:
    whole = pk.summary(measured)
    assert measured.probekit.summary() == whole
    assert str(measured.probekit.top(per_class=2)) == str(pk.top(measured, per_class=2))
    pd.testing.assert_frame_equal(measured.probekit.to_dataframe("median"), pk.to_dataframe(measured, "median"))
    expected = [each for each in whole.readings if each.site == "1"]
    for one in (measured["1"], measured["1"].to_dataset()):
        assert list(one.probekit.summary().readings) == expected
    (reading,) = measured["1"]["median"].probekit.summary().readings
    assert (reading.metric, reading.value) == ("median", expected[0].value)


def test_results_are_drawn(measured: xr.DataTree) -> None:
    for drawing in (measured.probekit.plot.medians(), measured["1"].probekit.plot.heatmap("1", "median")):
        assert isinstance(drawing, Drawing)
    assert {*measured.probekit.plot(["medians"])} == {"medians"}
    with pytest.raises(AttributeError, match="no figure 'images' of one tree; there are by_class"):
        measured.probekit.plot.images()


def test_it_says_what_it_has(measured: xr.DataTree) -> None:
    assert repr(measured.probekit) == (
        "What probekit does with this DataTree: .as_dataset, .export, .measure, .plot, .report, .summary, "
        ".to_dataframe, .top"
    )


def test_every_figure_of_one_tree_is_there() -> None:
    functions = {name: getattr(plot, name) for name in plot.__all__ if inspect.isfunction(getattr(plot, name))}
    first = {name: next(iter(inspect.signature(each).parameters.values())) for name, each in functions.items()}
    of_a_tree = {name for name, given in first.items() if given.name in ("tree", "trees", "source")}
    assert {*FIGURES} == of_a_tree - {"medians_grid"}  # which takes several
    assert {*FIGURES} <= {*dir(xr.DataTree().probekit.plot)}


def test_a_report_is_written(measured: xr.DataTree, tmp_path: Path) -> None:
    page = measured["1"].probekit.report(tmp_path / "page.html")
    assert "auroc" in page.read_text("utf-8")


def test_a_store_has_no_summary(store: Path) -> None:
    with pytest.raises(DataError, match=r"measured is a store.*Measure it"):
        pk.open(store).probekit.summary()


@pytest.mark.parametrize(
    "code",
    [
        "import xarray as xr, probekit",
        "import probekit as pk, xarray as xr; pk.open",
        "import probekit as pk, xarray as xr; pk.measure",
    ],
)
def test_it_is_there_once_xarray_and_probekit_are(python: Callable[..., Any], code: str) -> None:
    done = python(f"{code}; print(hasattr(xr.Dataset(), 'probekit'))", paths=(ROOT,))
    assert done.stdout.strip() == "True", done.stderr
