"""Sparseness over samples and over nodes: by the formulas of the sources, in closed form, and at the ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from probekit.metrics import LifetimeSparseness, PopulationSparseness, State

Stream = Callable[..., State]


def vinje_gallant(x: np.ndarray) -> float:
    n = len(x)
    return float((1 - np.mean(x) ** 2 / np.mean(x**2)) / (1 - 1 / n))


def hoyer(x: np.ndarray) -> float:
    root = np.sqrt(len(x))
    return float((root - np.linalg.norm(x, 1) / np.linalg.norm(x)) / (root - 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lifetime_sparseness_is_that_of_the_sources(stream: Stream, dtype: type) -> None:
    rng = np.random.default_rng(0)
    x, y = np.maximum(rng.normal(size=(500, 4)) - [0, 1, -1, 2], 0).astype(dtype), rng.integers(0, 3, 500)
    found = LifetimeSparseness().finalize(stream(LifetimeSparseness(), x, y, 3, (1, 250)))
    wide = x.astype(np.float64)
    np.testing.assert_allclose(found["lifetime_sparseness"][1], [vinje_gallant(each) for each in wide.T], rtol=1e-12)
    np.testing.assert_allclose(found["lifetime_sparseness_hoyer"][1], [hoyer(each) for each in wide.T], rtol=1e-12)


def test_lifetime_sparseness_in_closed_form(stream: Stream) -> None:
    shares = (np.arange(100_000) + 0.5) / 100_000
    once = np.zeros(100_000)
    once[7] = 3
    columns = [-np.log1p(-shares), shares, np.ones(100_000), once, -once, np.zeros(100_000)]
    state = stream(LifetimeSparseness(), np.stack(columns, axis=1), np.zeros(100_000), 1)
    found = LifetimeSparseness().finalize(state)
    expected = [1 / 2, 1 / 4, 0, 1, 1, np.nan]  # 1 − 1/2 of exponential values, 1 − 3/4 of uniform ones
    np.testing.assert_allclose(found["lifetime_sparseness"][1], expected, atol=2e-4)
    np.testing.assert_allclose(found["lifetime_sparseness_hoyer"][1][2:], [0, 1, 1, np.nan], atol=1e-9)


def test_population_sparseness_is_the_mean_over_samples_that_are_not_all_zero(stream: Stream) -> None:
    rng = np.random.default_rng(1)
    x, y = np.maximum(rng.normal(size=(300, 20)) - 0.5, 0), rng.integers(0, 3, 300)
    x[y == 2] = 0
    x[::7] = 0
    metric = PopulationSparseness()
    found = metric.finalize(stream(metric, x, y, 4, (1, 100)))
    there = x.any(axis=1)
    of_samples = np.array([vinje_gallant(each) if each.any() else np.nan for each in x])
    expected = [of_samples[there & (y == code)].mean() for code in range(2)]
    np.testing.assert_allclose(found["population_sparseness"][1], [*expected, np.nan, np.nan], rtol=1e-12)
    np.testing.assert_allclose(found["population_sparseness_site"][1], of_samples[there].mean(), rtol=1e-12)
    np.testing.assert_allclose(
        found["population_sparseness_hoyer"][1], np.mean([hoyer(each) for each in x[there]]), rtol=1e-12
    )


def test_one_sample_or_one_node_has_no_sparseness(stream: Stream) -> None:
    one = LifetimeSparseness().finalize(stream(LifetimeSparseness(), np.ones((1, 2)), np.zeros(1), 1))
    assert np.isnan(one["lifetime_sparseness"][1]).all()
    node = PopulationSparseness().finalize(stream(PopulationSparseness(), np.ones((5, 1)), np.zeros(5), 1))
    assert np.isnan(node["population_sparseness_site"][1])
