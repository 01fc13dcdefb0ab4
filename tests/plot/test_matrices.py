"""Square images: similarities of sites and of classes, and the confusion of classes."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch
import xarray as xr

import probekit as pk
from probekit.errors import DataError, PluginError, SiteError
from tests.plot.trees import similarities, tree, variable

SITES = ["relu1", "relu2", "relu3"]
CKA = np.array([[1, 0.5, 0.25], [0.5, 1, 0.75], [0.25, 0.75, 1]])
COMPARED = xr.DataTree.from_dict({"/": similarities("cka", CKA, SITES)})


def _cells(drawing: pk.plot.Drawing) -> np.ndarray:
    return np.ma.filled(drawing.axes[0].images[0].get_array().astype(float), np.nan)


def _written(drawing: pk.plot.Drawing) -> dict[tuple[float, float], str]:
    return {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in drawing.axes[0].texts}


def test_a_matrix_shows_every_two_sites_with_the_first_on_top() -> None:
    drawing = pk.plot.matrix(COMPARED)
    np.testing.assert_allclose(_cells(drawing), CKA)
    assert drawing.axes[0].get_ylim() == (2.5, -0.5)
    assert [label.get_text() for label in drawing.axes[0].get_yticklabels()] == SITES
    assert _written(drawing)[0, 1] == "0.50"
    np.testing.assert_allclose(_cells(pk.plot.matrix(COMPARED, sites=["relu3", "relu1"])), CKA[np.ix_([2, 0], [2, 0])])


def test_sixty_sites_have_no_numbers_and_some_names() -> None:
    names = [f"layer{n}" for n in range(60)]
    drawing = pk.plot.matrix(xr.DataTree.from_dict({"/": similarities("cka", np.eye(60), names)}))
    assert not drawing.axes[0].texts
    assert len(drawing.axes[0].get_xticklabels()) == len(drawing.axes[0].get_yticklabels()) == 15


def _compared(sites: int) -> xr.DataTree:
    """The RSA of sites, with an interval and a null as `measure` gives them."""
    names, table = [f"site{n}" for n in range(sites)], np.full((sites, sites), 0.5)
    np.fill_diagonal(table, 1)
    attrs = {"metric": "rsa", "of": "rsa", "confidence": 0.9}
    found = {"rsa_low": table - 0.2, "rsa_high": table + 0.1, "rsa_null": 0 * table, "rsa_null_std": 0 * table + 0.1}
    found["rsa_p"] = np.where(np.add.outer(np.arange(sites), np.arange(sites)) > 2, 0.01, 0.25)
    variables = {name: (("site", "site_b"), each, attrs) for name, each in found.items()}
    return xr.DataTree.from_dict({"/": similarities("rsa", table, names).assign(variables)})


def test_an_interval_and_a_null_stand_in_the_cells_of_few_sites() -> None:
    drawing = pk.plot.matrix(_compared(4), "rsa")
    written = _written(drawing)
    assert written[0, 1] == "0.50\n0.30 to 0.60\nnull 0.00\np 0.25"
    assert written[3, 2] == "0.50\n0.30 to 0.60\nnull 0.00\np 0.01"
    assert written[0, 0] == "1.00"
    title = drawing.axes[0].get_title()
    assert title == "90% interval: ± 0.15 at the median, ± 0.15 at most\np < 0.05 for 4 of 6 pairs"
    assert _written(pk.plot.matrix(_compared(4), "rsa", sites=["site3", "site0"]))[0, 1].endswith("p 0.01")


@pytest.mark.parametrize("sites", [9, 20])
def test_the_title_says_how_far_intervals_reach_where_cells_are_small(sites: int) -> None:
    drawing = pk.plot.matrix(_compared(sites), "rsa")
    assert set(_written(drawing).values()) == ({"0.50", "1.00"} if sites == 9 else set())
    pairs = sites * (sites - 1) // 2
    assert f"p < 0.05 for {pairs - 2} of {pairs} pairs" in drawing.axes[0].get_title()


def test_what_an_interval_says_is_no_matrix_of_its_own() -> None:
    assert list(pk.plot.standard(_compared(3), ["matrix"])) == ["matrix-rsa"]
    without = _compared(3)
    without["rsa_low"][:] = without["rsa_high"][:] = np.nan
    drawing = pk.plot.matrix(without, "rsa")
    assert _written(drawing)[0, 1] == "0.50\nnull 0.00\np 0.25"
    assert drawing.axes[0].get_title().startswith("no 90% interval\n")
    assert pk.plot.matrix(COMPARED).axes[0].get_title() == ""


def _pairs(values: np.ndarray, name: str, metric: str, **headline: object) -> xr.DataTree:
    """Results of pairs of classes, beside the variable that their metric's headline is about."""
    about = variable(("node",), np.zeros(values.shape[2]), metric, **headline)
    found = {name: variable(("label", "label_b", "node"), values, metric), f"{metric}_mean": about}
    return tree({"relu1": found}, [f"c{code}" for code in range(len(values))])


def test_overlaps_beyond_that_of_equal_classes_are_chance_and_average_out() -> None:
    values = 1 + np.random.default_rng(0).normal(0, 0.1, size=(3, 3, 50))
    results = _pairs(values, "overlap_pairs", "overlap", neutral=1.0, smallest=True)
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(_cells(pk.plot.pairs(results, "relu1"))[off], values.mean(2)[off])


def test_pairs_are_the_mean_over_nodes_or_one_of_them() -> None:
    values = np.random.default_rng(0).uniform(size=(4, 4, 5))
    results = _pairs(values, "overlap_pairs", "overlap", neutral=1.0)
    off = ~np.eye(4, dtype=bool)
    mean, one = (_cells(pk.plot.pairs(results, "relu1", node=node)) for node in (None, 3))
    np.testing.assert_allclose(mean[off], values.mean(2)[off])
    np.testing.assert_allclose(one[off], values[..., 3][off])
    assert np.isnan(np.diag(mean)).all()
    assert pk.plot.pairs(results, "relu1", node=3).axes[0].get_title() == "relu1 [3]"


def test_pairs_on_both_sides_of_the_neutral_value_do_not_cancel() -> None:
    above = np.random.default_rng(0).uniform(size=(3, 3, 7))
    values = (above + 1 - above.transpose(1, 0, 2)) / 2  # of a against b, and 1 minus it of b against a
    drawing = pk.plot.pairs(_pairs(values, "auroc", "auroc", neutral=0.5), "relu1", "auroc")
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(_cells(drawing)[off], abs(values - 0.5).mean(2)[off])
    assert drawing.figure.axes[1].get_ylabel() == "mean |auroc − 0.5| over nodes\n(grey: no value)"
    assert drawing.axes[0].images[0].norm.vmin == 0.0


@pytest.fixture
def store(tmp_path) -> xr.DataTree:
    """Predictions by a model that takes its input for logits."""
    random = np.random.default_rng(3)
    labels = random.integers(0, 4, 200)
    labels[labels == 2] = 1  # no sample of class 2
    logits = torch.from_numpy(random.normal(size=(200, 4)) + 2 * np.eye(4)[labels]).float()
    data = (logits, torch.from_numpy(labels))
    names = ["ant", "bee", "cat", "dog"]
    return pk.capture(torch.nn.Identity(), data, tmp_path / "a.zarr", class_names=names, predictions=True)


def test_confusion_is_that_of_the_stores_predictions(store: xr.DataTree) -> None:
    drawing = pk.plot.confusion(store)
    actual, predicted = store["label"].values, store["prediction"].values
    counts = sklearn.metrics.confusion_matrix(actual, predicted, labels=range(4))
    present = counts.sum(1) > 0
    np.testing.assert_allclose(_cells(drawing)[present], counts[present] / counts[present].sum(1, keepdims=True))
    assert np.isnan(_cells(drawing)[2]).all()
    ax = drawing.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ant", "bee", "cat", "dog"]
    assert ax.get_title() == f"200 samples, {sklearn.metrics.accuracy_score(actual, predicted):.1%} right"
    assert _written(drawing)[0, 0] == f"{100 * counts[0, 0] / counts[0].sum():.0f}"


def test_none_is_left_empty_and_few_are_said() -> None:
    columns = {"label": ("sample", [0] * 300 + [1]), "prediction": ("sample", [0] * 299 + [1, 1])}
    assert _written(pk.plot.confusion(xr.DataTree(xr.Dataset(columns)))) == {
        (0, 0): "100",
        (0, 1): "<1",
        (1, 0): "",
        (1, 1): "100",
    }


@pytest.mark.parametrize(
    ("draw", "kind", "message"),
    [
        (lambda: pk.plot.matrix(COMPARED, "rsa"), PluginError, r"no 'rsa' at the root.*measured there: cka.*\['rsa'\]"),
        (lambda: pk.plot.matrix(COMPARED, sites=["relu4"]), SiteError, "compares no site 'relu4'. Near: 'relu"),
        (lambda: pk.plot.matrix(COMPARED, sites="relu1"), DataError, "sites is a str"),
        (lambda: pk.plot.confusion(COMPARED), DataError, "no labels. Capture .* predictions=True"),
        (
            lambda: pk.plot.pairs(_pairs(np.ones((2, 2, 3)), "overlap_pairs", "overlap"), "relu1", node=3),
            SiteError,
            "no node 3; its nodes are 0 to 2",
        ),
        (
            lambda: pk.plot.pairs(_pairs(np.ones((2, 2, 3)), "overlap_pairs", "overlap"), "relu1", "overlap_mean"),
            PluginError,
            r"dims \(node\); this figure draws variables with the dims \(label, label_b, node\)",
        ),
    ],
)
def test_what_cannot_be_drawn_says_why(draw, kind, message) -> None:
    with pytest.raises(kind, match=message):
        draw()
