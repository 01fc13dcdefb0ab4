"""How samples are grouped, and which of them are measured."""

from __future__ import annotations

import re
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


RNG = np.random.default_rng(0)
T = RNG.normal(size=200) + 5 * (np.arange(200) % 2)


def ranged(t: np.ndarray, by: str, where: Any = None, **columns: Any) -> xr.DataArray:
    """How many of 200 samples in two classes lie in each range of the column t."""
    x, label = np.zeros((len(t), 1)), np.arange(len(t)) % 2
    columns = {name: ("sample", values) for name, values in {"label": label, "t": t, **columns}.items()}
    site = xr.Dataset({"activation": (("sample", "node"), x)}, columns)
    return pk.measure(site, "count", by=by, where=where)["activation"]["count"][:, 0]


@pytest.mark.parametrize("where", [None, {"label": 1}, {"label": 0}, np.arange(200) < 80])
def test_ranges_have_as_many_of_the_selected_samples_each(where: Any) -> None:
    chosen = T[
        where if isinstance(where, np.ndarray) else slice(None) if where is None else slice(where["label"], None, 2)
    ]
    found = ranged(T, "t:4", where)
    assert found.values.tolist() == [len(chosen) / 4] * 4
    edges = np.quantile(chosen, np.linspace(0, 1, 5))
    assert found["label"].values[1] == f"{edges[1]:.4g} to {edges[2]:.4g}"


@pytest.mark.parametrize("missing", [np.nan, np.inf])
def test_samples_without_a_number_that_are_left_out_need_no_range(missing: float) -> None:
    t = np.where(np.arange(200) < 20, missing, T)
    known = np.isfinite(t)
    for where in (known, {"known": True}):
        assert ranged(t, "t:4", where, known=known).values.tolist() == [45] * 4
    for where in (None, {"label": 1}):
        with pytest.raises(pk.errors.DataError, match=r"0 samples have no finite 't'.*by a column that tells them"):
            ranged(t, "t:4", where)


def of_tokens(t: np.ndarray, dose: np.ndarray) -> xr.DataTree:
    """Samples with as many tokens as their place, the first one with none; each token has its dose."""
    sample = np.repeat(np.arange(len(t)), np.arange(len(t)))
    root = xr.Dataset(coords={"sample_id": ("sample", np.arange(len(t))), "t": ("sample", t)})
    columns = {"sample_id": ("row", sample), "dose": ("row", dose), "first": ("row", np.diff(sample, prepend=0) > 0)}
    site = xr.Dataset({"activation": (("row", "node"), np.zeros((len(sample), 1)))}, columns)
    return xr.DataTree.from_dict({"/": root, "site": site})


def test_ranges_of_tokens_are_those_of_the_selected_samples() -> None:
    t = np.arange(12.0)
    t[8:] = np.nan
    tree = of_tokens(t, np.append(np.arange(60.0), [np.nan] * 6))
    for where in (t < 8, {"t": list(range(8))}):  # the sample without a token counts, too
        found = pk.measure(tree, "count", by="t:2", where=where)["site"]["count"][:, 0]
        assert found["label"].values.tolist() == ["0 to 3.5", "3.5 to 7"]
        assert found.values.tolist() == [1 + 2 + 3, 4 + 5 + 6 + 7]
    found = pk.measure(of_tokens(np.arange(12.0), np.zeros(66)), "count", by="t:2", where={"first": True})["site"]
    assert found["count"][:, 0].values.tolist() == [5, 6]
    of_rows = pk.measure(tree, "count", by="dose:2", where={"dose": list(range(20))})["site"]["count"][:, 0]
    assert of_rows.values.tolist() == [10, 10]


@pytest.mark.parametrize(
    ("t", "by", "advice"),
    [
        (np.maximum(0, T - 6.3), "t:2", r"Group by a column that has the groups that you mean\."),
        (np.where(np.arange(200) < 180, 0, np.arange(200)), "t:2", r"\. Group by the values themselves, by='t'\."),
        (np.arange(200) % 5, "t:6", r"Ask for fewer ranges, by='t:5', or group by the values themselves, by='t'\."),
        (np.arange(200) // 5 * 1.0, "t:60", r"Ask for fewer ranges, by='t:\d+'\."),
        (np.arange(10), "t:11", r"10 samples are too few for 11 ranges of 't'\. Ask for fewer ranges\."),
    ],
)
def test_ranges_that_ties_make_unequal_are_refused(t: np.ndarray, by: str, advice: str) -> None:
    with pytest.raises(pk.errors.DataError, match=advice) as raised:
        ranged(t, by)
    for proposed in re.findall(r"by='(.*?)'", str(raised.value)):
        assert ranged(t, proposed).sum() == len(t)


@pytest.mark.parametrize("n", [7, 11, 100])
def test_ranges_without_ties_differ_by_a_sample_at_most(n: int) -> None:
    for bins in range(2, n + 1):
        sizes = ranged(RNG.normal(size=n), f"t:{bins}")
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0])
def test_ranges_are_told_apart_by_as_few_digits_as_do(scale: float) -> None:
    labels = ranged(1e6 + scale * T, "t:3")["label"].values.tolist()
    edges = [label.split(" to ")[0] for label in labels]
    assert len({*labels}) == len({*edges}) == 3
    digits = max(len(edge.replace(".", "")) for edge in edges)
    assert digits > 6
    assert len({f"{float(edge):.{digits - 2}g}" for edge in edges}) < 3
