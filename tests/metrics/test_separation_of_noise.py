"""Every metric that tells classes apart says nothing of classes that are alike: within two of its own errors, or NaN.

The nodes of a site, or sites where a metric has one number for each, are repeats of one experiment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import xarray as xr

import probekit as pk
from probekit import metrics

TreeOf = Callable[..., xr.DataTree]
CLASSES, SITES, NODES = 6, 8, 12
Truth = Mapping[str, float]
# What each metric's variables come to where classes mean nothing, at any number of samples.
TRUTHS: dict[Any, Truth] = {
    metrics.AUROC: {"auroc_rest": 0.5},
    metrics.CDNV: {"cdnv_inverse": 0},
    metrics.DPrime: {"dprime_mean": 0},
    metrics.Fisher: {"fisher": 0},
    metrics.KNNAccuracy: {"knn_accuracy": 1 / CLASSES},
    metrics.KS: {"ks_mean": 0},
    partial(metrics.LinearProbe, "lda", shuffles=0): {
        "linear_probe": 1 / CLASSES,
        "linear_probe_balanced": 1 / CLASSES,
    },
    metrics.MutualInformation: {"mutual_information": 0},
    metrics.NeuralCollapse: {"neural_collapse_reliability": 0, "neural_collapse_nc4": 1 / CLASSES},
    metrics.Overlap: {"overlap": 1, "overlap_rest": 1},
    metrics.Perplexity: {"perplexity": CLASSES},
    metrics.Selectivity: {"selectivity": 0},
    metrics.Separability: {"separability": 0, "separability_nearest_mean": 1 / CLASSES},
    metrics.Silhouette: {"silhouette_crossfit": 0},
    metrics.Wasserstein: {"wasserstein_mean": 0},
    # Between sites:
    metrics.CKA: {"cka": 0},
    metrics.PWCCA: {"pwcca": 0},
    metrics.Procrustes: {"procrustes": np.sqrt(2)},
    metrics.RSA: {"rsa": 0},
    metrics.SVCCA: {"svcca": 0},
}
# The largest over pairs of classes is above that by chance, and its null says by how much.
LARGEST = {
    metrics.DPrime: "dprime_max",
    metrics.KS: "ks_max",
    metrics.Overlap: "overlap_max",
    metrics.Wasserstein: "wasserstein_max",
}
# Metrics whose headline says nothing of classes: what values a site takes, and how many directions it uses.
OF_NO_CLASSES = set(
    "AlwaysOn Coactivation Correlation Count Dead Dormant EffectiveRank Entropy GradientNorm Histogram Kurtosis "  # noqa: SIM905
    "LifetimeSparseness Max Mean Min NodeCorrelation ParticipationRatio PopulationSparseness Quantile RankMe "
    "RidgeProbe Saturation Skewness Sparsity StableRank Std TopSamples TwoNN Uniformity Var median".split()
)
ELSEWHERE = {  # and those whose neutral value depends on the data
    "WeightAlignment": "its neutral value is weight_alignment_chance, and it doesn't compare classes",
    "Alignment": "its neutral value is alignment_between",
    "FeatureEntropy": "its docstring says how far few samples lower it",
}


def noise(tree_of: TreeOf, samples: int, seed: int = 0) -> xr.DataTree:
    """Sites of independent normal values after a ReLU, at classes that mean nothing."""
    rng = np.random.default_rng([samples, seed])
    y = np.repeat(np.arange(CLASSES), samples)
    sites = {f"s{n}": rng.normal(size=(len(y), NODES)).clip(min=0).astype(np.float32) for n in range(SITES)}
    return tree_of(sites, y)


def repeats(found: xr.DataTree, variable: str) -> np.ndarray:
    """The values of a variable, one for each repeat: nodes of all sites, sites, or pairs of sites."""
    if variable in found:
        return found[variable].values[np.triu_indices(SITES, 1)]
    values = xr.concat([site[variable] for site in found.children.values()], "repeat")
    return values.mean(set(values.dims) - {"repeat", "node"}).values.ravel()


def test_every_metric_is_among_them() -> None:
    known = {getattr(each, "func", each).__name__ for each in TRUTHS} | {*OF_NO_CLASSES, *ELSEWHERE}
    assert known == {name for name in metrics.__all__ if isinstance(getattr(getattr(metrics, name), "name", None), str)}


@pytest.mark.parametrize("samples", [10, 20, 50, *(pytest.param(each, marks=pytest.mark.slow) for each in (180, 1000))])
def test_independent_classes_give_the_truth_within_two_errors_or_nan(tree_of: TreeOf, samples: int) -> None:
    found = pk.measure(noise(tree_of, samples), [metric() for metric in TRUTHS])
    for metric, truths in TRUTHS.items():
        for variable, truth in truths.items():
            values = repeats(found, variable)
            few = variable in ("svcca", "pwcca") and samples * CLASSES <= 2 * NODES
            assert (np.isnan(values) == few).all(), variable
            assert few or abs(values.mean() - truth) <= 2 * values.std(ddof=1), (metric, variable, values.mean())


@pytest.mark.parametrize("samples", [10, 20, 50])
def test_the_largest_of_many_pairs_is_what_its_null_says(tree_of: TreeOf, samples: int) -> None:
    tree = noise(tree_of, samples)
    found = pk.measure(tree, [metric() for metric in LARGEST], sites=["s0", "s1"], null="permute", repeats=20)
    for variable in LARGEST.values():
        values, null = (np.concatenate([found[s][f"{variable}{end}"] for s in ("s0", "s1")]) for end in ("", "_null"))
        neutral = TRUTHS[metrics.Overlap]["overlap"] if variable.startswith("overlap") else 0
        assert abs(values.mean() - null.mean()) < values.std(), variable
        assert null.mean() - neutral > values.std(), variable  # so that it isn't taken for a finding


@pytest.mark.parametrize("samples", [10, 50])
def test_the_auroc_of_the_best_node_is_what_the_docs_say(tree_of: TreeOf, samples: int) -> None:
    nodes, rest = 400, samples * (CLASSES - 1)
    y = np.repeat(np.arange(CLASSES), samples)
    sites = {f"s{n}": np.random.default_rng(n).normal(size=(len(y), nodes)) for n in range(4)}
    found = pk.measure(tree_of(sites, y), metrics.AUROC())
    best = np.concatenate([site["auroc_rest"].max("node") for site in found.children.values()])
    spread = np.sqrt((samples + rest + 1) / (12 * samples * rest))
    expected = 0.5 + spread * NormalDist().inv_cdf((nodes - 3 / 8) / (nodes + 1 / 4))
    assert best.mean() == pytest.approx(expected, abs=3 * best.std() / np.sqrt(len(best)))


def test_the_rsa_of_sites_that_share_noise_is_what_its_null_says(tree_of: TreeOf) -> None:
    rng, y = np.random.default_rng(0), np.repeat(np.arange(10), 30)
    x = rng.normal(size=(300, 20))
    rotated = x @ np.linalg.qr(rng.normal(size=(20, 20)))[0] + 0.5 * rng.normal(size=x.shape)
    found = pk.measure(tree_of({"a": x, "b": rotated}, y), metrics.RSA(), null="permute", repeats=20)
    value, null = (found[name].sel(site="a", site_b="b").item() for name in ("rsa", "rsa_null"))
    assert null > 0.5
    assert abs(value - null) < 0.3
    assert metrics.RSA.headline.neutral is None
