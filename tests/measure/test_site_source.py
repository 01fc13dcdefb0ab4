"""What is measured of activations of any shape and dtype, and how samples are grouped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import probekit as pk
from probekit.metrics import Mean, Overlap, Sparsity, median

LABELS = np.array([0, 2, 0, 2, 0, 0])
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def store(x: np.ndarray = X, *dims: str, **columns: object) -> xr.DataTree:
    root = xr.Dataset(
        {"class_name": ("label", np.array(["ant", "bee", "cat"], dtype=object))} if "label" in columns else {},
        {name: ("sample", values) for name, values in columns.items()} | {"sample_id": ("sample", np.arange(len(x)))},
    )
    activation = xr.Dataset({"activation": (("sample", *(dims or ("node",)[: x.ndim - 1])), x)})
    return xr.DataTree.from_dict({"/": root, "site": activation})


@pytest.mark.parametrize(
    ("shape", "dims", "axes"),
    [
        ((6, 3, 5, 2), ("channel", "y", "x"), (2, 3)),
        ((6, 5, 3), ("position", "node"), 1),
        ((6, 2, 5, 3), ("a", "b", "c"), (1, 2)),
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_positions_are_pooled_by_their_mean(
    shape: tuple[int, ...], dims: tuple[str, ...], axes: tuple[int, ...], stored: bool, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    tree = store(x, *dims, label=LABELS)
    if stored:
        tree.to_zarr(
            tmp_path / "a", encoding={"/site": {"activation": {"chunks": (2, *(1 for _ in dims))}}}, consolidated=False
        )
        tree = xr.open_datatree(tmp_path / "a", engine="zarr", chunks=None, consolidated=False)
    result = pk.measure(tree, median)["site"]
    pooled = x.mean(axes, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(result["median"].sel(label=2), np.median(pooled[LABELS == 2], axis=0))
    assert result.attrs["positions"] == f"mean of {x[0].size // 3}"


def test_a_number_a_sample_is_one_node() -> None:
    result = pk.measure(store(X[:, 0], label=LABELS), median)["site"]
    assert dict(result["median"].sizes) == {"label": 3, "node": 1}
    assert result["median"].sel(label=0).item() == np.median(X[LABELS == 0, 0])
    assert "positions" not in result.attrs


@pytest.mark.parametrize(
    ("dtype", "measured"),
    [
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.int8, np.float64),
        (bool, np.float64),
    ],
)
def test_values_are_measured_exactly_in_a_wider_dtype(dtype: type, measured: type) -> None:
    x = (X > 0) if dtype is bool else (X * 5).astype(dtype)
    result = pk.measure(store(x, label=LABELS), [median, Mean(), Sparsity()])["site"]
    expected = [x[code == LABELS].astype(measured) for code in (0, 2)]
    present = result.sel(label=[0, 2])
    assert result["median"].dtype == measured
    assert result["median"].attrs["dtype"] == str(np.dtype(dtype))
    np.testing.assert_array_equal(present["median"], [np.median(each, axis=0) for each in expected])
    np.testing.assert_allclose(present["mean"], [each.mean(0, dtype=np.float64) for each in expected], rtol=1e-14)
    np.testing.assert_array_equal(present["sparsity"], [(each <= 0).mean(0) for each in expected])


def test_classes_without_samples_are_there_as_nan() -> None:
    result = pk.measure(store(label=LABELS), [median, Mean(), Sparsity()])["site"]
    np.testing.assert_array_equal(result["label"], [0, 1, 2])
    np.testing.assert_array_equal(result["class_name"], ["ant", "bee", "cat"])
    for name in ("median", "mean", "sparsity"):
        assert np.isnan(result[name].sel(label=1)).all()
        assert not np.isnan(result[name].sel(label=[0, 2])).any()


def test_labels_without_names_are_the_values_there_are() -> None:
    tree = xr.DataTree.from_dict(
        {"/": store(label=LABELS).to_dataset().drop_vars("class_name"), "site": store()["site"]}
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
    tree = store(label=LABELS, correct=np.array(values, dtype=object if isinstance(values[0], str) else None))
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
    results = pk.measure(store(**columns), [median, Mean(), Sparsity(), pk.metrics.Histogram()], by=by)
    result = results["site"]
    assert results.attrs["by"] == "none"
    assert result["median"].dims == result["sparsity"].dims == ("node",)
    assert result["histogram"].dims == ("node", "bin")
    assert not {"label", "class_name"} & set(result.coords)
    np.testing.assert_array_equal(result["median"], np.median(X, axis=0))
    np.testing.assert_array_equal(result["sparsity"], result["sparsity_node"])


def test_a_metric_of_pairs_needs_groups() -> None:
    with pytest.raises(pk.errors.DataError, match=r"'overlap' compares classes.*not grouped"):
        pk.measure(store(label=LABELS), Overlap(), by=None)


@pytest.mark.parametrize(
    ("by", "message"),
    [("corect", "no column 'corect'.*label, correct, loss, sample_id.*Near: 'correct'"), ("loss", "'loss'.*float64")],
)
def test_a_column_that_cannot_group_is_named(by: str, message: str) -> None:
    tree = store(label=LABELS, correct=LABELS > 0, loss=np.ones(6))
    with pytest.raises(pk.errors.DataError, match=message):
        pk.measure(tree, median, by=by)


def test_labels_beyond_the_named_classes_are_refused() -> None:
    with pytest.raises(pk.errors.DataError, match=r"from 0 to 3.*3 classes"):
        pk.measure(store(label=[0, 1, 2, 3, 0, 0]), median)


def test_a_site_with_other_rows_than_samples_is_refused() -> None:
    tree = xr.DataTree.from_dict({"/": store(label=LABELS).to_dataset(), "odd": store(X, "node").to_dataset()})
    tree["odd"] = xr.DataTree(xr.Dataset({"activation": (("frame", "node"), X)}))
    with pytest.raises(pk.errors.DataError, match=r"'odd' have the dims \('frame', 'node'\).*6 samples"):
        pk.measure(tree, median)


@pytest.mark.parametrize("shape", [(0, 4), (6, 0)])
def test_nothing_to_measure_is_said(shape: tuple[int, int]) -> None:
    with pytest.raises(pk.errors.DataError, match=r"no samples|empty: shape \(6, 0\)"):
        pk.measure(store(np.ones(shape), label=LABELS[: shape[0]]), median)


@pytest.mark.parametrize(
    ("positions", "pool"),
    [("max", lambda x: x.max((2, 3))), ("each", lambda x: x.transpose(0, 2, 3, 1).reshape(-1, 3))],
)
def test_positions_are_pooled_or_observed_as_asked(positions: str, pool: Callable[[np.ndarray], np.ndarray]) -> None:
    x = np.random.default_rng(0).normal(size=(6, 3, 5, 2)).astype(np.float32)
    result = pk.measure(store(x, "channel", "y", "x", label=LABELS), ["median", "std"], positions=positions)["site"]
    values, of_two = pool(x), np.repeat(LABELS == 2, 10 if positions == "each" else 1)
    np.testing.assert_array_equal(result["median"].sel(label=2), np.median(values[of_two], axis=0))
    np.testing.assert_allclose(result["std"].sel(label=2), values[of_two].astype(float).std(0), rtol=1e-6)
    assert result["median"].attrs["n"] == len(values)
    assert result.attrs["positions"] == f"{positions} of 10"


@pytest.mark.parametrize(
    "where",
    [
        {"label": 0, "fold": ["a", "c"]},
        np.array([1, 0, 0, 0, 1, 0], bool),
        xr.DataArray(np.array([1, 0, 0, 0, 1, 0], bool), dims="sample"),
    ],
)
def test_only_what_is_asked_for_is_measured(where: Any) -> None:
    tree = store(label=LABELS, fold=np.array(list("abcbab"), dtype=object))
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
        ([True, False], r"mask of 6 bools, one a sample.*shape \(2,\)"),
        (np.arange(6), "it is int64 of shape"),
    ],
)
def test_a_choice_of_samples_that_makes_no_sense_is_refused(where: Any, message: str) -> None:
    with pytest.raises(pk.errors.DataError, match=message):
        pk.measure(store(label=LABELS), "mean", where=where)


def test_samples_are_grouped_by_whether_the_model_was_right() -> None:
    tree = store(label=LABELS, prediction=np.array([0, 2, 1, 2, 0, 2]))
    result = pk.measure(tree, "median", by="correct")["site"]["median"]
    right = np.array([1, 1, 0, 1, 1, 0], bool)
    assert result["class_name"].values.tolist() == ["False", "True"]
    np.testing.assert_array_equal(result.sel(label=True), np.median(X[right], axis=0))
    np.testing.assert_array_equal(result.sel(label=False), np.median(X[~right], axis=0))
    only = pk.measure(tree, "median", where={"correct": False})["site"]["median"]
    np.testing.assert_array_equal(only.sel(label=0), np.median(X[[2, 5]], axis=0))


def test_samples_with_a_nan_are_left_out_where_that_is_asked_for() -> None:
    broken = X.copy()
    broken[1, 2] = broken[4, 0] = np.nan
    tree = store(broken, label=LABELS)
    tree["whole"] = xr.Dataset({"activation": (("sample", "node"), X)})
    with pytest.raises(pk.errors.DataError, match=r"'site' holds NaN at 2 of its nodes.*nan='omit'"):
        pk.measure(tree, "mean")
    metrics = ["median", "mean", "sparsity", "overlap"]
    result = pk.measure(tree, metrics, nan="omit")
    kept = np.array([0, 2, 3, 5])
    alone = pk.measure(store(X[kept], label=LABELS[kept]), metrics)["site"]
    for name in alone.data_vars:
        np.testing.assert_array_equal(result["site"][name], alone[name])
    assert result["site"]["median"].attrs["omitted"] == 2
    assert result["whole"]["median"].attrs["n"] == 6
    assert "omitted" not in result["whole"]["median"].attrs


def test_a_site_of_nan_alone_is_refused() -> None:
    with pytest.raises(pk.errors.DataError, match="Site 'site': all 6 observations hold a NaN"):
        pk.measure(store(np.full_like(X, np.nan), label=LABELS), "mean", nan="omit")


@pytest.mark.parametrize("option", [{"nan": "ignore"}, {"positions": "median"}])
def test_a_policy_that_there_is_not_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(pk.errors.DataError, match=r"it is '.*' or '.*'"):
        pk.measure(store(label=LABELS), "mean", **option)


def test_infinite_positions_are_pooled_without_a_word() -> None:
    x = np.ones((6, 3, 2, 2), np.float32)
    x[0, 1, 0], x[2, 2, 0, 0], x[2, 2, 1, 1] = np.inf, 3e38, 3e38
    result = pk.measure(store(x, "channel", "y", "x", label=LABELS), "max")["site"]["max"]
    assert result.sel(label=0).values.tolist() == [1, np.inf, pytest.approx(1.5e38)]
