"""What the explorer's script is given: arrays that are right to their digits, in few bytes, of the best nodes."""

from __future__ import annotations

import json
from functools import partial
from html import unescape

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

import probekit as pk
from probekit.errors import DataError
from probekit.report import Page
from probekit.report.explorer import explorer_of
from probekit.report.packing import packed, packed_pairs
from tests.report.unpacked import unpacked

NODES = 30
RNG = np.random.default_rng(0)
LABELS = np.arange(120) % 3
X = (RNG.normal(size=(120, NODES)) + RNG.normal(size=(3, NODES))[LABELS]).astype(np.float32)


def measured(metrics: object, labels: np.ndarray | None = LABELS) -> xr.DataTree:
    columns = {} if labels is None else {"label": ("sample", labels)}
    root = xr.Dataset(coords=columns | {"sample_id": ("sample", np.arange(120))})
    sites = {
        name: xr.Dataset({"activation": (("sample", "node"), x)}) for name, x in {"a": X, "b": 2 * X[:, :9]}.items()
    }
    return pk.measure(xr.DataTree.from_dict({"/": root, **sites}), metrics)


def variables(site: dict[str, object]) -> dict[str, dict[str, object]]:
    return {each["name"]: each for each in site["variables"]}


@given(stn.arrays(np.float64, st.integers(0, 40), elements=st.floats(-1e30, 1e30)), st.sampled_from([3, 4]))
def test_floats_are_right_to_their_digits(values: np.ndarray, digits: int) -> None:
    found = unpacked(packed(values, digits))
    np.testing.assert_allclose(found, values, rtol=0.5 * 10.0 ** (1 - digits), atol=1e-37)


def test_what_isnt_finite_stays_as_it_is() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 0.0, 1e300])
    np.testing.assert_array_equal(unpacked(packed(values)), [np.nan, np.inf, -np.inf, 0, np.inf])
    assert unpacked(packed(np.array([True, False]))).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("mirror", "turn"),
    [("same", lambda x: x), ("complement", lambda x: 1 - x), ("negative", lambda x: -x), ("none", lambda x: x + 3)],
)
def test_pairs_keep_the_half_from_which_the_other_follows(mirror: str, turn: object) -> None:
    upper = RNG.normal(size=(4, 4, 5))
    pairs = np.where(np.tri(4, k=-1, dtype=bool)[..., None], turn(upper.swapaxes(0, 1)), upper)
    if mirror in ("complement", "negative"):
        pairs[np.diag_indices(4)] = {"complement": 0.5, "negative": 0.0}[mirror]
    found = packed_pairs(pairs)
    assert found["mirror"] == mirror
    expected = pairs if mirror == "none" else pairs[np.triu_indices(4)]
    np.testing.assert_allclose(unpacked(found), expected.ravel(), rtol=5e-3)


def test_it_holds_what_was_measured_of_every_site() -> None:
    tree = measured(["mean", "overlap", "quantile:0.1,0.9", "sparsity", "histogram", "top_samples"])
    found = explorer_of(tree)
    assert (found.shown, found.total) == (39, 39)
    assert found.data["classes"] == ["0", "1", "2"]
    first, second = found.data["sites"]
    assert [first["name"], second["name"], second["nodes"], second["total"]] == ["a", "b", None, 9]
    kinds = {name: each["kind"] for name, each in variables(first).items()}
    assert kinds == {
        **dict.fromkeys(["mean", "quantile 0.1", "quantile 0.9", "sparsity", "overlap_rest"], "class"),
        **dict.fromkeys(["overlap", "overlap_max", "overlap_constant", "sparsity_node"], "node"),
        "overlap_pairs": "pairs",
    }
    quantile = tree["a"]["quantile"].sel(q=0.9)
    np.testing.assert_allclose(
        unpacked(variables(first)["quantile 0.9"]["values"]),
        quantile.transpose("label", "node").values.ravel(),
        rtol=5e-4,
    )
    assert [variables(first)[name]["neutral"] for name in ("overlap", "overlap_constant", "mean")] == [1, None, None]
    assert first["first"] == "overlap"
    assert {each["of"] for each in first["variables"]} == {None}


def test_what_doesnt_fit_leaves_each_site_its_best_nodes() -> None:
    tree = measured(["overlap", "auroc", "histogram"])
    whole = len(json.dumps(explorer_of(tree).data["sites"]))
    found = explorer_of(tree, whole // 2)
    assert len(json.dumps(found.data["sites"])) <= whole // 2
    assert found.shown < found.total == 39
    first = found.data["sites"][0]
    assert 1 <= first["shown"] < NODES
    overlap = tree["a"]["overlap"].values
    assert first["nodes"] == sorted(np.argsort(overlap, kind="stable")[: first["shown"]].tolist())
    np.testing.assert_allclose(unpacked(variables(first)["overlap"]["values"]), overlap[first["nodes"]], rtol=5e-4)


def test_an_overlap_beyond_that_of_equal_classes_is_no_sign_of_a_selective_node() -> None:
    tree = measured(["overlap"])
    values = np.linspace(0.9, 1.1, NODES)  # the last ones as far from 1 as the first
    values[3] = 1.5
    tree["a"]["overlap"][:] = values
    site = explorer_of(tree, 1).data["sites"][0]
    assert site["nodes"] == [0]
    assert variables(site)["overlap"]["below"] is True
    assert variables(explorer_of(measured(["auroc"])).data["sites"][0])["auroc_rest"]["below"] is False


def test_a_page_says_how_many_nodes_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probekit.report.explorer.explorer_of", partial(explorer_of, most_bytes=6000))
    html = Page("t").explorer(measured(["overlap", "histogram"])).html()
    assert "of 39 nodes, so that the page stays small" in html


def test_without_classes_all_samples_are_one() -> None:
    found = explorer_of(measured(["mean", "histogram"], labels=None))
    assert found.data["classes"] == ["all samples"]
    assert variables(found.data["sites"][0])["mean"]["kind"] == "node"
    cells = found.data["sites"][0]["cells"]
    assert len(unpacked(cells["heights"])) == NODES * cells["bins"]


def test_of_several_steps_it_shows_the_last() -> None:
    tree = measured("mean")
    steps = [tree.map_over_datasets(lambda site, by=by: site * by if "mean" in site else site) for by in (1.0, 2.0)]
    joined = {path: xr.concat([each[path].to_dataset() for each in steps], "step") for path in ("a", "b")}
    found = explorer_of(xr.DataTree.from_dict(joined))
    shown = unpacked(variables(found.data["sites"][0])["mean"]["values"])
    np.testing.assert_allclose(shown, 2 * tree["a"]["mean"].values.ravel(), rtol=5e-4)


def test_results_without_nodes_have_nothing_to_explore() -> None:
    with pytest.raises(DataError, match="nothing to explore"):
        Page("t").explorer(measured("effective_rank"))


def test_a_page_has_one_explorer() -> None:
    page = Page("t").explorer(measured("mean"))
    with pytest.raises(DataError, match="has an explorer already"):
        page.explorer(measured("mean"))


def test_only_tables_and_an_explorer_have_scripts_and_they_are_named_by_hash() -> None:
    assert "<script" not in Page("t").text("x").html()
    assert "script-src" not in Page("t").text("x").html()
    assert Page("t").table([{"x": 1}], "x").html().count("<script>") == 1
    html = unescape(Page("t").explorer(measured("mean")).html())
    assert "'unsafe-inline'" not in html.partition("script-src")[2].partition('"')[0]
    assert html.count("'sha256-") == html.count("<script>") == 6
