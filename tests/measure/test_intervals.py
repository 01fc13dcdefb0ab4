"""Intervals end where estimates do, are missing with a reason where units are too few, and sites have theirs."""

from __future__ import annotations

import warnings
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import xarray as xr
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr, t

import probekit as pk
from probekit import plugins
from probekit._measure.metric_set import resolved
from probekit._measure.resampling.draws import Draws
from probekit._measure.resampling.intervals import Intervals
from probekit._measure.resampling.tally import Sums
from probekit._measure.resampling.units import Units
from probekit.errors import DataError
from probekit.metrics import CKA, RSA, Metric, Saturation, Sparsity, WeightAlignment
from probekit.metrics.ranges import Ranges

Array = np.ndarray
METRICS = [
    *(name for name in plugins.find(plugins.METRICS) if name not in ("saturation", "histogram", "top_samples")),
    Saturation(bounds=(0, 2)),
    *("overlap:corrected=False", "ks:corrected=False", "dprime:corrected=False", "fisher:corrected=False"),
]


def store_of(sites: dict[str, Array], y: Array, type: str = "ReLU") -> xr.DataTree:
    root = xr.Dataset(coords={"label": ("sample", y), "age": ("sample", np.linspace(0, 1, len(y)))})
    attrs = {"type": type, "kind": "output"}
    made = {name: xr.Dataset({"activation": (("sample", "node"), x)}, attrs=attrs) for name, x in sites.items()}
    return xr.DataTree.from_dict({"/": root, **made})


def activations(seed: int, y: Array) -> dict[str, Array]:
    """Sites of a ReLU that tell classes apart well, and of which one node is always on and one is nearly always off."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(y), 6)) + 3 * (y[:, None] == 1)
    x[:, 1] += 3
    x[:, 2] = np.where(rng.random(len(y)) < 0.05, 1, -1)
    return {
        name: np.maximum(each, 0).astype(np.float32)
        for name, each in {"a": x, "b": x + rng.normal(size=x.shape)}.items()
    }


@pytest.fixture(scope="module", params=["bootstrap", "jackknife"])
def every(request: pytest.FixtureRequest) -> list[tuple[Metric, xr.DataTree]]:
    """All metrics with intervals, each by itself."""
    y, found = np.arange(60) % 4, []
    for metric in METRICS:
        with warnings.catch_warnings(action="ignore"):
            one = resolved(metric)[0]
            target = "age" if getattr(one, "needs_target", False) else None
            tree = pk.measure(store_of(activations(0, y), y), one, ci=request.param, repeats=20, target=target)
        found.append((one, tree))
    return found


def test_intervals_end_where_estimates_do(every: list[tuple[Metric, xr.DataTree]]) -> None:
    confined = 0
    for metric, tree in every:
        ranges = {
            name: (0.0, np.inf) if each == "activation" else each
            for name, each in getattr(metric, "ranges", {}).items()
        }
        for group in (tree, *tree.children.values()):
            for name in (str(each) for each in group.data_vars if f"{each}_low" in group.data_vars):
                value, low, high = (group[each].values.astype(float) for each in (name, f"{name}_low", f"{name}_high"))
                known = np.isfinite(value) & np.isfinite(low)
                assert (low[known] <= high[known]).all(), name
                least, most = ranges.get(name, (-np.inf, np.inf))
                assert (low[known] >= least - 1e-9).all(), name
                assert (high[known] <= most + 1e-9).all(), name
                confined += int((low[known] == least).sum() + (high[known] == most).sum())
                if f"{name}_low_site" in group.data_vars:
                    ends = group[f"{name}_low_site"].values, group[f"{name}_high_site"].values
                    assert (np.isnan(ends[0]) | ((ends[0] >= least - 1e-6) & (ends[1] <= most + 1e-6))).all(), name
    assert confined > 50


def test_what_is_corrected_for_chance_is_not_confined() -> None:
    rng, y = np.random.default_rng(0), np.arange(120) % 2
    alike = store_of({name: rng.normal(size=(120, 12)) for name in "ab"}, y, "Linear")
    found = pk.measure(alike, ["overlap", "cka", "dprime"], ci="jackknife")
    assert (found["a"]["overlap_high"] > 1).any()
    assert found["cka_low"].sel(site="a", site_b="b") < 0
    assert (found["a"]["dprime_mean_low"] < 0).any()


class Unconfined(Sparsity):
    """The same without ranges."""

    ranges: ClassVar[Ranges] = {}


@pytest.mark.parametrize("ci", ["bootstrap", "jackknife"])
def test_what_intervals_hold_they_still_hold_when_they_are_confined(ci: str) -> None:
    y, truth = np.zeros(30, int), np.linspace(0.02, 0.98, 400)
    x = (np.random.default_rng(1).random((30, 400)) > truth).astype(np.float32)
    held = []
    for metric in (Unconfined(), Sparsity()):
        data = pk.measure(store_of({"a": x}, y), metric, ci=ci)["a"]
        held.append(((data["sparsity_node_low"] <= truth) & (truth <= data["sparsity_node_high"])).values)
        reaches = float(data["sparsity_node_low"].min()), float(data["sparsity_node_high"].max())
        assert (reaches == (0, 1)) == (type(metric) is Sparsity)
    assert (held[0] <= held[1]).all()
    assert held[1].mean() > 0.85


def intervals(metric: Any, how: str = "bootstrap", sizes: tuple[int, ...] = (20, 20)) -> Intervals:
    y = np.repeat(np.arange(len(sizes)), sizes)
    units = Units(np.arange(len(y)), np.zeros(len(y), np.int64), y, np.bincount(y), "sample")
    return Intervals(metric, Draws(units, 0, "a"), how, repeats=50, confidence=0.95, bounds=None)


def test_a_bias_does_not_take_an_interval_out_of_the_range() -> None:
    draws = 0.8 + 0.01 * np.random.default_rng(0).normal(size=50)
    found = intervals(Sparsity()).of_variable("sparsity_node", (), Sums.of(np.array(0.98), draws))
    reach = t.ppf(0.975, 38) * draws.std(ddof=1) * np.sqrt(40 / 38)  # around 1, as 1.16 can't be
    assert (found.low, found.high) == (pytest.approx(1 - reach), 1)


@pytest.mark.parametrize("ci", ["bootstrap", "jackknife"])
@pytest.mark.parametrize("few", [2, 3, 6])
def test_intervals_of_small_classes_cover_what_is_true(few: int, ci: str) -> None:
    y = np.repeat([0, 1], [few, 40 - few])
    x = np.random.default_rng(few).normal(size=(40, 1500))
    found = pk.measure(store_of({"a": x}, y, "Linear"), "mean", ci=ci, repeats=100)["a"]
    covered = ((found["mean_low"] < 0) & (found["mean_high"] > 0)).mean("node")
    assert ((covered > 0.93) & (covered < 0.98)).all()  # by the degrees of freedom of all classes: 0.62, 0.77, 0.88


@pytest.mark.parametrize(("classes", "samples"), [(2, 100), (10, 12), (10, 50), (30, 12)])
def test_intervals_of_classes_that_are_alike_cover_what_is_true(classes: int, samples: int) -> None:
    y, x = np.repeat(np.arange(classes), samples), np.random.default_rng(1).normal(size=(classes * samples, 100))
    metrics = ["fisher", "dprime", "wasserstein", "selectivity", "perplexity"]
    for site, wanted in ((x, metrics[:3]), (np.maximum(x, 0), metrics[3:])):
        found = pk.measure(store_of({"a": site}, y), wanted, ci="bootstrap", repeats=50)["a"]
        for name in wanted:
            variable = f"{name}_mean" if f"{name}_mean" in found else name
            low, high, value = (found[f"{variable}{end}"].values for end in ("_low", "_high", ""))
            assert ((low <= value) & (value <= high)).all(), name
            truth = classes if name == "perplexity" else 0
            least = 0.75 if (name, classes) == ("wasserstein", 2) else 0.87  # it turns at 0, as a distance does
            assert ((low <= truth) & (truth <= high)).mean() > least, name


def test_what_is_not_corrected_is_given_without_the_bias_that_draws_show() -> None:
    y, x = np.repeat(np.arange(10), 50), np.random.default_rng(1).normal(size=(500, 40))
    found = pk.measure(store_of({"a": x}, y), "dprime:corrected=False", ci="bootstrap", repeats=50)["a"]
    assert ((found["dprime_mean_low"] + found["dprime_mean_high"]) / 2 < found["dprime_mean"]).all()


@pytest.mark.parametrize("sizes", [(200, 3), (300, 2, 2), (40, 40)])
def test_a_site_of_classes_of_which_some_are_small_has_intervals_that_cover_what_is_true(
    sizes: tuple[int, ...],
) -> None:
    y, held = np.repeat(np.arange(len(sizes)), sizes), []
    sites = {f"s{n}": np.random.default_rng(n).normal(size=(len(y), 1)) for n in range(150)}
    found = pk.measure(store_of(sites, y, "Linear"), ["mean", "fisher"], ci="bootstrap", repeats=60)
    for low, high in (("mean_low_site", "mean_high_site"), ("fisher_low", "fisher_high")):
        ends = [(float(found[site][low].item()), float(found[site][high].item())) for site in sites]
        held.append(np.mean([first <= 0 <= last for first, last in ends]))
    assert min(held) > 0.88, held  # by the freedom of all samples 0.70 to 0.82


@pytest.mark.parametrize("ci", ["bootstrap", "jackknife"])
def test_matched_pairs_have_intervals_by_the_jackknife_alone(ci: str) -> None:
    rng = np.random.default_rng(0)
    made = store_of({"a": rng.normal(size=(120, 5))}, np.arange(120) % 2, "Linear")
    columns = made.to_dataset().assign_coords(session=("sample", np.repeat(np.arange(60), 2)))
    tree = xr.DataTree.from_dict({"/": columns, "a": made["a"].to_dataset()})
    found = pk.measure(tree, ["mean", "fisher"], ci=ci, within="session", repeats=50)["a"]
    for low in (found["mean_low"], found["mean_low_site"], found["fisher_low"]):
        if ci == "jackknife":
            assert low.notnull().all()
        else:
            assert low.isnull().all()
            assert low.attrs["no_interval"].startswith("each group of within= has one sample of a class")


@pytest.mark.parametrize("sizes", [(11,) * 5, (11,) * 10, (150, 150, 10)])
@pytest.mark.parametrize("metric", ["ks", "overlap", "mutual_information", "wasserstein"])
def test_where_a_block_takes_a_class_away_there_is_no_interval(sizes: tuple[int, ...], metric: str) -> None:
    y = np.repeat(np.arange(len(sizes)), sizes)
    x = np.random.default_rng(0).normal(size=(len(y), 3)) + y[:, None]
    found = pk.measure(store_of({"a": x}, y, "Linear"), metric, ci="bootstrap", repeats=30)["a"]
    low = found[f"{metric}_mean_low" if f"{metric}_mean_low" in found else f"{metric}_low"]
    assert low.isnull().all()
    assert "a class has fewer than min_count samples (10)" in low.attrs["no_interval"]


@pytest.mark.parametrize("offset", [1e6, 1e8])
def test_an_offset_changes_neither_intervals_nor_p(offset: float) -> None:
    y, x = np.repeat([0, 1], 60), np.random.default_rng(0).normal(size=(120, 4))
    x[:, 0] += y
    here, there = (
        pk.measure(store_of({"a": x + by}, y, "Linear"), "mean", null="permute", ci="bootstrap", repeats=60)["a"]
        for by in (0, offset)
    )
    for name in ("mean_p", "mean_p_site"):
        np.testing.assert_array_equal(here[name], there[name])
    for name in ("mean_low_site", "mean_high_site"):
        np.testing.assert_allclose(here[name], there[name] - offset, atol=1e-14 * offset + 1e-6)


@pytest.mark.parametrize("ci", ["bootstrap", "jackknife"])
def test_a_class_of_one_sample_has_no_interval(ci: str) -> None:
    y = np.repeat([0, 1, 2], [1, 19, 20])
    tree = store_of({"a": np.random.default_rng(0).normal(size=(40, 5))}, y, "Linear")
    found = pk.measure(tree, ["mean", "auroc:min_count=1", "std"], ci=ci)["a"]
    for name in ("mean", "auroc_rest"):
        assert found[f"{name}_low"].isnull().all("node").values.tolist() == [True, False, False]
        assert "a class has one sample" in found[f"{name}_low"].attrs["no_interval"]
        assert found[f"{name}_low_site"].isnull()
    assert found["auroc_high"].isnull().all("node").sum() == 5  # of pairs with the class
    two = pk.measure(tree, "mean", ci=ci, where={"label": [1, 2]})["a"]
    assert "no_interval" not in two["mean_low"].attrs
    assert two["mean_low_site"] < two["mean_high_site"]


@pytest.mark.parametrize(
    ("sizes", "metric", "name", "why"),
    [
        ((10, 30), "overlap", "overlap", "6 blocks of samples a class has fewer than min_count samples (10)"),
        ((12, 28), "ks:min_count=11", "ks_mean", "6 blocks of samples a class has fewer than min_count samples (11)"),
        ((3, 3), "fisher", "fisher", "2 blocks of samples there is no finite number"),
    ],
)
def test_what_a_repeat_lacks_is_said(sizes: tuple[int, int], metric: str, name: str, why: str) -> None:
    y = np.repeat([0, 1], sizes)
    tree = store_of({"a": np.random.default_rng(0).normal(size=(len(y), 3))}, y, "Linear")
    low = pk.measure(tree, metric, ci="jackknife")["a"][f"{name}_low"]
    assert low.isnull().all()
    assert low.attrs["no_interval"] == f"without some of the {why}"


def test_how_many_samples_an_interval_needs_is_said() -> None:
    tree = store_of({"a": np.eye(3)}, np.zeros(3, int), "Linear")
    with pytest.raises(DataError, match="has 3 samples, too few for an interval: give at least 4"):
        pk.measure(tree, "mean", ci="jackknife")


@pytest.mark.parametrize(
    ("metric", "name", "least"),
    [(RSA(), "rsa", 4), (RSA("euclidean", ranks=False), "rsa", 4), ("node_correlation", "node_correlation_signal", 3)],
    ids=str,
)
def test_arrangements_of_few_classes_have_no_interval(metric: Any, name: str, least: int) -> None:
    for classes in (least - 1, least):
        y = np.append(np.arange(60) % classes, 9)  # the class of one sample doesn't count
        rng = np.random.default_rng(0)
        x = rng.normal(size=(61, 5)) + rng.normal(size=(10, 5))[y]
        tree = pk.measure(store_of({"a": x, "b": x + rng.normal(size=x.shape)}, y), metric, ci="bootstrap")
        group = tree if name in tree.data_vars else tree["a"]
        low, apart = group[f"{name}_low"], group[name].notnull().values
        assert apart.any()
        assert np.isnan(low.values[apart]).all() == (classes < least)
        said = f"it needs {least} classes of two samples, and there are {classes}"
        assert (said in low.attrs.get("no_interval", "")) == (classes < least)


def test_extremes_have_no_interval() -> None:
    y = np.arange(30) % 2
    found = pk.measure(store_of(activations(0, y), y), ["min", "max", "mean"], ci="bootstrap", repeats=20)["a"]
    assert {"mean_low"} == {name for name in found.data_vars if name.endswith("_low")}


@pytest.fixture(scope="module")
def related() -> tuple[dict[str, Array], Array]:
    rng, y = np.random.default_rng(3), np.arange(90) % 5
    base = rng.normal(size=(90, 6)) + 1.5 * rng.normal(size=(5, 6))[y]
    return {name: base + k * rng.normal(size=base.shape) for k, name in enumerate("abc")}, y


def biased_cka(x: Array, y: Array) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "stored"])
def test_a_site_has_the_interval_of_its_mean_over_the_others(
    related: tuple[dict[str, Array], Array], stored: bool, tmp_path: Path
) -> None:
    sites, y = related
    tree: Any = store_of(sites, y, "Linear")
    if stored:
        tree.to_zarr(tmp_path / "a.zarr", consolidated=False)
        tree = xr.open_datatree(tmp_path / "a.zarr", engine="zarr", consolidated=False)
    found = pk.measure(tree, CKA(biased=True), ci="bootstrap").to_dataset().sel(site=[*sites], site_b=[*sites])
    units = Units(np.arange(90), np.zeros(90, np.int64), y, np.bincount(y), "sample")
    blocks = Draws(units, 0, "a").blocks(200)
    number = blocks.max() + 1
    assert number == 9

    def means(rows: Array) -> Array:
        pairs = {pair: biased_cka(*(sites[site][rows] for site in pair)) for pair in combinations(sites, 2)}
        return np.array([np.mean([value for pair, value in pairs.items() if site in pair]) for site in sites])

    value, without = means(np.full(90, True)), np.stack([means(blocks != block) for block in range(number)])
    reach = t.ppf(0.975, number - 1) * np.sqrt((number - 1) / number * ((without - without.mean(0)) ** 2).sum(0))
    assert found["cka_low_site"].dims == ("site",)
    np.testing.assert_allclose(found["cka_low_site"], value - reach, rtol=1e-5)
    np.testing.assert_allclose(found["cka_high_site"], value + reach, rtol=1e-5)
    assert found["cka_low_site"].attrs["over"] == "mean over sites"
    # which isn't the mean of the ends of the pairs' intervals
    of_pairs = found["cka_low"].where(found["site"] != found["site_b"]).mean("site_b")
    assert (of_pairs + 1e-4 < found["cka_low_site"]).all()


def test_a_site_has_the_null_of_its_mean_over_the_others(related: tuple[dict[str, Array], Array]) -> None:
    sites, y = related
    found = pk.measure(store_of(sites, y, "Linear"), RSA("euclidean"), null="permute", repeats=40, seed=2)
    draws = Draws(Units(np.arange(90), np.zeros(90, np.int64), y, np.bincount(y), "sample"), 2, "a")

    def means(labels: Array) -> Array:
        apart = [pdist(np.stack([x[labels == c].mean(0) for c in range(5)])) for x in sites.values()]
        table = spearmanr(np.stack(apart), axis=1).statistic
        return (table.sum(1) - 1) / 2

    value, null = means(y), np.stack([means(draws.labels(repeat)) for repeat in range(40)])
    tails = [1 + (null >= value - 1e-9).sum(0), 1 + (null <= value + 1e-9).sum(0)]
    np.testing.assert_allclose(found["rsa_p_site"], np.minimum(1, 2 * np.min(tails, axis=0) / 41))
    np.testing.assert_allclose(found["rsa_null_site"], null.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["rsa_null_std_site"], null.std(0, ddof=1), rtol=1e-5)


def test_of_two_sites_each_has_the_interval_of_the_pair(related: tuple[dict[str, Array], Array]) -> None:
    sites, y = related
    two = store_of({name: sites[name] for name in "ab"}, y, "Linear")
    found = pk.measure(two, ["cka", "rsa", "procrustes"], ci="bootstrap", null="permute", repeats=20)
    for name in ("cka_low", "cka_high", "procrustes_low", "rsa_low", "rsa_p", "rsa_null"):
        pair = float(found[name].sel(site="a", site_b="b"))
        np.testing.assert_allclose(found[f"{name}_site"], [pair, pair], rtol=1e-5)


@pytest.mark.parametrize("ci", ["bootstrap", "jackknife"])
def test_a_headline_of_classes_alone_has_an_interval_of_its_mean_over_them(ci: str) -> None:
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    metric = WeightAlignment(rng.normal(size=(3, 5)))
    found = pk.measure(store_of({"a": rng.normal(size=(60, 5))}, y, "Linear"), metric, ci=ci, repeats=20)
    row, of_site = pk.summary(found).to_dataframe().iloc[0], found["a"]
    assert row["value"] == pytest.approx(of_site["weight_alignment"].mean().item())
    assert (row["low"], row["high"]) == (of_site["weight_alignment_low_site"], of_site["weight_alignment_high_site"])
    assert row["low"] < row["value"] < row["high"]
