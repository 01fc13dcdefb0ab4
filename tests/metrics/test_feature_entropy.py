"""Entropy of the classes in a node's activation, beside scipy's, and the bias that its docstring tells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.stats

from probekit.metrics import FeatureEntropy, State

Stream = Callable[..., State]


def test_it_is_the_entropy_of_class_means_whatever_the_sizes_of_classes(stream: Stream) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 3], [500, 20, 80])
    x = np.maximum(rng.normal(size=(600, 5)) + np.eye(4, 5)[y] * 3, 0)
    x[:, 4] = 0
    metric = FeatureEntropy()
    found = metric.finalize(stream(metric, x, y, 4, (17, 510)))
    means = np.stack([x[y == code].mean(0) for code in (0, 1, 3)])
    expected = scipy.stats.entropy(means, base=2, axis=0)
    np.testing.assert_allclose(found["feature_entropy"][1][:4], expected[:4], rtol=1e-12)
    np.testing.assert_allclose(
        found["feature_entropy_monosemanticity"][1][:4], 1 - expected[:4] / np.log2(3), rtol=1e-12
    )
    assert np.isnan([found[name][1][4] for name in found]).all()


def test_negative_values_count_for_nothing_and_one_class_has_no_entropy(stream: Stream) -> None:
    x, y = np.array([[-5.0, 1], [3, 1], [-9, 1]]), np.array([0, 1, 2])
    found = FeatureEntropy().finalize(stream(FeatureEntropy(), x, y, 3))
    np.testing.assert_allclose(found["feature_entropy"][1], [0, np.log2(3)])
    np.testing.assert_allclose(found["feature_entropy_monosemanticity"][1], [1, 0], atol=1e-15)
    alone = FeatureEntropy().finalize(stream(FeatureEntropy(), x[1:2], y[:1], 2))
    assert np.isnan(alone["feature_entropy"][1]).all()


def test_of_few_samples_it_is_too_low_by_what_the_docstring_says(stream: Stream) -> None:
    n, classes, nodes = 10, 10, 2000
    x = np.random.default_rng(0).exponential(size=(n * classes, nodes))  # σ = μ
    found = FeatureEntropy().finalize(stream(FeatureEntropy(), x, np.arange(n * classes) % classes, classes))
    missing = np.log2(classes) - found["feature_entropy"][1]
    np.testing.assert_allclose(missing.mean(), (1 - 1 / classes) / (2 * n * np.log(2)), rtol=0.05)
