"""P-values of data in which no class differs are as small as they say as often as they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import binom

import probekit as pk

SITES, NODES, REPEATS = 40, 3, 20
SMALL = 2 / (REPEATS + 1)  # the least p-value of so many repeats
GROUPED = [
    *("mean", "var", "std", "median", "quantile:0.1,0.9", "min", "max", "skewness", "kurtosis", "entropy", "sparsity"),
    *("fisher", "dprime", "ks", "auroc", "overlap", "mutual_information", "wasserstein", "selectivity", "perplexity"),
    *("feature_entropy", "separability", "cdnv", "neural_collapse", "silhouette", "alignment"),
    *("knn_accuracy", "node_correlation"),
]


def without_differences(sizes: tuple[int, ...], seed: int) -> xr.DataTree:
    """Sites that know nothing of the classes; every other one is that of a ReLU."""
    rng, y = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(1, 1, (SITES, len(y), NODES)).astype(np.float32)
    x[::2] = np.maximum(x[::2], 0)
    sites = {f"s{at}": xr.Dataset({"activation": (("sample", "node"), each)}) for at, each in enumerate(x)}
    return xr.DataTree.from_dict({"/": xr.Dataset(coords={"label": ("sample", rng.permutation(y))}), **sites})


def assert_calibrated(tree: xr.DataTree, metric: Any) -> None:
    found = pk.measure(tree, metric, null="permute", repeats=REPEATS)
    groups = [group.to_dataset() for group in found.children.values()]
    names = [str(name) for name in groups[0] if str(name).endswith(("_p", "_p_site"))]
    assert names
    for name in names:
        # One class of each node: the p-values of the others depend on it.
        p = np.stack([each[name].isel(dict.fromkeys({*each[name].dims} - {"node"}, 0)).values for each in groups])
        small, number = int((p <= SMALL).sum()), int((~np.isnan(p)).sum())
        assert small <= binom.ppf(1 - 1e-4, number, SMALL), name
        if (ties := (p == 1).mean()) < 0.1:  # otherwise the values are few, and less is said
            assert small >= binom.ppf(1e-4, number, SMALL), (name, ties)


@pytest.mark.parametrize("sizes", [(14, 14, 14), (10, 12, 20)], ids=["equal", "unequal"])
def test_nothing_is_found_where_no_class_differs(sizes: tuple[int, ...]) -> None:
    assert_calibrated(without_differences(sizes, 0), ["mean", "fisher"])


@pytest.mark.slow
@pytest.mark.parametrize("metric", GROUPED)
@pytest.mark.parametrize(
    "sizes", [pytest.param((14, 14, 14), marks=pytest.mark.long, id="equal"), pytest.param((10, 12, 20), id="unequal")]
)
def test_no_metric_finds_anything_where_no_class_differs(metric: str, sizes: tuple[int, ...]) -> None:
    assert_calibrated(without_differences(sizes, 1), metric)


def test_the_site_of_a_number_that_describes_classes_is_tested_for_their_spread() -> None:
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    x = {"noise": rng.normal(size=(60, 8)), "signal": rng.normal(size=(60, 8))}
    x["signal"][:, :4] += y[:, None]
    sites = {name: xr.Dataset({"activation": (("sample", "node"), each)}) for name, each in x.items()}
    tree = xr.DataTree.from_dict({"/": xr.Dataset(coords={"label": ("sample", y)}), **sites})
    found = pk.measure(tree, ["mean", "auroc"], null="permute", repeats=39)
    spreads = {name: np.stack([x[name][y == c].mean(0) for c in range(3)]).std(0).mean() for name in x}
    assert spreads["signal"] > 2 * spreads["noise"]
    assert found["signal"]["mean_p_site"] == 0.05
    assert found["noise"]["mean_p_site"] > 0.05
    assert found["noise"]["mean_p_site"].attrs["over"] == "standard deviation over classes, mean over nodes"
    assert "mean_null_site" not in found["noise"]
    assert "auroc_rest_null_site" in found["noise"]
    summary = pk.summary(found)
    readings = {(each.site, each.metric): each for each in summary.readings}
    assert (readings["signal", "mean"].p, readings["signal", "mean"].beside) == (0.05, None)
    told = next(note for note in summary.notes if note.startswith("mean"))
    assert told.endswith(
        "Its p tells whether the classes differ: it is of the standard deviation over classes, mean over nodes."
    )
    assert "Its p" not in next(note for note in summary.notes if note.startswith("auroc"))
