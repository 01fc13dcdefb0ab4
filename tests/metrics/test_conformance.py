"""Every metric that comes with probekit keeps to the laws that it asks of others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from probekit import metrics, plugins
from probekit._measure.metric_set import resolved
from probekit.testing import conformance

VARIANTS = [
    metrics.AUROC(min_count=1),
    metrics.CKA(biased=True),
    metrics.DPrime(pairs=False),
    metrics.Entropy(bins=5, min_count=1),
    metrics.Histogram(bins=5, edges="width"),
    metrics.KS(min_count=1),
    metrics.CDNV(unbiased=False, pairs=False),
    metrics.KNNAccuracy(1, distance="cosine", shuffles=0),
    metrics.LinearProbe("lda", folds=3),
    metrics.LinearProbe("ridge", shuffles=0),
    metrics.MutualInformation(bins=5, min_count=1),
    metrics.Overlap(bins=5, min_count=1),
    metrics.Quantile([0.1, 0.8]),
    metrics.RSA("euclidean", ranks=False),
    metrics.RSA("crossvalidated"),
    metrics.Sparsity(threshold=0.5),
    metrics.Correlation(spearman=False),
    metrics.Std(ddof=1),
    metrics.Var(ddof=1),
    metrics.Wasserstein(min_count=1),
]
DEFAULTS = [
    metrics.AUROC,
    metrics.Alignment,
    metrics.CDNV,
    metrics.CKA,
    metrics.Correlation,
    metrics.KS,
    metrics.RSA,
    metrics.AlwaysOn,
    metrics.Coactivation,
    metrics.Count,
    metrics.DPrime,
    metrics.Dead,
    metrics.Dormant,
    metrics.EffectiveRank,
    metrics.Entropy,
    metrics.FeatureEntropy,
    metrics.Fisher,
    metrics.GradientNorm,
    metrics.Histogram,
    metrics.Kurtosis,
    metrics.LifetimeSparseness,
    metrics.KNNAccuracy,
    metrics.LinearProbe,
    metrics.Max,
    metrics.Mean,
    metrics.Min,
    metrics.MutualInformation,
    metrics.NeuralCollapse,
    metrics.NodeCorrelation,
    metrics.Overlap,
    metrics.ParticipationRatio,
    metrics.PWCCA,
    metrics.Perplexity,
    metrics.PopulationSparseness,
    metrics.Procrustes,
    metrics.Quantile,
    metrics.RankMe,
    metrics.RidgeProbe,
    metrics.SVCCA,
    metrics.Saturation(bounds=(-1, 1)),
    metrics.Selectivity,
    metrics.Separability,
    metrics.Silhouette,
    metrics.Skewness,
    metrics.Sparsity,
    metrics.StableRank,
    metrics.Std,
    metrics.TopSamples,
    metrics.TwoNN,
    metrics.Uniformity,
    metrics.Var,
    metrics.Wasserstein,
    metrics.median,
]


@conformance(*DEFAULTS, *VARIANTS)
def test_built_in_metrics_keep_to_the_protocol(check: Callable[[], None]) -> None:
    check()


@conformance(
    metrics.NeuralCollapse(
        head=[[1, 2, 0, 0, 1, 0, 3], [0, 1, 4, 0, 0, 1, 1], [2, 2, 0, 1, 0, 1, 0], [1, 0] * 3 + [1]]
    ),
    except_for=dict.fromkeys(("class permutation", "missing class"), "the rows of the head are of the classes"),
)
def test_a_head_keeps_to_the_protocol(check: Callable[[], None]) -> None:
    check()


@conformance(
    metrics.WeightAlignment([[1, 2, 0, 0, 1, 0, 3], [0, 1, 4, 0, 0, 1, 1]]),
    except_for=dict.fromkeys(("declared dims", "says what it needs"), "the weights are of so many nodes"),
)
def test_weights_keep_to_the_protocol(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize(
    "name", [n for n, p in plugins.find(plugins.METRICS).items() if p.distribution == "probekit-torch"]
)
def test_every_registered_metric_is_among_those_that_are_checked(name: str) -> None:
    assert name in {resolved(metric)[0].name for metric in DEFAULTS}
