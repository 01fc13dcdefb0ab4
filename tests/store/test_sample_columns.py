"""Trees whose sites have columns of their own: these win over the root's, as xarray sees it, wherever they are used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import probekit as pk
from probekit.errors import DataError
from tests.stores import one_site

N = 24
RNG = np.random.default_rng(5)
X, Z = RNG.normal(size=(2, N, 4))
LABELS = np.arange(N) % 3
COLUMNS = {"label": LABELS, "fold": np.array(list("ab"))[np.arange(N) // 3 % 2], "sample_id": np.arange(100, 100 + N)}


def site(x: np.ndarray = X, **columns: np.ndarray) -> xr.Dataset:
    return xr.Dataset({"activation": (("sample", "node"), x)}, {name: ("sample", v) for name, v in columns.items()})


def tree_of(root: dict[str, np.ndarray], **sites: xr.Dataset) -> xr.DataTree:
    columns = xr.Dataset(coords={name: ("sample", values) for name, values in root.items()})
    return xr.DataTree.from_dict({"/": columns, **sites})


SORTED = site(**COLUMNS).sortby("label")
TREE = tree_of(COLUMNS, sorted=SORTED, plain=site(Z))


@pytest.mark.parametrize("by", ["label", "fold"])
@pytest.mark.parametrize("metric", ["mean", "median", "std"])
def test_a_site_in_another_order_is_grouped_by_its_own_columns(by: str, metric: str) -> None:
    found = pk.measure(TREE, metric, by=by)
    for name, x in (
        ("sorted", SORTED["activation"]),
        ("plain", TREE["plain"]["activation"].assign_coords(TREE.coords)),
    ):
        expected = getattr(x.groupby(by), metric)()
        np.testing.assert_array_equal(found[name]["label"], expected[by])
        np.testing.assert_allclose(found[name][metric], expected, rtol=1e-12)


def test_a_site_in_another_order_is_chosen_from_by_its_own_columns() -> None:
    found = pk.measure(TREE, ["mean", "count"], where={"fold": "a", "label": [0, 2]}, by=None)
    chosen = (COLUMNS["fold"] == "a") & (LABELS != 1)
    for name, x in (("sorted", X), ("plain", Z)):
        np.testing.assert_allclose(found[name]["mean"], x[chosen].mean(0))
        assert (found[name]["count"] == chosen.sum()).all()


def test_whether_a_prediction_is_right_is_asked_of_the_site() -> None:
    right = np.arange(N) % 4 == 0
    columns = {"label": LABELS, "prediction": np.where(right, LABELS, 7)}
    tree = tree_of(columns, relu=site(**columns).isel(sample=slice(None, None, -1)))
    found = pk.measure(tree, "mean", by="correct")["relu"]["mean"]
    for outcome in (True, False):
        np.testing.assert_allclose(found.sel(label=outcome), X[right == outcome].mean(0))


def test_a_mask_belongs_to_the_samples_that_it_was_made_of() -> None:
    of_root, of_site = TREE["label"] == 1, SORTED["label"] == 1
    for mask, sites in ((of_root, "plain"), (of_site, "sorted"), (of_root.drop_vars(list(COLUMNS)), "plain")):
        found = pk.measure(TREE, "mean", sites=sites, where=mask, by=None)[sites]["mean"]
        np.testing.assert_allclose(found, (X if sites == "sorted" else Z)[LABELS == 1].mean(0))
    for mask, sites in ((of_root, "sorted"), (of_site, "plain"), (of_root.values, "sorted")):
        with pytest.raises(DataError, match="differs from"):
            pk.measure(TREE, "mean", sites=sites, where=mask)


def test_the_roots_columns_are_not_laid_beside_samples_in_another_order() -> None:
    tree = tree_of(COLUMNS, sorted=SORTED.drop_vars(["fold", "sample_id"]))
    np.testing.assert_allclose(pk.measure(tree, "mean")["sorted"]["mean"], pk.measure(TREE, "mean")["sorted"]["mean"])
    for options in ({"by": "fold"}, {"where": {"fold": "a"}}, {"where": LABELS == 0}):
        with pytest.raises(DataError, match="Site 'sorted' has a 'label' of its own, which differs from the root's"):
            pk.measure(tree, "mean", **options)
    with pytest.raises(DataError, match="'label' of its own"):
        pk.as_dataset(tree["sorted"], label="sample_id")


def test_sites_are_compared_where_their_samples_are_in_one_order() -> None:
    for sites in ({"a": site(X), "b": site(Z)}, {"a": SORTED, "b": site(Z, **COLUMNS).sortby("label")}):
        found = pk.measure(tree_of(COLUMNS, **sites), ["cka:biased=True", "mean"])["cka"]
        x, z = (values - values.mean(0) for values in (X, Z))
        expected = ((x.T @ z) ** 2).sum() / np.sqrt(((x.T @ x) ** 2).sum() * ((z.T @ z) ** 2).sum())
        assert found.sel(site="a", site_b="b").item() == pytest.approx(expected)
    with pytest.raises(DataError, match=r"sites 'sorted' and 'plain' differ in the 'label'.*sites="):
        pk.measure(TREE, "cka")


def test_a_site_has_classes_of_its_own() -> None:
    few = site(label=LABELS % 2).assign(class_name=("label", ["even", "odd", "never"]))
    root = xr.Dataset({"class_name": ("label", ["x", "y", "z"])}, {"label": ("sample", LABELS)})
    found = pk.measure(xr.DataTree.from_dict({"/": root, "few": few, "plain": site(Z)}), "mean")
    assert found["few"]["class_name"].values.tolist() == ["even", "odd", "never"]
    assert found["plain"]["class_name"].values.tolist() == ["x", "y", "z"]
    np.testing.assert_allclose(found["few"]["mean"].sel(label=1), X[LABELS % 2 == 1].mean(0))
    np.testing.assert_allclose(found["plain"]["mean"].sel(label=1), Z[LABELS == 1].mean(0))


def test_names_of_samples_are_not_names_of_classes() -> None:
    named = np.array(["cat", "dog", "eel"])[LABELS]
    found = pk.measure(tree_of({"label": LABELS, "class_name": named}, relu=site()), "mean")["relu"]
    assert found["class_name"].values.tolist() == ["0", "1", "2"]
    by_name = pk.measure(tree_of({"label": LABELS, "class_name": named}, relu=site()), "mean", by="class_name")["relu"]
    np.testing.assert_array_equal(by_name["mean"].sel(label="dog"), found["mean"].sel(label=1))


def test_a_tree_needs_no_labels_at_its_root() -> None:
    for root in ({}, {"sample_id": np.arange(N)}):
        found = pk.measure(tree_of(root, own=site(label=LABELS), none=site(Z)), ["mean", "count"])
        np.testing.assert_allclose(found["own"]["mean"].sel(label=2), X[LABELS == 2].mean(0))
        np.testing.assert_allclose(found["none"]["mean"], Z.mean(0))
        assert found.attrs["by"] == "label"
    lengths = tree_of({}, long=site(X, label=LABELS), short=site(Z[:9], label=LABELS[:9]))
    found = pk.measure(lengths, "count", where={"label": 1})
    assert [found[name]["count"].sum("label").values.tolist() for name in ("long", "short")] == [[8] * 4, [3] * 4]
    with pytest.raises(DataError, match="site 'short' has 9 samples, and site 'long' 24"):
        pk.measure(lengths, "cka")
    with pytest.raises(DataError, match=r"There is no column 'fold'; site 'long' has label"):
        pk.measure(lengths, "mean", by="fold")


def test_what_only_the_samples_have_reaches_each_of_their_tokens() -> None:
    tokens = np.array([1, 3, 0, 2] * 6)
    sample = np.repeat(np.arange(N), tokens)
    rows = RNG.normal(size=(len(sample), 4))
    words = xr.Dataset(
        {"activation": (("row", "node"), rows)},
        {"sample_id": ("row", COLUMNS["sample_id"][sample]), "label": ("row", LABELS[sample])},
    )
    tree = tree_of(COLUMNS, words=words, plain=site(Z))
    found = pk.measure(tree, ["mean", "count"], by="fold", where={"label": [0, 1]})
    for fold in "ab":
        chosen = (COLUMNS["fold"][sample] == fold) & (LABELS[sample] < 2)
        np.testing.assert_allclose(found["words"]["mean"].sel(label=fold), rows[chosen].mean(0))
    masked = pk.measure(tree, "mean", where=tree["fold"] == "a", by=None)["words"]["mean"]
    np.testing.assert_allclose(masked, rows[COLUMNS["fold"][sample] == "a"].mean(0))
    _, folds = pk.as_dataset(tree["words"], label="sample_id")[:]
    np.testing.assert_array_equal(folds, COLUMNS["sample_id"][sample])
    tree["words"] = words.assign_coords(sample_id=words["sample_id"] + 50)
    with pytest.raises(DataError, match="Site 'words' has rows of the sample 150, which the root doesn't have"):
        pk.measure(tree, "mean", by="fold")


def test_rows_for_torch_have_the_label_that_xarray_sees(tmp_path: Path) -> None:
    for name, x, labels in (("sorted", SORTED["activation"], np.sort(LABELS)), ("plain", Z, LABELS)):
        rows, given = pk.as_dataset(TREE[name])[:]
        np.testing.assert_array_equal(rows, x)
        np.testing.assert_array_equal(given, labels)
    pk.capture(torch.nn.Identity(), (torch.from_numpy(X), LABELS), tmp_path / "acts.zarr", sites="(root)")
    plain = xr.open_datatree(tmp_path / "acts.zarr", engine="zarr")  # whose sites have no columns of their own
    np.testing.assert_array_equal(pk.as_dataset(plain["(root)"])[:][1], LABELS)


def test_a_captured_site_that_was_sorted_stays_right(tmp_path: Path) -> None:
    pk.capture(torch.nn.Identity(), (torch.from_numpy(X), LABELS), tmp_path / "acts.zarr", sites="(root)")
    tree = pk.open(tmp_path / "acts.zarr")
    before = pk.measure(tree, "mean")["(root)"]["mean"]
    tree["(root)"] = xr.DataTree(tree["(root)"].to_dataset().isel(sample=np.argsort(-LABELS, kind="stable")))
    xr.testing.assert_equal(pk.measure(tree, "mean")["(root)"]["mean"], before)


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        (["a", None, "b"] * 8, r"can't be grouped by 'fold': its value (None|nan) at 1 has no place"),
        (["a", 1, "b"] * 8, r"its value 1 at 1 has no place"),
        ([1, 2, np.nan] * 8, "its values are float64, not codes or names"),
    ],
)
def test_columns_of_several_kinds_are_no_groups(fold: list[object], message: str) -> None:
    values = np.array(fold, dtype=object if "a" in fold else float)
    with pytest.raises(DataError, match=message):
        pk.measure(one_site(X, label=LABELS, fold=values), "mean", by="fold")


def test_what_is_asked_of_a_column_is_of_its_kind() -> None:
    tree = one_site(X, label=LABELS, fold=np.array(["007", "7", "8"] * 8, dtype=object))
    assert pk.measure(tree, "count", where={"fold": "007"})["site"]["count"].sum("label").values.tolist() == [8] * 4
    with pytest.raises(DataError, match=r"asks for 'fold' 7, but its values are strings, such as '007'"):
        pk.measure(tree, "mean", where={"fold": 7})
    by_name, by_code = (pk.measure(tree, "mean", where={"label": value})["site"]["mean"] for value in ("cat", 2))
    np.testing.assert_array_equal(by_name, by_code)
    with pytest.raises(DataError, match="asks for the class 'cow'"):
        pk.measure(tree, "mean", where={"label": "cow"})
