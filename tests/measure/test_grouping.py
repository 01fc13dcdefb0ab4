"""How samples are grouped, and which of them are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import probekit as pk
from probekit.metrics import Mean, Overlap, Sparsity, median
from tests.stores import LABELS, X, one_site


def test_classes_without_samples_are_there_as_nan() -> None:
    result = pk.measure(one_site(label=LABELS), [median, Mean(), Sparsity()])["site"]
    np.testing.assert_array_equal(result["label"], [0, 1, 2])
    np.testing.assert_array_equal(result["class_name"], ["ant", "bee", "cat"])
    for name in ("median", "mean", "sparsity"):
        assert np.isnan(result[name].sel(label=1)).all()
        assert not np.isnan(result[name].sel(label=[0, 2])).any()


def test_labels_without_names_are_the_values_there_are() -> None:
    tree = xr.DataTree.from_dict(
        {"/": one_site(label=LABELS).to_dataset().drop_vars("class_name"), "site": one_site()["site"]}
    )
    result = pk.measure(tree, median)["site"]
    np.testing.assert_array_equal(result["label"], [0, 2])
    np.testing.assert_array_equal(result["class_name"], ["0", "2"])


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([True, True, False, True, False, False], ["False", "True"]),
        (list("baabba"), ["a", "b"]),
        ([7, 7, 3, 7, 3, 9], ["3", "7", "9"]),
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_samples_are_grouped_by_any_column(
    values: list[object], names: list[str], stored: bool, tmp_path: Path
) -> None:
    tree = one_site(label=LABELS, correct=np.array(values, dtype=object if isinstance(values[0], str) else None))
    if stored:
        tree.to_zarr(tmp_path / "a", consolidated=False)
        tree = xr.open_datatree(tmp_path / "a", engine="zarr", chunks=None, consolidated=False)
    results = pk.measure(tree, [median, Mean()], by="correct", out=tmp_path / "results.zarr")
    result = xr.open_datatree(tmp_path / "results.zarr", engine="zarr")["site"]
    assert results.attrs["by"] == "correct"
    np.testing.assert_array_equal(result["class_name"].values.astype(object), names)
    for value in set(values):
        ours = X[[value == each for each in values]]
        np.testing.assert_array_equal(result["median"].sel(label=value), np.median(ours, axis=0))


@pytest.mark.parametrize(("columns", "by"), [({}, "label"), ({"label": LABELS}, None)])
def test_without_groups_results_have_no_dim_label(columns: dict[str, object], by: str | None) -> None:
    results = pk.measure(one_site(**columns), [median, Mean(), Sparsity(), pk.metrics.Histogram()], by=by)
    result = results["site"]
    assert results.attrs["by"] == "none"
    assert result["median"].dims == result["sparsity"].dims == ("node",)
    assert result["histogram"].dims == ("node", "bin")
    assert not {"label", "class_name"} & set(result.coords)
    np.testing.assert_array_equal(result["median"], np.median(X, axis=0))
    np.testing.assert_array_equal(result["sparsity"], result["sparsity_node"])


def test_a_metric_of_pairs_needs_groups() -> None:
    with pytest.raises(pk.errors.DataError, match=r"'overlap' compares classes.*not grouped"):
        pk.measure(one_site(label=LABELS), Overlap(), by=None)


@pytest.mark.parametrize(
    ("by", "message"),
    [("corect", "no column 'corect'.*label, correct, loss, sample_id.*Near: 'correct'"), ("loss", "'loss'.*float64")],
)
def test_a_column_that_cannot_group_is_named(by: str, message: str) -> None:
    tree = one_site(label=LABELS, correct=LABELS > 0, loss=np.ones(6))
    with pytest.raises(pk.errors.DataError, match=message):
        pk.measure(tree, median, by=by)


def test_labels_beyond_the_named_classes_are_refused() -> None:
    with pytest.raises(pk.errors.DataError, match=r"from 0 to 3.*3 classes"):
        pk.measure(one_site(label=[0, 1, 2, 3, 0, 0]), median)


@pytest.mark.parametrize(
    "where",
    [
        {"label": 0, "fold": ["a", "c"]},
        np.array([1, 0, 0, 0, 1, 0], bool),
        xr.DataArray(np.array([1, 0, 0, 0, 1, 0], bool), dims="sample"),
    ],
)
def test_only_what_is_asked_for_is_measured(where: Any) -> None:
    tree = one_site(label=LABELS, fold=np.array(list("abcbab"), dtype=object))
    result = pk.measure(tree, ["median", "mean", "count"], where=where)["site"]
    chosen = [0, 2, 4] if isinstance(where, dict) else [0, 4]
    np.testing.assert_array_equal(result["median"].sel(label=0), np.median(X[chosen], axis=0))
    np.testing.assert_allclose(result["mean"].sel(label=0), X[chosen].mean(0, dtype=float), rtol=1e-12)
    assert result["count"].sum("label").values.tolist() == [len(chosen)] * 4
    assert result["median"].attrs["n"] == len(chosen)
    assert np.isnan(result["median"].sel(label=2)).all(), "a class that isn't measured is missing, not gone"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"label": 7}, "selects none of the 6 samples"),
        ({"lable": 0}, r"no column 'lable'.*Near: 'label'"),
        ([True, False], r"mask of 6 bools, one per sample.*shape \(2,\)"),
        (np.arange(6), "it is int64 of shape"),
    ],
)
def test_a_choice_of_samples_that_makes_no_sense_is_refused(where: Any, message: str) -> None:
    with pytest.raises(pk.errors.DataError, match=message):
        pk.measure(one_site(label=LABELS), "mean", where=where)


def test_samples_are_grouped_by_whether_the_model_was_right() -> None:
    tree = one_site(label=LABELS, prediction=np.array([0, 2, 1, 2, 0, 2]))
    result = pk.measure(tree, "median", by="correct")["site"]["median"]
    right = np.array([1, 1, 0, 1, 1, 0], bool)
    assert result["class_name"].values.tolist() == ["False", "True"]
    np.testing.assert_array_equal(result.sel(label=True), np.median(X[right], axis=0))
    np.testing.assert_array_equal(result.sel(label=False), np.median(X[~right], axis=0))
    only = pk.measure(tree, "median", where={"correct": False})["site"]["median"]
    np.testing.assert_array_equal(only.sel(label=0), np.median(X[[2, 5]], axis=0))


@pytest.mark.parametrize("asked", ["cat", ["cat"], ["cat", 2], 2])
@pytest.mark.parametrize("column", ["label", "prediction"])
def test_a_class_is_chosen_by_its_name_or_its_code(column: str, asked: Any) -> None:
    tree = one_site(label=LABELS, prediction=LABELS)
    found = pk.measure(tree, Mean(), by=None, where={column: asked})["site"]["mean"]
    np.testing.assert_allclose(found, X[np.array(LABELS) == 2].mean(0), rtol=1e-6)


def test_predictions_are_groups_with_the_names_of_classes() -> None:
    found = pk.measure(one_site(label=LABELS, prediction=[2, 2, 1, 1, 2, 2]), Mean(), by="prediction")["site"]
    assert found["class_name"].values.tolist() == ["bee", "cat"]
    beyond = pk.measure(one_site(label=LABELS, prediction=[2, 2, 7, 7, 2, 2]), Mean(), by="prediction")["site"]
    assert beyond["class_name"].values.tolist() == ["2", "7"]  # which aren't codes of these classes


def test_a_class_that_there_is_not_is_named() -> None:
    with pytest.raises(pk.errors.DataError, match=r"class 'kat'; there are 'ant', 'bee', 'cat', .*Near: 'cat'"):
        pk.measure(one_site(label=LABELS), Mean(), where={"label": ["kat"]})
