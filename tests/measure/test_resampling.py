"""Nulls and intervals have the values that closed forms, scipy and their definitions say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import false_discovery_control, mannwhitneyu, norm, t

import probekit as pk
from probekit import plugins
from probekit._measure.resampling import evaluation
from probekit._measure.resampling.draws import Draws
from probekit._measure.resampling.tally import discoveries
from probekit._measure.resampling.units import Units
from probekit._measure.site_source import Source
from probekit.errors import DataError, PluginError
from probekit.metrics import AUROC, KS, Block, Metric, MutualInformation, Overlap

Array = np.ndarray


def site_of(x: Array, y: Array, **columns: Array) -> xr.Dataset:
    coords = {name: ("sample", values) for name, values in {"label": y, **columns}.items()}
    return xr.Dataset({"activation": (("sample", "node"), x)}, coords)


def measured(x: Array, y: Array, metrics: Any, columns: dict[str, Array] | None = None, **options: Any) -> xr.Dataset:
    return pk.measure(site_of(x, y, **(columns or {})), metrics, **options)["activation"].to_dataset()


def tokens_of(x: Array, sample: Array, y: Array) -> xr.DataTree:
    """A site of tokens, whose samples have the labels `y`."""
    root = xr.Dataset(coords={"label": ("sample", y), "sample_id": ("sample", np.arange(len(y)))})
    site = xr.Dataset({"activation": (("row", "node"), x)}, {"sample_id": ("row", sample)})
    return xr.DataTree.from_dict({"/": root, "a": site})


@pytest.fixture(scope="module")
def normal() -> tuple[Array, Array]:
    """Nodes that know nothing of two classes of 24 and 36."""
    return np.random.default_rng(0).normal(size=(60, 50)), np.repeat([0, 1], [24, 36])


def test_the_null_of_auroc_is_that_of_mann_and_whitney(normal: tuple[Array, Array]) -> None:
    x, y = normal
    x = x + 0.3 * y[:, None]
    found = measured(x, y, "auroc", null="permute", repeats=500)
    assert found["auroc_rest_null"].values == pytest.approx(0.5, abs=5 * 0.075 / np.sqrt(500))
    assert found["auroc_rest_null_std"].values == pytest.approx(np.sqrt(61 / (12 * 24 * 36)), rel=0.15)
    theirs = mannwhitneyu(x[y == 0], x[y == 1]).pvalue
    assert np.abs(found["auroc_rest_p"].sel(label=0) - theirs).max() < 5 * np.sqrt(0.25 / 500)
    q = false_discovery_control(found["auroc_rest_p"].values, axis=1)
    np.testing.assert_allclose(found["auroc_rest_q"], q)
    assert found["auroc_rest_p"].attrs["repeats"] == 500


def test_the_p_value_counts_shuffles_on_the_nearer_side(normal: tuple[Array, Array]) -> None:
    x, y = normal
    found = measured(x, y, "fisher", null="permute", repeats=40, seed=3)
    units = Units(np.arange(60), np.zeros(60, np.int64), y, np.bincount(y), "sample")
    shuffles = [measured(x, Draws(units, 3, "a").labels(repeat), "fisher")["fisher"] for repeat in range(40)]
    null = np.stack(shuffles)
    tails = [1 + (null >= found["fisher"].values).sum(0), 1 + (null <= found["fisher"].values).sum(0)]
    np.testing.assert_allclose(found["fisher_p"], np.minimum(1, 2 * np.min(tails, axis=0) / 41))
    np.testing.assert_allclose(found["fisher_null"], null.mean(0))
    np.testing.assert_allclose(found["fisher_null_std"], null.std(0, ddof=1))
    site = np.median(null, axis=1)  # which is what the headline of fisher takes of its nodes
    assert found["fisher_null_site"] == pytest.approx(site.mean(), rel=1e-6)
    assert found["fisher_p_site"] == pytest.approx(
        2 * min(1 + (site >= np.median(found["fisher"])).sum(), 1 + (site <= np.median(found["fisher"])).sum()) / 41
    )


@pytest.mark.parametrize("sizes", [(50, 50, 50), (80, 40, 9, 30), (120, 10, 30)], ids=["equal", "few", "unequal"])
@pytest.mark.parametrize(
    "metric",
    [AUROC(), Overlap(), Overlap(bins=5), MutualInformation(), KS(), KS(corrected=False, min_count=50)],
    ids=str,
)
def test_prepared_samples_give_the_same_bits(metric: Any, sizes: tuple[int, ...]) -> None:
    rng, y = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=(len(y), 7)).astype(np.float32)
    x[:, 1] = np.maximum(x[:, 1], 0)
    x[:, 2], x[:, 3], x[:, 4], x[:5, 5] = 0, np.round(x[:, 3]), np.inf, -np.inf
    x[3, 6], x[5, 6] = x[80, 6], x[90, 6]
    compute = metric.relabelling(np.ascontiguousarray(x.T), len(sizes))
    for _ in range(5):
        codes = rng.permutation(y)
        expected = metric.compute(Block.from_samples(x, codes, len(sizes)))
        for name, (dims, array) in compute(codes).items():
            np.testing.assert_array_equal(array, expected[name][1])
            assert dims == expected[name][0]


SUMMED = [
    *("mean", "var", "std", "skewness", "kurtosis", "fisher", "dprime", "separability", "cdnv", "selectivity"),
    *("sparsity", "perplexity"),
]


def of_many_kinds(rng: np.random.Generator, n: int) -> Array:
    """Nodes: normal, of a ReLU, nearly dead, constant, of three values, and, but for a few samples, far from 0."""
    x = rng.normal(size=(n, 6))
    x[:, 1] = np.maximum(x[:, 1], 0)
    x[:, 2], x[:, 3], x[:, 4] = np.arange(n) == 7, 3, rng.integers(0, 3, n)
    x[:, 5] = np.where(np.arange(n) % 40 == 0, 0, 1000 + x[:, 5])
    return x


@pytest.mark.parametrize("kind", ["many", "infinite", "strata"])
def test_labellings_that_are_summed_up_at_once_give_the_p_values_of_one_after_the_other(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, y = np.random.default_rng(0), np.arange(90) % 3
    x, session, passes = of_many_kinds(rng, 90), np.arange(90) // 45, list[int]()
    if kind == "infinite":
        x[3, 0] = np.inf
    if kind == "strata":  # the first class is one session's alone, where a node lies far away and is constant
        y = np.where(session == 0, 0, 1 + y % 2)
        x[:45, 0] = 5e4
    options: dict[str, Any] = {"null": "permute", "repeats": 25, "within": "session" if kind == "strata" else None}
    one_by_one = evaluation._one_by_one
    monkeypatch.setattr(evaluation, "_one_by_one", lambda *args: passes.append(1) or one_by_one(*args))
    found = measured(x, y, SUMMED, {"session": session}, **options)
    assert bool(passes) == (kind == "strata")
    monkeypatch.setattr(evaluation, "StreamRelabelling", type(None))
    expected = measured(x, y, SUMMED, {"session": session}, **options)
    assert list(found.data_vars) == list(expected.data_vars)
    for name in map(str, found.data_vars):
        if "_p" in name or "_q" in name:
            np.testing.assert_array_equal(found[name], expected[name], name)
        else:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-7, atol=1e-6, err_msg=name)


def test_adjusted_p_values_are_scipys_where_there_are_some() -> None:
    p = np.random.default_rng(0).random((3, 40)) ** 3
    np.testing.assert_allclose(discoveries(p), false_discovery_control(p, axis=1))
    p[0, ::3], p[1] = np.nan, np.nan
    found = discoveries(p)
    np.testing.assert_allclose(found[0, p[0] > 0], false_discovery_control(p[0, p[0] > 0]))
    assert np.isnan(found[0, ::3]).all()
    assert np.isnan(found[1]).all()


def test_shuffles_and_draws_depend_on_the_seed_alone(normal: tuple[Array, Array], tmp_path: Path) -> None:
    x, y = normal
    tree = xr.DataTree.from_dict({"/": site_of(x, y).drop_vars("activation"), "a": site_of(x, y)[["activation"]]})
    options: dict[str, Any] = {"null": "permute", "ci": "bootstrap", "repeats": 20}
    metrics = ["overlap", "std", "median", "separability"]
    whole = pk.measure(tree, metrics, **options)
    tree.to_zarr(tmp_path / "a.zarr", encoding={"/a": {"activation": {"chunks": (20, 7)}}}, consolidated=False)
    cut = pk.measure(
        xr.open_datatree(tmp_path / "a.zarr", engine="zarr", consolidated=False), metrics, memory="256KiB", **options
    )
    xr.testing.assert_allclose(cut, whole, rtol=1e-10)
    for name in ("overlap_p", "overlap_q", "std_p", "separability_p"):
        np.testing.assert_array_equal(cut["a"][name], whole["a"][name])
    other = pk.measure(tree, "overlap", seed=1, **options)
    assert (other["a"]["overlap_null"] != whole["a"]["overlap_null"]).any()


def test_results_come_back_from_disk(normal: tuple[Array, Array], tmp_path: Path) -> None:
    found = pk.measure(
        site_of(*normal), ["auroc", "mean"], null="permute", ci="jackknife", repeats=20, out=tmp_path / "m.zarr"
    )
    xr.testing.assert_identical(xr.open_datatree(tmp_path / "m.zarr", engine="zarr").load(), found)


def test_labels_are_shuffled_within_strata() -> None:
    rng = np.random.default_rng(0)
    speaker = np.repeat(np.arange(10), 20)
    y = (rng.random(200) < np.where(speaker < 5, 0.25, 0.75)).astype(np.int64)
    x = rng.normal(size=(200, 30)) + (speaker >= 5)[:, None]  # which knows the speaker, and nothing else
    columns = {"speaker": speaker}
    over_all = measured(x, y, "auroc", columns, null="permute", repeats=100)
    within = measured(x, y, "auroc", columns, null="permute", repeats=100, within="speaker")
    assert (over_all["auroc_rest_p"] < 0.05).mean() > 0.8
    assert (within["auroc_rest_p"] < 0.05).mean() < 0.2
    assert within["auroc_rest_p"].attrs["within"] == "speaker"
    with pytest.raises(DataError, match="in each group of within= all rows are of one class"):
        measured(x, y, "auroc", {"speaker": y}, null="permute", within="speaker")
    with pytest.raises(DataError, match="all its rows are of one class, so") as raised:
        measured(x, np.zeros_like(y), "auroc", columns, null="permute")
    assert "within" not in str(raised.value)
    with pytest.raises(DataError, match="each class is a single label, so a shuffle of the labels gives the classes"):
        measured(x, y, "auroc", columns, null="permute", together="label")


def test_tokens_of_a_sample_keep_one_label() -> None:
    rng = np.random.default_rng(0)
    y, sample = np.arange(40) % 2, np.repeat(np.arange(40), 10)
    x = np.repeat(rng.normal(size=(40, 60)), 10, axis=0) + 0.1 * rng.normal(size=(400, 60))
    together = pk.measure(tokens_of(x, sample, y), "auroc", null="permute", repeats=100)["a"]["auroc_rest_p"]
    apart = pk.measure(tokens_of(x, sample, y), "auroc", null="permute", repeats=100, together="row")["a"]
    assert (together < 0.05).mean() < 0.15
    assert (apart["auroc_rest_p"] < 0.05).mean() > 0.3
    assert (together.attrs["together"], apart["auroc_rest_p"].attrs["together"]) == ("sample", "row")
    of_rows = tokens_of(x, sample, y)
    of_rows["a"] = of_rows["a"].to_dataset().assign_coords(label=("row", np.arange(400) % 2))
    with pytest.raises(DataError, match="in different groups"):
        pk.measure(of_rows, "auroc", null="permute")
    assert "overlap_null" in pk.measure(of_rows, "overlap:null='permute'")["a"]


def test_what_is_corrected_by_rows_has_the_null_of_its_units_beside_it() -> None:
    rng, metrics = np.random.default_rng(0), ["fisher", "dprime", "overlap", "ks", "mutual_information"]
    y, sample = np.arange(60) % 3, np.repeat(np.arange(60), 8)
    x = rng.normal(size=(60, 4))[sample] + rng.normal(size=(480, 4))
    tokens, others = tokens_of(x, sample, y), (tokens_of(x, sample, rng.permutation(y)) for _ in range(40))
    shuffled = [pk.measure(other, metrics)["a"] for other in others]
    for options in ({}, {"ci": "jackknife"}):
        found = pk.measure(tokens, metrics, **options)["a"]
        for name in ("fisher", "dprime_mean", "overlap", "ks_mean", "mutual_information"):
            theirs, null = np.array([each[name] for each in shuffled]), found[f"{name}_null"]
            assert (null.attrs["repeats"], null.attrs["together"]) == (10, "sample")
            error = theirs.std(axis=0) * np.sqrt(1 / 10 + 1 / 40)
            assert (np.abs(null - theirs.mean(axis=0)) < 4 * error).all(), name
            assert f"{name}_p" not in found
    assert float(found["fisher_null"].mean()) > 0.02
    rows = measured(x, y[sample], "fisher", {"patient": sample}, together="patient")
    np.testing.assert_allclose(rows["fisher_null"], found["fisher_null"])
    assert rows["fisher_null"].attrs["together"] == "patient"


def test_units_whose_labels_no_shuffle_moves_have_no_null_unless_it_is_asked_for() -> None:
    rng, sample = np.random.default_rng(0), np.repeat(np.arange(20), 8)
    x, tokens = rng.normal(size=(160, 4)), np.tile(np.arange(8), 20)
    of_tokens = tokens_of(x, sample, np.arange(20) % 2)
    of_tokens["a"] = of_tokens["a"].to_dataset().assign_coords(label=("row", tokens % 2))
    for tree in (of_tokens, tokens_of(x, sample, np.arange(20)), tokens_of(x, sample, np.zeros(20, int))):
        found = pk.measure(tree, ["fisher", "ks"])["a"]
        assert not [name for name in found.data_vars if name.endswith("_null")]
    by_row = pk.measure(tokens_of(x, sample, np.arange(20) % 2), ["fisher", "ks"], together="row")["a"]
    assert not [name for name in by_row.data_vars if name.endswith("_null")]
    for metric in ("fisher:corrected=False", "wasserstein", "mean"):
        found = pk.measure(tokens_of(x, sample, np.arange(20) % 2), metric)["a"]
        assert not [name for name in found.data_vars if name.endswith("_null")]
    flat = measured(x, sample % 2, "overlap:null='permute'", {"patient": tokens}, together="patient")
    assert flat["overlap_null"].attrs["together"] == "row"  # a patient has rows of both classes


TRUTHS = {"mean": 0.0, "std": 1.0, "dprime_mean": 1.0}


@pytest.mark.parametrize("ci", ["bootstrap", "jackknife"])
def test_intervals_cover_what_is_true(ci: str) -> None:
    rng, y = np.random.default_rng(0), np.arange(160) % 2
    x = rng.normal(size=(160, 2000)).astype(np.float32) + y[:, None].astype(np.float32)
    found = measured(x, y, ["mean", "std", "dprime"], ci=ci, repeats=100)
    for name, true in TRUTHS.items():
        one = found.sel(label=0) if "label" in found[name].dims else found
        covered = ((one[f"{name}_low"] < true) & (true < one[f"{name}_high"])).mean()
        assert 0.93 < covered < 0.97, name


@pytest.mark.slow
@pytest.mark.parametrize("ci", ["bootstrap", "jackknife"])
def test_intervals_of_columns_cover_what_is_true(ci: str) -> None:
    rng, y = np.random.default_rng(1), np.arange(400) % 2
    x = rng.normal(size=(400, 2000)).astype(np.float32) + y[:, None].astype(np.float32)
    found = measured(x, y, ["auroc", "median"], ci=ci, repeats=100).sel(label=0)
    for name, true in (("auroc_rest", 1 - norm.cdf(np.sqrt(0.5))), ("median", 0.0)):
        covered = ((found[f"{name}_low"] < true) & (true < found[f"{name}_high"])).mean()
        assert 0.93 < covered < 0.97, name


@pytest.mark.slow
def test_intervals_that_leave_blocks_out_cover_what_is_true() -> None:
    rng, y = np.random.default_rng(2), np.arange(200) % 2
    x = rng.normal(size=(200, 300)).astype(np.float32) + y[:, None].astype(np.float32)
    found = measured(x, y, ["overlap", "mutual_information", "ks"], ci="bootstrap")
    truths = {"overlap": 2 * norm.cdf(-0.5), "mutual_information": 0.161, "ks_mean": 2 * norm.cdf(0.5) - 1}
    for name, true in truths.items():
        assert found[f"{name}_low"].attrs["ci"] == "jackknife"
        assert ((found[f"{name}_low"] < true) & (true < found[f"{name}_high"])).mean() > 0.9, name
    covered = []
    for _ in range(40):
        x = rng.normal(size=(100, 20)).astype(np.float32)
        of_site = measured(x, np.arange(100) % 4, "effective_rank", ci="bootstrap")
        covered.append(float(of_site["effective_rank_low"]) < 20 < float(of_site["effective_rank_high"]))
    assert np.mean(covered) > 0.85


def test_what_is_measured_lies_in_its_interval() -> None:
    others = {"gradient_norm", "correlation", "ridge_probe", "saturation", "min", "max", "rsa"}
    metrics = [name for name in plugins.find(plugins.METRICS) if name not in others]
    rng, y = np.random.default_rng(0), np.arange(240) % 4
    root = xr.Dataset(coords={"label": ("sample", y)})
    x = {name: (rng.normal(size=(240, 8)) + 0.5 * (y[:, None] == 1)).clip(min=0) for name in "ab"}
    sites = {name: xr.Dataset({"activation": (("sample", "node"), each)}) for name, each in x.items()}
    found = pk.measure(xr.DataTree.from_dict({"/": root, **sites}), metrics, ci="bootstrap", repeats=20)
    seen = 0
    for group in (found, *found.children.values()):
        for name in (name for name in group.data_vars if f"{name}_low" in group):
            value, low, high = (group[each].values for each in (name, f"{name}_low", f"{name}_high"))
            known = np.isfinite(value) & np.isfinite(low)
            inside = (low[known] <= value[known] + 1e-9) & (value[known] <= high[known] + 1e-9)
            assert not known.any() or inside.mean() > 0.8, name  # the largest of many may be outside
            seen += 1
    assert seen > 40
    assert not any(name.startswith(("histogram", "top_samples")) for name in found["a"].data_vars if "_low" in name)


def test_an_interval_that_there_is_not_is_refused(normal: tuple[Array, Array]) -> None:
    class Odd(Overlap):
        interval = "boostrap"

    with pytest.raises(
        PluginError, match=r"'overlap' has the interval 'boostrap'; it is 'bootstrap', 'jackknife', 'formula' if"
    ):
        measured(*normal, Odd(), ci="bootstrap", repeats=20)


def test_metrics_of_both_kinds_are_repeated_beside_each_other(normal: tuple[Array, Array]) -> None:
    for ci in ("bootstrap", "jackknife"):
        both = measured(*normal, ["mean", "effective_rank", "overlap", "histogram"], ci=ci, repeats=30)
        for metric in ("mean", "effective_rank", "overlap"):
            alone = measured(*normal, metric, ci=ci, repeats=30)
            for name, variable in alone.data_vars.items():
                xr.testing.assert_identical(both[name], variable)


@pytest.mark.parametrize("metric", ["mean", "median"], ids=["streaming", "column"])
def test_an_interval_is_that_of_its_draws(metric: str, normal: tuple[Array, Array]) -> None:
    x, y = normal
    draws, statistic = (
        Draws(Units(np.arange(60), np.zeros(60, np.int64), y, np.bincount(y), "sample"), 0, "a"),
        getattr(np, metric),
    )
    counts = [draws.counts(repeat) for repeat in range(30)]
    assert all(each[y == 0].sum() == 24 for each in counts)  # every class keeps its number
    drawn = np.stack([statistic(np.repeat(x, each, axis=0)[np.repeat(y, each) == 0], axis=0) for each in counts])
    value = statistic(x[y == 0], axis=0)
    found = measured(x, y, metric, ci="bootstrap", repeats=30, confidence=0.9).sel(label=0)
    error, bias = drawn.std(0, ddof=1) * np.sqrt(24 / 23), drawn.mean(0) - value  # 24 samples of the class
    middle, reach = value - np.where(np.abs(bias) > error / 4, bias, 0), t.ppf(0.95, 23) * error
    np.testing.assert_allclose(found[f"{metric}_low"], middle - reach)
    np.testing.assert_allclose(found[f"{metric}_high"], middle + reach)

    if metric == "median":  # which no block moves much
        same = measured(x, y, metric, ci="jackknife", repeats=30, confidence=0.9).sel(label=0)
        xr.testing.assert_identical(same, found)
        return
    blocks = draws.blocks(30)
    without = np.stack([statistic(x[(y == 0) & (blocks != b)], axis=0) for b in range(7)])  # 7 is the root of 60
    reach = t.ppf(0.95, 6) * np.sqrt(6 / 7 * ((without - without.mean(0)) ** 2).sum(0))
    for memory in ("1GiB", "200KiB"):  # in the latter the states of all blocks don't fit
        left = measured(x, y, metric, ci="jackknife", repeats=30, confidence=0.9, memory=memory).sel(label=0)
        np.testing.assert_allclose(left[f"{metric}_high"], value + reach)
    assert left[f"{metric}_low"].attrs["repeats"] == 7


def test_probes_and_comparisons_leave_blocks_out() -> None:
    rng, y = np.random.default_rng(0), np.arange(80) % 2
    x = {name: rng.normal(size=(80, 4)).astype(np.float32) for name in "ab"}
    root = xr.Dataset(coords={"label": ("sample", y)})
    sites = {name: xr.Dataset({"activation": (("sample", "node"), each)}) for name, each in x.items()}
    found = pk.measure(
        xr.DataTree.from_dict({"/": root, **sites}), ["silhouette", "cka", "std"], ci="bootstrap", repeats=20
    )
    assert found["a"]["silhouette_low"].attrs["ci"] == found["cka_low"].attrs["ci"] == "jackknife"
    assert found["a"]["std_low"].attrs["ci"] == "bootstrap"
    assert (found["cka_low"] <= found["cka"]).all()
    assert (found["a"]["silhouette_low"] < found["a"]["silhouette_high"]).all()


def test_what_does_not_depend_on_labels_has_no_null(normal: tuple[Array, Array]) -> None:
    found = measured(*normal, ["effective_rank", "sparsity"], null="permute", repeats=20)
    assert {name for name in found.data_vars if name.endswith("_p")} == {"sparsity_p"}
    with pytest.raises(DataError, match="nothing that was asked for depends on them: effective_rank"):
        measured(*normal, "effective_rank", null="permute")
    with pytest.raises(DataError, match="the samples are not grouped"):
        measured(*normal, "auroc", by=None, null="permute")


def test_a_target_is_shuffled_instead_of_labels() -> None:
    rng = np.random.default_rng(0)
    age = rng.normal(size=100)
    x = np.column_stack([age + rng.normal(size=100), rng.normal(size=100)])
    found = measured(x, np.arange(100) % 2, "correlation", {"age": age}, target="age", null="permute", repeats=99)
    name = next(str(each) for each in found.data_vars if str(each).endswith("_p"))
    assert found[name].values[0] == 2 / 100
    assert found[name].values[1] > 0.05


@pytest.mark.parametrize("metric", ["correlation", "ridge_probe"])
@pytest.mark.parametrize("dose", ["alike", "random"])
def test_a_target_that_differs_within_what_belongs_together_is_refused(metric: str, dose: str) -> None:
    rng = np.random.default_rng(0)
    x, y, patient = rng.normal(size=(200, 2)), np.arange(200) % 2, np.repeat(np.arange(20), 10)
    columns = {"patient": patient, "dose": np.tile(np.arange(10.0), 20) if dose == "alike" else rng.normal(size=200)}
    options: dict[str, Any] = {"target": "dose", "null": "permute", "repeats": 20}
    with pytest.raises(DataError, match="rows of one patient have different values of the") as raised:
        measured(x, y, metric, columns, together="patient", **options)
    assert raised.value.arguments == ("target", "together")
    by_row = measured(x, y, metric, columns, together="row", **options)
    within = measured(x, y, metric, columns, together="row", within="patient", **options)
    for found in (by_row, within):
        assert all(np.isfinite(found[name]).all() for name in found if str(name).endswith(("_p", "_p_site")))
    interval = measured(x, y, metric, columns, together="patient", target="dose", ci="jackknife")
    assert np.isfinite(interval[f"{metric}_low"]).all()


def test_a_target_that_no_shuffle_changes_is_refused() -> None:
    rng = np.random.default_rng(0)
    x, y, age = rng.normal(size=(60, 2)), np.arange(60) % 2, np.repeat(np.arange(6.0), 10)
    with pytest.raises(DataError, match="in each group of within= all rows have one value of the target"):
        measured(x, y, "correlation", {"age": age}, target="age", null="permute", within="age")
    with pytest.raises(DataError, match="all its rows have one value of the target, so no shuffle of it") as raised:
        measured(x, y, "correlation", {"age": np.ones(60)}, target="age", null="permute")
    assert raised.value.arguments == ("target",)


def test_tokens_of_a_sample_keep_one_target() -> None:
    rng = np.random.default_rng(0)
    sample, age = np.repeat(np.arange(40), 5), rng.normal(size=40)
    tree = tokens_of(rng.normal(size=(200, 2)) + age[sample][:, None], sample, np.arange(40) % 2)
    options: dict[str, Any] = {"target": "age", "null": "permute", "repeats": 40}
    root = tree.to_dataset().assign_coords(age=("sample", age))
    tree = xr.DataTree.from_dict({"/": root, "a": tree["a"].to_dataset()})
    assert (pk.measure(tree, "correlation", **options)["a"]["correlation_p"] < 0.1).all()
    tree["a"] = tree["a"].to_dataset().assign_coords(age=("row", rng.normal(size=200)))
    with pytest.raises(DataError, match="rows of one sample have different values of the target"):
        pk.measure(tree, "correlation", **options)


def test_classes_are_balanced_by_the_smallest(normal: tuple[Array, Array]) -> None:
    x, y = normal
    tree = pk.measure(site_of(x, y), ["count", "mean"], balance=True, seed=2)
    assert (tree["activation"]["count"] == 24).all()
    assert (json.loads(tree.attrs["balanced"]), tree.attrs["balanced_by_seed"]) == ({"activation": 24}, 2)
    np.testing.assert_allclose(tree["activation"]["mean"].sel(label=0), x[y == 0].mean(0))
    again = [pk.measure(site_of(x, y), "mean", balance=True, seed=seed)["activation"]["mean"] for seed in (2, 3)]
    np.testing.assert_array_equal(again[0], tree["activation"]["mean"])
    assert (again[1].sel(label=1) != again[0].sel(label=1)).all()


def test_classes_are_balanced_by_what_has_no_nan(normal: tuple[Array, Array]) -> None:
    x, y = normal[0].copy(), np.repeat([0, 1], [40, 20])
    x[40:50, 3] = np.nan
    tree = pk.measure(site_of(x, y), ["count", "mean"], balance=True, nan="omit", seed=2)
    assert (tree["activation"]["count"] == 10).all()
    assert json.loads(tree.attrs["balanced"]) == {"activation": 10}
    assert tree["activation"]["count"].attrs["omitted"] == 10
    kept = ~np.isnan(x).any(1)
    np.testing.assert_allclose(tree["activation"]["mean"].sel(label=1), x[50:].mean(0))
    alone = pk.measure(site_of(x[kept], y[kept]), "mean", balance=True, seed=2)["activation"]
    np.testing.assert_array_equal(alone["mean"], tree["activation"]["mean"])


def test_sites_are_balanced_each_by_its_own_nan_and_compared_by_all(
    normal: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, read = normal[0], np.repeat([0, 1], [40, 20]), list[str]()
    a, b = x.copy(), x + 1.0
    a[40:45, 0] = b[45:53, 1] = np.nan
    with_nan = Source.with_nan
    monkeypatch.setattr(Source, "with_nan", lambda source: read.append(source.key) or with_nan(source))
    sites = {"/": xr.Dataset(coords={"label": ("sample", y)}), "a": site_of(a, y), "b": site_of(b, y)}
    tree = pk.measure(xr.DataTree.from_dict(sites), ["count", "cka", "rsa"], balance=True, nan="omit")
    assert sorted(read) == ["a", "b"]
    assert json.loads(tree.attrs["balanced"]) == {"a": 15, "b": 12}
    assert [np.unique(tree[site]["count"]).tolist() for site in "ab"] == [[15], [12]]
    assert tree["cka"].attrs["n"] == 2 * 7
    kept = np.r_[:40, 53:60]
    whole = {key: each.isel(sample=kept) for key, each in sites.items()}
    np.testing.assert_array_equal(pk.measure(xr.DataTree.from_dict(whole), "cka", balance=True)["cka"], tree["cka"])


@pytest.mark.parametrize("positions", ["mean", "each", None])
def test_classes_are_balanced_for_each_way_to_see_positions(positions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, read = np.random.default_rng(0).normal(size=(30, 2, 4)), np.repeat([0, 1], [20, 10]), list[str]()
    x[20:23, :, 0] = np.nan  # one of four positions of three samples
    x[23:25] = np.nan
    site = xr.Dataset({"activation": (("sample", "channel", "x"), x)}, {"label": ("sample", y)})
    with_nan = Source.with_nan
    monkeypatch.setattr(Source, "with_nan", lambda source: read.append(source.pooling) or with_nan(source))
    options: dict[str, Any] = {"balance": True, "nan": "omit", "positions": positions}
    tree = pk.measure(site, ["count", "mean", "always_on"], **options)
    found, balanced = tree["activation"].to_dataset(), json.loads(tree.attrs["balanced"])
    kept = {"mean": 5, "each": 8}
    if positions is None:
        assert balanced == {f"activation (positions: {how})": number for how, number in kept.items()}
        assert found["always_on"].attrs["omitted"] == 3 + 2 * 4
        assert 16 * 4 - 8 <= found["always_on"].attrs["n"] <= 16 * 4
    else:
        assert balanced == {"activation": kept[positions]}
    assert sorted(read) == sorted([positions] if positions else kept)
    assert (found["count"].sel(label=0) == (32 if positions == "each" else 5)).all()
    assert (found["count"].sel(label=1) == (3 * 3 + 5 * 4 if positions == "each" else 5)).all()


def test_tokens_are_balanced_by_the_samples_that_have_some_without_nan() -> None:
    y, sample = np.repeat([0, 1], [12, 8]), np.repeat(np.arange(20), 3)
    x = np.random.default_rng(0).normal(size=(60, 2))
    x[36:45] = x[45] = np.nan  # all tokens of three samples, and one of the next
    tree = pk.measure(tokens_of(x, sample, y), "count", balance=True, nan="omit")
    assert json.loads(tree.attrs["balanced"]) == {"a": 5}
    assert tree["a"]["count"][:, 0].values.tolist() == [15, 14]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"null": "shuffle"}, "null is 'shuffle'; it is None or 'permute'"),
        ({"ci": "normal"}, "ci is 'normal'; it is None, 'bootstrap' or 'jackknife'"),
        ({"ci": "bootstrap", "repeats": 5}, "repeats is 5; .*at least 20"),
        ({"ci": "bootstrap", "confidence": 95}, r"confidence is 95; it lies between 0 and 1\. For 95 %, give 0\.95\."),
        ({"within": "speaker"}, "nothing is shuffled or drawn"),
        ({"null": "permute", "within": "speaker"}, "no column 'speaker'"),
        ({"balance": True, "by": None}, "the samples are not grouped"),
        ({"balance": True, "by": None, "nan": "omit"}, "the samples are not grouped"),
        (
            {"together": "label"},
            "together is 'label', and nothing that was asked for shuffles, draws or holds out rows",
        ),
    ],
    ids=str,
)
def test_what_can_not_be_is_refused(options: dict[str, Any], message: str, normal: tuple[Array, Array]) -> None:
    with pytest.raises(DataError, match=message):
        measured(*normal, "auroc", **options)


class Plain:
    """A column metric of someone else, without what makes shuffles fast."""

    name, version, parameters = "plain", 1, {}

    def compute(self, block: Block) -> dict[str, Any]:
        return {"plain": (("node",), block[1].mean(1) - block[0].mean(1))}


def test_a_metric_of_a_plugin_has_a_null_and_an_interval(normal: tuple[Array, Array]) -> None:
    x, y = normal
    plain: Metric = Plain()
    found = measured(x + y[:, None], y, plain, null="permute", ci="bootstrap", repeats=50)
    assert (found["plain_p"] < 0.05).mean() > 0.8
    assert ((found["plain_low"] < 1) & (found["plain_high"] > 1)).mean() > 0.8
    assert {"plain_p_site", "plain_low_site"} <= {*found.data_vars}
