"""Classes by their names, in results and in stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import probekit as pk

X, Y = torch.randn(30, 4), torch.arange(30) % 3
MODEL = nn.Sequential(nn.Identity())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sel") / "acts.zarr"
    pk.capture(MODEL, (X, Y), path, sites="0", class_names=["ant", "bee", "cat"])
    return path


@pytest.mark.parametrize(("label", "codes"), [("cat", 2), (2, 2), (["cat", 0], [2, 0]), (["bee"], [1])])
def test_results_are_selected_as_xarray_does_by_codes(store: Path, label: Any, codes: Any) -> None:
    measured = pk.measure(store, ["mean", "auroc", "sparsity", "cka"])
    found = pk.sel(measured, label=label)
    for name in ("mean", "sparsity"):
        xr.testing.assert_identical(found["0"][name], measured["0"][name].sel(label=codes))
    assert found["0"]["auroc"].dims[-2:] == measured["0"]["auroc"].dims[-2:]  # label_b stays
    xr.testing.assert_identical(found["cka"], measured["cka"])
    assert pk.summary(found).headlines.keys() == pk.summary(measured).headlines.keys()


def test_a_store_keeps_the_samples_of_the_classes(store: Path) -> None:
    found = pk.sel(pk.open(store), label=["bee", 2])
    kept = np.isin(Y.numpy(), [1, 2])
    np.testing.assert_array_equal(found["0"]["activation"], X.numpy()[kept])
    np.testing.assert_array_equal(found["0"]["label"], Y.numpy()[kept])
    np.testing.assert_array_equal(found["sample_id"], np.arange(30)[kept])
    measured = pk.measure(found, "mean")["0"]["mean"]
    np.testing.assert_allclose(measured.sel(label=1), X.numpy()[Y.numpy() == 1].mean(0, dtype=float), rtol=1e-6)


@pytest.mark.parametrize("label", ["kat", 3, ["ant", "kat"]])
def test_a_class_that_there_is_not_is_named(store: Path, label: Any) -> None:
    for tree in (pk.open(store), pk.measure(store, "mean")):
        with pytest.raises(pk.errors.DataError, match=r"label asks for the class .* there are 'ant', 'bee', 'cat'"):
            pk.sel(tree, label=label)


def test_without_labels_nothing_is_selected(store: Path) -> None:
    with pytest.raises(pk.errors.DataError, match="no labels"):
        pk.sel(pk.measure(store, "mean", by=None), label=0)
