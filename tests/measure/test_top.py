"""The best nodes of each class, compared with scikit-learn, and the samples to which they answer most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.metrics import roc_auc_score
from torch import nn

import probekit as pk

NAMES = ["ant", "bee", "cat"]
RNG = np.random.default_rng(0)
Y = np.arange(300) % 3
X = (RNG.normal(size=(300, 12)) + 0.8 * np.eye(3)[Y] @ RNG.normal(size=(3, 12))).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("top") / "acts.zarr")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), nn.Linear(12, 9), nn.ReLU())
    paths = [f"{NAMES[y]}/{n}.png" for n, y in enumerate(Y)]
    data = (torch.from_numpy(X), torch.from_numpy(Y))
    pk.capture(
        model,
        data,
        path,
        sites=["0", "1", "2"],
        columns={"path": paths},
        class_names=NAMES,
        ids=[f"s{n}" for n in range(300)],
    )
    return path


@pytest.fixture(scope="module")
def measured(store: str) -> xr.DataTree:
    return pk.measure(store, ["auroc", "overlap", "selectivity", "dprime", "linear_probe"])


def test_the_nodes_are_those_that_scikit_learn_finds(store: str, measured: xr.DataTree) -> None:
    found = pk.top(measured, by="auroc", per_class=4)
    activations = {site: pk.open(store)[site]["activation"].values for site in "012"}
    for code, name in enumerate(NAMES):
        every = [
            (roc_auc_score(code == Y, x[:, node]), site, node)
            for site, x in activations.items()
            for node in range(x.shape[1])
        ]
        best = sorted(every, key=lambda each: -each[0])[:4]
        rows = [node for node in found.nodes if node.class_name == name]
        assert [row.label for row in rows] == [code] * 4
        np.testing.assert_allclose([row.value for row in rows], [value for value, _, _ in best])
        assert [(row.site, row.node) for row in rows] == [(site, node) for _, site, node in best]
    assert found.table.columns == ("class", "code", "site", "node", "value")


def test_small_values_are_the_best_where_the_largest_says_nothing(measured: xr.DataTree) -> None:
    found = pk.top(measured, "overlap", per_class=1, classes="bee", sites="1")
    row, rest = found.nodes[0], measured["1"]["overlap_rest"].sel(label=1).values
    assert (found.variable, found.smallest) == ("overlap_rest", True)
    assert (row.node, row.value) == (int(rest.argmin()), float(rest.min()))
    assert (
        pk.top(measured, "overlap", per_class=1, classes="bee", sites="1", smallest=False).nodes[0].value == rest.max()
    )


def test_nodes_without_classes_are_compared_with_each_other(measured: xr.DataTree) -> None:
    found = pk.top(measured, "dprime_max", per_class=2)
    values = np.concatenate([measured[site]["dprime_max"].values for site in "012"])
    np.testing.assert_array_equal([node.value for node in found.nodes], np.sort(values)[::-1][:2])
    assert found.table.columns == ("site", "node", "value")
    assert pk.top(measured, "dprime").variable == "dprime_mean"
    preferred = pk.top(measured, "selectivity", per_class=9, sites="2")
    for node in preferred.nodes:
        assert measured["2"]["selectivity_preferred"].sel(label=node.label, node=node.node)
    assert len(preferred.nodes) == np.isfinite(measured["2"]["selectivity"].values).sum()  # each prefers one class


def test_what_is_left_out_is_said() -> None:
    values = np.array([[0.75, 0.5], [np.nan, np.nan], [0.25, 1]])
    coords = {"label": range(3), "class_name": ("label", NAMES)}
    site = xr.Dataset({"auroc_rest": (("label", "node"), values)}, coords)
    tree = xr.DataTree.from_dict({"fc": site, "other": site.isel(node=[1, 0]), "(root)": site})
    found = pk.top(tree, "auroc_rest", per_class=1)
    assert [(node.class_name, node.site, node.node) for node in found.nodes] == [("ant", "fc", 0), ("cat", "fc", 1)]
    assert (found.left_out, found.repeated) == (("bee",), {"(root)": "fc"})
    assert found.table.title == (
        "The nodes with the largest auroc_rest. Left out: (root), with the values of fc. "
        "No node has a value for bee: all are NaN"
    )


def test_classes_are_chosen_by_name_or_code(measured: xr.DataTree) -> None:
    assert {node.class_name for node in pk.top(measured, classes=["cat", 0]).nodes} == {"cat", "ant"}
    assert pk.top(measured, classes=2).nodes == pk.top(measured, classes="cat").nodes


def test_the_samples_are_those_with_the_largest_values(store: str, measured: xr.DataTree) -> None:
    best = pk.top(measured, per_class=2)
    found = best.samples(store, n=5, data=(X, Y))
    for node in best.nodes:
        x = pk.open(store)[node.site]["activation"].values[:, node.node]
        rows = [each for each in found.samples if (each.site, each.node) == (node.site, node.node)]
        order = np.argsort(-x, kind="stable")[:5]
        assert [row.sample for row in rows] == order.tolist()
        assert [row.value for row in rows] == x[order].tolist()
        assert [row.rank for row in rows] == [0, 1, 2, 3, 4]
        for row in rows:
            assert row.sample_id == f"s{row.sample}"
            assert row.class_name == NAMES[Y[row.sample]]
            assert row.path == f"{row.class_name}/{row.sample}.png"
            np.testing.assert_array_equal(row.input, X[row.sample])
    assert found.table.columns == ["site", "node", "rank", "value", "sample_id", "class", "path"]
    assert "input" not in found.to_dataframe()


def test_positions_are_pooled_as_they_were_measured() -> None:
    maps = RNG.normal(size=(40, 2, 3, 3))
    root = xr.Dataset(coords={"label": ("sample", np.arange(40) % 2)})
    tree = xr.DataTree.from_dict(
        {"/": root, "conv": xr.Dataset({"activation": (("sample", "channel", "y", "x"), maps)})}
    )
    for positions, pooled in {"mean": maps.mean((2, 3)), "max": maps.max((2, 3)), "each": maps.max((2, 3))}.items():
        best = pk.top(pk.measure(tree, "auroc", positions=positions), per_class=1)  # type: ignore[arg-type]
        for row in best.samples(tree, n=1).samples:
            assert row.sample == pooled[:, row.node].argmax()


@pytest.fixture
def tokens() -> xr.DataTree:
    """Two texts, whose words are tokens after a special one."""
    texts = ["the cat sat on the mat", "a dog ran"]
    rows = [(s, "[CLS]", 0, 0) for s in (0,)] + [
        (0, "cat", 4, 7),
        (0, "mat", 19, 22),
        (1, "[CLS]", 0, 0),
        (1, "dog", 2, 5),
    ]
    root = xr.Dataset({"text": ("sample", np.array(texts, object))})
    root = root.assign_coords(
        sample_id=("sample", [7, 9]), label=("sample", [0, 1]), class_name=("label", ["pet", "wild"])
    )
    site = xr.Dataset({"activation": (("row", "node"), np.array([[0.0, 9], [3, 1], [2, 2], [1, 8], [4, 3]]))})
    columns = {
        name: ("row", [row[n] for row in rows]) for n, name in enumerate(("s", "token", "char_start", "char_end"))
    }
    site = site.assign_coords(columns | {"sample_id": ("row", [7, 7, 7, 9, 9]), "label": ("row", [0, 0, 0, 1, 1])})
    return xr.DataTree.from_dict({"/": root, "h": site.drop_vars("s")})


def test_tokens_are_marked_in_their_sentence(tokens: xr.DataTree) -> None:
    best = pk.top(pk.measure(tokens, "mean", by=None), "mean", per_class=2)
    found = best.samples(tokens, n=3).samples
    marked = {node: [each.marked for each in found if each.node == node] for node in (0, 1)}
    assert marked[0] == ["a «dog» ran", "the «cat» sat on the mat", "the cat sat on the «mat»"]
    assert marked[1][0] == "«[CLS]» the cat sat on the mat"
    first = next(each for each in found if each.node == 0)
    assert (first.sample, first.sample_id, first.class_name) == (1, 9, "wild")
    assert first.text[first.start : first.end] == "dog"


def test_without_a_text_the_tokens_around_are_shown(tokens: xr.DataTree) -> None:
    bare = xr.DataTree.from_dict(
        {
            "/": tokens.to_dataset().drop_vars("text"),
            "h": tokens["h"].to_dataset().drop_vars(["char_start", "char_end"]),
        }
    )
    best = pk.top(pk.measure(bare, "mean", by=None), "mean", per_class=1, sites="h")
    found = best.samples(bare, n=1).samples[0]
    assert found.marked == "«[CLS]» cat mat"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, s: pk.top(m, "aurok"), "no 'aurok' with a value for each node.*Near: 'auroc'"),
        (lambda m, s: pk.top(m, "linear_probe"), "no 'linear_probe' with a value for each node, only for whole sites"),
        (lambda m, s: pk.top(m, classes="kat"), "class 'kat'; there are 'ant', 'bee', 'cat'.*Near: 'cat'"),
        (lambda m, s: pk.top(m, classes=3), "class 3; there are 'ant'"),
        (lambda m, s: pk.top(m, "dprime", classes="ant"), "values are of nodes alone"),
        (lambda m, s: pk.top(m, per_class=0), "per_class is 0"),
        (lambda m, s: pk.top(m).samples(s, n=0), "n is 0"),
        (lambda m, s: pk.top(m).samples(s, data=(X[:3], Y[:3])), "The data have 3 samples, and the store has 300"),
        (lambda m, s: pk.top(m).samples(s, data=(X, Y[::-1])), "of the data has the label"),
        (lambda m, s: pk.top(m).samples(s, data=3), "data is an int, 3"),
    ],
)
def test_what_there_is_not_is_refused(measured, store, call, message) -> None:
    with pytest.raises(pk.errors.DataError, match=message):
        call(measured, store)


def test_another_store_is_refused(measured: xr.DataTree, tmp_path: Path) -> None:
    pk.capture(nn.Sequential(nn.Identity()), (torch.zeros(9, 2), torch.arange(9) % 3), tmp_path / "b.zarr", sites="0")
    with pytest.raises(pk.errors.DataError, match="has 2 nodes, and the results have a node"):
        pk.top(measured, sites="0").samples(tmp_path / "b.zarr")
    with pytest.raises(pk.errors.SiteError, match="no site '1'; it has 0"):
        pk.top(measured, sites="1").samples(tmp_path / "b.zarr")


def test_classes_without_a_value_are_named_with_the_reason(tmp_path: Path) -> None:
    pk.capture(nn.Sequential(nn.Identity()), (torch.eye(6), torch.arange(6) % 2), tmp_path / "b.zarr", sites="0")
    found = pk.top(pk.measure(tmp_path / "b.zarr", "auroc"))
    assert not found.nodes
    assert not found.smallest
    assert "No node has a value for 0, 1: all are NaN; it needs two classes of at least min_count samples" in str(found)


def test_what_an_interval_and_a_null_say_of_the_best_nodes_stands_beside_them(
    store: str, measured: xr.DataTree
) -> None:
    found = pk.measure(store, ["auroc", "fisher"], null="permute", ci="bootstrap", repeats=20)
    by_class = pk.top(found, "auroc", per_class=2)
    assert by_class.table.columns == ("class", "code", "site", "node", "value", "low", "high", "q")
    for node in by_class.nodes:
        of_node = found[node.site].to_dataset().sel(label=node.label).isel(node=node.node)
        expected = [of_node[f"auroc_rest{ending}"].item() for ending in ("", "_low", "_high", "_q")]
        assert [node.value, node.low, node.high, node.q] == expected
    (best,) = pk.top(found, "fisher", per_class=1).nodes
    assert best.q == found[best.site]["fisher_q"].values[best.node]
    without = pk.top(measured, "auroc", per_class=1)
    assert (without.nodes[0].low, without.nodes[0].q) == (None, None)
    assert without.to_dataframe().columns.tolist() == by_class.to_dataframe().columns.tolist()
