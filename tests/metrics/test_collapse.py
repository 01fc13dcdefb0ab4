"""Neural collapse, against the formulas written out and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from probekit.metrics import NeuralCollapse, Samples

SamplesOf = Callable[..., Samples]


def found(samples: Samples) -> dict[str, float]:
    variables = NeuralCollapse().compute_samples(samples)
    assert all(dims == () and array.shape == () and array.dtype == np.float64 for dims, array in variables.values())
    return {name.removeprefix("neural_collapse_"): float(array) for name, (_, array) in variables.items()}


def by_the_formulas(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    classes = np.unique(y)
    means = np.array([x[y == c].mean(0) for c in classes])
    apart = means - means.mean(0)
    within = np.mean([np.cov(x[y == c].T, ddof=0) for c in classes], axis=0)
    between = apart.T @ apart / len(classes)
    norms = np.linalg.norm(apart, axis=1)
    cosines = [apart[a] @ apart[b] / norms[a] / norms[b] for a, b in combinations(range(len(classes)), 2)]
    return {
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-10, hermitian=True)) / len(classes),
        "nc2_norms": norms.std() / norms.mean(),
        "nc2_cosines": np.mean(np.abs(np.array(cosines) + 1 / (len(classes) - 1))),
        "nc4": NearestCentroid().fit(x, y).score(x, y),
    }


def simplex(classes: int, nodes: int) -> np.ndarray:
    """The corners of a simplex around a centre that isn't 0, turned into more dimensions."""
    corners = np.eye(classes) - 1 / classes
    return corners @ np.linalg.qr(np.random.default_rng(0).normal(size=(nodes, nodes)))[0][:classes] * 7 + 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("nodes", [3, 30])
@pytest.mark.parametrize("offset", [0, 100])
def test_they_are_those_of_the_formulas(samples_of: SamplesOf, dtype: type, nodes: int, offset: float) -> None:
    rng = np.random.default_rng(0)
    y = np.minimum(rng.geometric(0.3, 400) - 1, 5)
    x = (rng.normal(size=(400, nodes)) + rng.normal(size=(6, nodes))[y] + offset).astype(dtype)
    numbers = found(samples_of(x, y, 6, batch=33))
    for name, expected in by_the_formulas(x.astype(np.float64), y).items():
        np.testing.assert_allclose(numbers[name], expected, rtol=1e-8)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_classes_on_the_corners_of_a_simplex_have_collapsed(samples_of: SamplesOf, classes: int) -> None:
    y = np.repeat(np.arange(classes), np.arange(1, classes + 1) * 3)  # of different sizes
    numbers = found(samples_of(simplex(classes, 12)[y], y, classes))
    assert numbers["nc4"] == 1
    assert max(numbers["nc1"], numbers["nc2_norms"], numbers["nc2_cosines"]) < 1e-12


def test_noise_around_a_simplex_has_a_known_nc1(samples_of: SamplesOf) -> None:
    # Σ_W = σ²I, and Σ_B has C − 1 eigenvalues 7²/C: so NC1 is σ² (C − 1) / 49, beside which that of the means is small.
    classes, each, sigma = 5, 4000, 0.5
    y = np.repeat(np.arange(classes), each)
    x = simplex(classes, 12)[y] + np.random.default_rng(0).normal(size=(len(y), 12)) * sigma
    expected = sigma**2 * (classes - 1) / 49
    # A mean of 4n squares of normal deviates, each of relative deviation √2.
    np.testing.assert_allclose(found(samples_of(x, y, classes))["nc1"], expected, rtol=5 * np.sqrt(2 / (4 * len(y))))


def test_means_on_orthogonal_axes_are_not_yet_a_simplex_around_0_but_around_their_centre(samples_of: SamplesOf) -> None:
    y = np.arange(40) % 4
    stretched = np.eye(4) * [1, 1, 1, 3]
    assert found(samples_of(np.eye(4)[y], y, 4))["nc2_cosines"] < 1e-12
    apart = stretched - stretched.mean(0)
    norms = np.linalg.norm(apart, axis=1)
    np.testing.assert_allclose(found(samples_of(stretched[y], y, 4))["nc2_norms"], norms.std() / norms.mean())


def test_each_class_weighs_the_same(samples_of: SamplesOf) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = rng.normal(size=(120, 5)) + 3 * rng.normal(size=(3, 5))[y]
    more = np.concatenate([np.arange(120), *[np.flatnonzero(y == 1)] * 4])
    once, often = found(samples_of(x, y, 3)), found(samples_of(x[more], y[more], 3))
    for name in ("nc1", "nc2_norms", "nc2_cosines"):
        np.testing.assert_allclose(often[name], once[name], rtol=1e-9)


def test_a_class_without_samples_and_the_order_of_classes_change_nothing(samples_of: SamplesOf) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 200)
    x = rng.normal(size=(200, 6)) + rng.normal(size=(4, 6))[y]
    once, gaps = found(samples_of(x, y, 4)), found(samples_of(x, np.array([5, 0, 7, 2])[y], 9))
    np.testing.assert_allclose(list(gaps.values()), list(once.values()), rtol=1e-9)


def test_equal_means_are_as_far_from_collapse_as_can_be(samples_of: SamplesOf) -> None:
    y = np.repeat([0, 1, 2], 2)
    x = np.array([[1.0, 0], [-1, 0], [2, 2], [-2, -2], [0, 3], [0, -3]])
    numbers = found(samples_of(x, y, 3))
    assert numbers["nc1"] == np.inf
    assert np.isnan([numbers["nc2_norms"], numbers["nc2_cosines"]]).all()
    assert numbers["nc4"] == 1 / 3  # all means are equally near, so that the first counts


def test_means_that_are_equal_but_for_rounding_are_equal(samples_of: SamplesOf) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 6)) + 3
    x = np.concatenate([rng.permutation(rows) for _ in range(3)])
    means = x.reshape(3, 50, 6).mean(1)
    assert (means != means[0]).any(), "the order of summation changed nothing"
    numbers = found(samples_of(x, np.repeat([0, 1, 2], 50), 3))
    assert numbers["nc1"] == np.inf
    assert np.isnan([numbers["nc2_norms"], numbers["nc2_cosines"]]).all()
    assert numbers["nc4"] == 1 / 3


@pytest.mark.parametrize("scale", [1, 0.1, 1e-9, 1e9])
def test_a_mean_on_the_centre_has_no_direction(samples_of: SamplesOf, scale: float) -> None:
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    direction = np.array([1, 2, -1, 0.5]) @ turned
    means = scale * (np.outer([0, 1, -1], direction) + np.array([0.3, 0.1, 0.7, 0]) @ turned)
    numbers = found(samples_of(means[np.arange(30) % 3], np.arange(30) % 3, 3))
    assert np.isnan(numbers["nc2_cosines"])
    np.testing.assert_allclose(numbers["nc2_norms"], np.std([0, 1, 1]) / np.mean([0, 1, 1]), rtol=1e-9)


@pytest.mark.parametrize("scale", [1, 0.1, 3e-7, 7e5])
def test_samples_between_two_means_count_for_the_first_whatever_rounding_does(
    samples_of: SamplesOf, scale: float
) -> None:
    # The means are mirror images, so that samples on the mirror are as near to either.
    on_mirror = np.array([[n, 0, n * n % 7] for n in range(-9, 10)]) / 3
    behind = np.array([[1, -2, 0], [0, -1, 3], [5, -4, 1]]) / 3
    rows, others = np.concatenate([on_mirror, behind]), np.tile(on_mirror.mean(0), (len(on_mirror), 1))
    x = np.concatenate([rows, others, behind * [1, -1, 1]])
    y = np.repeat([0, 1], len(rows))
    expected = (len(rows) + len(behind)) / len(x)
    for seed in range(4):
        turned = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
        assert found(samples_of(x @ turned * scale, y, 2))["nc4"] == expected
        assert found(samples_of((x @ turned + 5) * scale, y, 2))["nc4"] == expected


def test_one_sample_a_class_has_no_spread(samples_of: SamplesOf) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4))
    numbers = found(samples_of(x, np.arange(3), 3))
    assert numbers["nc1"] == 0
    assert numbers["nc4"] == 1
    np.testing.assert_allclose(numbers["nc2_norms"], by_the_norms(x), rtol=1e-9)


def by_the_norms(means: np.ndarray) -> float:
    norms = np.linalg.norm(means - means.mean(0), axis=1)
    return float(norms.std() / norms.mean())


@pytest.mark.parametrize("value", [0.1, np.inf, -np.inf, 1e200])
def test_constant_and_infinite_values_are_nan(samples_of: SamplesOf, value: float) -> None:
    y = np.arange(40) % 4
    x = np.random.default_rng(0).normal(size=(40, 3))
    if value == 0.1:
        x[:] = value
    x[13, 1] = value
    assert np.isnan(list(found(samples_of(x, y, 5)).values())).all()


@pytest.mark.parametrize("rows", [0, 1, 30])
def test_with_fewer_than_two_classes_all_are_nan(samples_of: SamplesOf, rows: int) -> None:
    x = np.random.default_rng(0).normal(size=(rows, 3))
    assert np.isnan(list(found(samples_of(x, np.ones(rows), 3)).values())).all()


def test_rounding_of_a_site_of_low_rank_is_no_direction(samples_of: SamplesOf) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(600) % 6
    narrow = (rng.normal(size=(600, 3)) + rng.normal(size=(6, 3))[y]).astype(np.float32)
    wide = narrow @ np.linalg.qr(rng.normal(size=(24, 3)))[0].T.astype(np.float32)  # the same, turned
    expected = found(samples_of(narrow, y, 6))
    for name, value in found(samples_of(wide, y, 6)).items():
        assert value == pytest.approx(expected[name], rel=1e-5)
