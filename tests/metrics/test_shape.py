"""Skewness and excess kurtosis beside scipy's, also far from 0 and where a class is constant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats

from probekit.metrics import Kurtosis, Skewness, State

Stream = Callable[..., State]
CASES = [(Skewness(), scipy.stats.skew), (Kurtosis(), scipy.stats.kurtosis)]


@pytest.mark.parametrize(("metric", "reference"), CASES)
@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (1e5, 1), (0, 1e-60), (0, 1e60)])
def test_they_are_those_of_scipy(
    stream: Stream, metric: Skewness | Kurtosis, reference: Callable[..., np.ndarray], offset: float, scale: float
) -> None:
    rng = np.random.default_rng(0)
    x, y = np.hstack([rng.exponential(size=(900, 2)), rng.normal(size=(900, 2))]), rng.integers(0, 3, 900)
    x = (x + offset) * scale
    found = metric.finalize(stream(metric, x, y, 4, (1, 2, 300, 301)))[metric.name]
    assert found[0] == ("label", "node")
    expected = [reference((x[y == code] - offset * scale) / scale) for code in range(3)]
    np.testing.assert_allclose(found[1][:3], expected, rtol=1e-7, atol=1e-7)
    assert np.isnan(found[1][3]).all()


@pytest.mark.parametrize("metric", [Skewness(), Kurtosis()])
@pytest.mark.parametrize("scale", [1e-90, 1e90])
def test_values_whose_powers_do_not_fit_have_neither(stream: Stream, metric: Skewness | Kurtosis, scale: float) -> None:
    x = np.random.default_rng(0).exponential(size=(900, 2)) * scale
    assert np.isnan(metric.finalize(stream(metric, x, np.zeros(900), 1, (100,)))[metric.name][1]).all()


@pytest.mark.parametrize("metric", [Skewness(), Kurtosis()])
def test_a_node_that_is_constant_in_a_class_has_neither(stream: Stream, metric: Skewness | Kurtosis) -> None:
    y = np.arange(900) % 3
    x = np.stack([np.full(900, 1 / 3), np.where(y == 1, 0.1, np.random.default_rng(0).normal(size=900))], axis=1)
    found = metric.finalize(stream(metric, x, y, 3, (100, 500)))[metric.name][1]
    np.testing.assert_array_equal(np.isnan(found), [[True, False], [True, True], [True, False]])
