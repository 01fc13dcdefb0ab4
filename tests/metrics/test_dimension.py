"""TwoNN, against its formula with scikit-learn's neighbours, and surfaces of known dimension."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import NearestNeighbors

from probekit.errors import PluginError
from probekit.metrics import TwoNN


def found_in(samples_of, metric, x):
    variables = metric.compute_samples(samples_of(x, np.zeros(len(x)), 1))
    return tuple(variables[name][1].item() for name in ("twonn", "twonn_error", "twonn_size"))


def by_scikit_learn(x, discard):
    near = NearestNeighbors(n_neighbors=3, algorithm="brute").fit(x).kneighbors(x)[0]
    ratios = np.sort(near[:, 2] / near[:, 1])
    kept = int(len(x) * (1 - discard))
    y = -np.log(1 - np.arange(1, kept + 1) / len(x))
    line = LinearRegression(fit_intercept=False).fit(np.log(ratios[:kept])[:, None], y)
    return line.coef_[0]


@pytest.mark.parametrize("offset", [0, 1e6])
@pytest.mark.parametrize("discard", [0.1, 0.5])
def test_it_is_that_of_the_nearest_neighbours(samples_of, discard, offset):
    x = np.random.default_rng(0).normal(size=(700, 12)) + offset
    dimension, error, size = found_in(samples_of, TwoNN(discard=discard), x)
    np.testing.assert_allclose(dimension, by_scikit_learn(x - offset, discard), rtol=1e-6)
    assert (error, size) == (dimension / np.sqrt(700), 700)


def test_a_curved_surface_has_two_dimensions(samples_of):
    rng = np.random.default_rng(0)
    turn, along = rng.random(1500) * 9 + 4, rng.random(1500) * 20
    roll = np.column_stack([turn * np.cos(turn), along, turn * np.sin(turn)])
    wide = roll @ np.linalg.qr(rng.normal(size=(40, 40)))[0][:3]
    assert 1.8 < found_in(samples_of, TwoNN(), wide)[0] < 2.1  # not evenly dense


@pytest.mark.parametrize("number", [10, 20, 50, 180, 1000])
def test_a_plane_of_two_directions_is_found_with_few_samples_too(samples_of, number):
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = rng.random((number, 2)) @ np.linalg.qr(rng.normal(size=(9, 9)))[0][:2]
        found.append(found_in(samples_of, TwoNN(), x)[0])
    assert abs(np.mean(found) - 2) < 2 * np.std(found)


def test_samples_that_are_equal_are_left_out(samples_of):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    twice = np.concatenate([x, x[:50]])
    assert found_in(samples_of, TwoNN(), twice)[2] == 150
    for same in (np.ones((30, 4)), np.repeat(x[:20], 2, axis=0), x[:2], x[:0]):
        dimension, _, size = found_in(samples_of, TwoNN(), same)
        assert np.isnan(dimension)
        assert size == 0
    assert np.isnan(found_in(samples_of, TwoNN(), np.append(x, [[np.inf, 0, 0]], axis=0))[0])


def test_at_most_so_many_samples_are_used(samples_of):
    x = np.random.default_rng(0).normal(size=(500, 3))
    assert found_in(samples_of, TwoNN(size=100), x)[2] == 100
    with pytest.raises(PluginError, match="size must be a whole number of at least 3"):
        TwoNN(size=2)
