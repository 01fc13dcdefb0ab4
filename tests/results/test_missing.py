"""Results in which nothing is known: each reason is said once, by measure and by the summary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import probekit as pk
from probekit.errors import MissingWarning

OF_CLASSES = ["overlap", "ks", "auroc", "wasserstein", "dprime"]


def tree(x: np.ndarray, y: np.ndarray) -> xr.DataTree:
    sites = {name: xr.Dataset({"activation": (("sample", "node"), x.astype(np.float32))}) for name in "ab"}
    return xr.DataTree.from_dict({"/": xr.Dataset(coords={"label": ("sample", y)}), **sites})


RNG = np.random.default_rng(0)
FEW = tree(RNG.normal(size=(300, 4)), np.repeat(np.arange(100), 3))
GELU = tree(nn.functional.gelu(torch.from_numpy(RNG.normal(size=(60, 4)))).numpy(), np.arange(60) % 3)
CONSTANT = tree(np.ones((60, 4)), np.arange(60) % 3)
ALONE = tree(RNG.normal(size=(60, 4)), np.zeros(60, int))
CASES = {
    "few samples": (
        FEW,
        OF_CLASSES,
        "at least min_count samples .*; otherwise use fisher .here 100 classes have 300 samples",
    ),
    "samples in cells of their own": (
        GELU,
        ["mutual_information:bins=64"],
        "more samples than bins; otherwise use fisher .here 3 classes have 60 samples",
    ),
    "values below 0": (GELU, ["selectivity"], "nodes go below 0 .*use auroc or dprime"),
    "constant nodes": (CONSTANT, ["procrustes"], "nodes that aren't constant"),
    "one class": (
        ALONE,
        [*OF_CLASSES, "fisher", "rsa", "silhouette"],
        "compare classes, and there is one: group by ano",
    ),
}


@pytest.mark.parametrize(("store", "metrics", "why"), CASES.values(), ids=CASES)
def test_a_reason_is_said_once_by_measure_and_by_the_summary(store: xr.DataTree, metrics: list[str], why: str) -> None:
    with pytest.warns(MissingWarning, match=why) as warned:
        found = pk.measure(store, [*metrics, "mean"])
    assert len(warned) == 1
    assert str(warned[0].message).count("missing") == 1
    (note,) = [each for each in pk.summary(found).notes if " missing for " in each]
    names = note.partition(" is missing" if len(metrics) == 1 else " are missing")[0].split(", ")
    assert len(names) == len(metrics)
    assert str(warned[0].message).startswith(", ".join(names))


def test_fisher_is_no_advice_where_it_has_no_number_either() -> None:
    with pytest.warns(MissingWarning, match="told otherwise. .here 60 classes have 60 samples") as warned:
        pk.measure(tree(RNG.normal(size=(60, 4)), np.arange(60)), "auroc")
    assert "fisher" not in str(warned[0].message)


def test_the_classes_that_have_samples_count() -> None:
    store = tree(RNG.normal(size=(60, 4)), np.arange(60) % 3)
    with pytest.warns(MissingWarning, match="compare classes, and there is one: group by another column"):
        found = pk.measure(store, ["fisher", "rsa", "linear_probe"], where={"label": 1})
    assert found["a"]["fisher"].attrs["classes"] == 1
    with pytest.warns(MissingWarning, match=r"min_count samples .10 unless told otherwise. .here 2 classes have 4 sam"):
        pk.measure(tree(RNG.normal(size=(6, 4)), np.arange(6) % 3), "auroc", where={"label": [0, 2]})


def test_samples_that_are_not_grouped_are_the_reason() -> None:
    store = xr.DataTree.from_dict({"a": tree(RNG.normal(size=(60, 4)), np.zeros(60))["a"].to_dataset()})
    with pytest.warns(MissingWarning, match="they compare classes, and the samples are not grouped: the store has no"):
        found = pk.measure(store, ["fisher", "linear_probe", "knn_accuracy"])
    assert pk.summary(found).to_dataframe()["classes"].eq(0).all()
    data = torch.randn(60, 4), torch.arange(60) % 3
    with pytest.warns(MissingWarning, match="it compares classes, and the samples are not grouped"):
        pk.measure_live(nn.Sequential(nn.ReLU()), data, "fisher", sites="0", by=None)


def test_what_is_known_somewhere_is_no_warning() -> None:
    x = np.abs(RNG.normal(size=(60, 4)))
    x[0, 2] = -1
    found = pk.measure(tree(x, np.arange(60) % 3), "selectivity")
    assert [each for each in pk.summary(found).notes if "selectivity is missing for 2 of 8 values at a, b" in each]


def test_a_running_model_warns_too() -> None:
    data = torch.randn(60, 4), torch.arange(60) % 3
    with pytest.warns(MissingWarning, match="selectivity is missing for 4 of 4 values at 0: nodes go below 0"):
        pk.measure_live(nn.Sequential(nn.GELU()), data, "selectivity", sites="0")
