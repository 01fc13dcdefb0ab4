"""Neural collapse, against the formulas written out and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch

from probekit.errors import PluginError
from probekit.metrics import NeuralCollapse, Samples

SamplesOf = Callable[..., Samples]


def found(samples: Samples, **parameters: object) -> dict[str, float]:
    variables = NeuralCollapse(**parameters).compute_samples(samples)
    assert all(dims == () and array.shape == () and array.dtype == np.float64 for dims, array in variables.values())
    return {name.removeprefix("neural_collapse_"): float(array) for name, (_, array) in variables.items()}


def products_without_noise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The products of the class means less their mean; of a mean with itself by pairs of different samples."""
    classes = np.unique(y)
    x = x - x.mean(0)
    sums, counts = np.array([x[y == c].sum(0) for c in classes]), np.bincount(y)[classes]
    products = sums @ sums.T / counts / counts[:, None]
    squares = np.array([np.square(x[y == c]).sum() for c in classes])
    np.fill_diagonal(products, (np.square(sums).sum(1) - squares) / (counts * (counts - 1)))
    centring = np.eye(len(classes)) - 1 / len(classes)
    return centring @ products @ centring


def by_the_formulas(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    classes = np.unique(y)
    means = np.array([x[y == c].mean(0) for c in classes])
    apart = means - means.mean(0)
    within = np.mean([np.cov(x[y == c].T) for c in classes], axis=0)
    between = apart.T @ apart / len(classes)
    products = products_without_noise(x, y)
    reliability = np.trace(products) / np.trace(apart @ apart.T)
    norms = np.sqrt(np.diag(products))
    cosines = [products[a, b] / norms[a] / norms[b] for a, b in combinations(range(len(classes)), 2)]
    directions = np.trace(within @ np.linalg.pinv(between, rcond=1e-10, hermitian=True))
    return {
        "nc1": directions / len(classes) / reliability,
        "nc2_norms": norms.std() / norms.mean(),
        "nc2_cosines": np.mean(np.abs(np.array(cosines) + 1 / (len(classes) - 1))),
        "reliability": reliability,
    }


def simplex(classes: int, nodes: int) -> np.ndarray:
    """The corners of a simplex around a centre that isn't 0, turned into more dimensions."""
    corners = np.eye(classes) - 1 / classes
    return corners @ np.linalg.qr(np.random.default_rng(0).normal(size=(nodes, nodes)))[0][:classes] * 7 + 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("nodes", [3, 30])
@pytest.mark.parametrize("offset", [0, 100])
def test_they_are_those_of_the_formulas(
    samples_of: SamplesOf, nearest_mean_share: Callable[..., float], dtype: type, nodes: int, offset: float
) -> None:
    rng = np.random.default_rng(0)
    y = np.minimum(rng.geometric(0.3, 400) - 1, 5)
    x = (rng.normal(size=(400, nodes)) + rng.normal(size=(6, nodes))[y] + offset).astype(dtype)
    numbers = found(samples_of(x, y, 6, batch=33))
    expected = by_the_formulas(x.astype(np.float64), y) | {"nc4": nearest_mean_share(x, y)}
    assert numbers.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(numbers[name], value, rtol=1e-7)


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
    # One class has nine times as many samples, which tell no more of its mean, since their spread is three times.
    rng, centres = np.random.default_rng(0), 3 * np.random.default_rng(1).normal(size=(3, 5))
    x = centres[np.repeat(np.arange(3), [2000, 18_000, 2000])]
    wide = np.concatenate([np.ones(2000), np.full(18_000, 3), np.ones(2000)])[:, None]
    numbers = found(samples_of(x + rng.normal(size=x.shape) * wide, np.repeat(np.arange(3), [2000, 18_000, 2000]), 3))
    apart = centres - centres.mean(0)
    inverse = np.linalg.pinv(apart.T @ apart / 3, rcond=1e-10, hermitian=True)
    np.testing.assert_allclose(numbers["nc1"], (1 + 9 + 1) / 3 * np.trace(inverse) / 3, rtol=0.05)


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
    # Without the sample its own mean is at −x, at 4 x² − 12 for the few samples; the others are at x² − 6.
    assert numbers["nc4"] == 1 / 3  # where x² is 1, and not where it is 8 or 9
    assert numbers["reliability"] == 0


def test_means_that_are_equal_but_for_rounding_are_equal(samples_of: SamplesOf) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 6)) + 3
    x = np.concatenate([rng.permutation(rows) for _ in range(3)])
    means = x.reshape(3, 50, 6).mean(1)
    assert (means != means[0]).any(), "the order of summation changed nothing"
    numbers = found(samples_of(x, np.repeat([0, 1, 2], 50), 3))
    assert numbers["nc1"] == np.inf
    assert np.isnan([numbers["nc2_norms"], numbers["nc2_cosines"]]).all()


@pytest.mark.parametrize("scale", [1, 0.1, 1e-9, 1e9])
def test_a_mean_on_the_centre_has_no_direction(samples_of: SamplesOf, scale: float) -> None:
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    direction = np.array([1, 2, -1, 0.5]) @ turned
    means = scale * (np.outer([0, 1, -1], direction) + np.array([0.3, 0.1, 0.7, 0]) @ turned)
    numbers = found(samples_of(means[np.arange(30) % 3], np.arange(30) % 3, 3))
    assert np.isnan(numbers["nc2_cosines"])
    np.testing.assert_allclose(numbers["nc2_norms"], np.std([0, 1, 1]) / np.mean([0, 1, 1]), rtol=1e-7)


@pytest.mark.parametrize("scale", [1, 0.1, 3e-7, 7e5])
def test_samples_between_two_means_count_for_both_whatever_rounding_does(samples_of: SamplesOf, scale: float) -> None:
    # Classes 0 and 1 are mirror images; rows of class 2 on the mirror are as near to either, and far from their own.
    image = np.array([[1, -2, 0], [0, -1, 3], [5, -4, 1], [2, -3, 0]]) / 3
    far = np.array([[n, 0, (-1) ** n * 40] for n in range(6)])
    x, y = np.concatenate([image, image * [1, -1, 1], far]), np.repeat([0, 1, 2], [4, 4, 6])
    expected = found(samples_of(x, y, 3))["nc4"]
    for seed in range(3):
        turned = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
        assert found(samples_of(x @ turned * scale, y, 3))["nc4"] == expected
        assert found(samples_of((x @ turned + 5) * scale, y, 3))["nc4"] == expected


def test_one_sample_a_class_tells_nothing(samples_of: SamplesOf) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4))
    assert np.isnan([*found(samples_of(x, np.arange(3), 3)).values()]).all()


@pytest.mark.parametrize("nodes", [50, 500])
def test_noise_does_not_look_collapsed(samples_of: SamplesOf, nodes: int) -> None:
    rng, y = np.random.default_rng(0), np.repeat(np.arange(10), 10)
    numbers = [found(samples_of(rng.normal(size=(100, nodes)), y, 10)) for _ in range(5)]
    each = {name: np.array([number[name] for number in numbers]) for name in numbers[0]}
    assert np.isnan([each["nc2_norms"], each["nc2_cosines"]]).all()
    assert each["nc1"].min() > 10 * 9 * 10 / nodes  # ten times what the plug-in form comes to
    for name, truth in {"reliability": 0, "nc4": 0.1}.items():
        assert abs(each[name].mean() - truth) < 2 * each[name].std(ddof=1)


def test_few_samples_of_a_simplex_have_its_numbers(samples_of: SamplesOf) -> None:
    # 40 nodes of deviation 2 around corners at distance 7 √(4 / 5): NC1 is 2² (C − 1) / 49; the plug-in form halves it.
    rng, y = np.random.default_rng(0), np.repeat(np.arange(5), 6)
    corners = simplex(5, 40)
    numbers = [found(samples_of(corners[y] + 2 * rng.normal(size=(30, 40)), y, 5)) for _ in range(30)]
    nc1 = np.array([number["nc1"] for number in numbers])
    assert abs(1 / np.mean(1 / nc1) - 16 / 49) < 2 * nc1.std(ddof=1) / np.sqrt(30) + 0.02
    assert np.median([number["nc2_norms"] for number in numbers]) < 0.25


def test_rows_of_a_sample_are_one_draw(samples_of: SamplesOf) -> None:
    rng, rows = np.random.default_rng(0), np.repeat(np.arange(60), 5)
    x, y = rng.normal(size=(60, 80)), np.arange(60) % 6
    once, often = found(samples_of(x, y, 6)), found(samples_of(x[rows], y[rows], 6, units=rows, batch=7))
    np.testing.assert_allclose(often["reliability"], once["reliability"], atol=1e-9)
    assert found(samples_of(x[rows], y[rows], 6))["reliability"] > 0.7


def test_nc3_is_the_distance_of_the_means_from_the_weights(samples_of: SamplesOf) -> None:
    rng, y = np.random.default_rng(0), np.repeat(np.arange(4), 300)
    corners = simplex(4, 9)
    x = corners[y] + rng.normal(size=(1200, 9))
    apart = corners - corners.mean(0)
    turned = rng.normal(size=(4, 9))
    for head in (5 * apart, turned, -apart, apart + 3 * turned):
        expected = np.linalg.norm(head / np.linalg.norm(head) - apart / np.linalg.norm(apart))
        np.testing.assert_allclose(found(samples_of(x, y, 4), head=head)["nc3"], expected, atol=0.05)
    weights = torch.nn.Linear(9, 4).weight  # takes no part in a gradient
    assert 1 < found(samples_of(x, y, 4), head=weights)["nc3"] < 2
    assert np.isnan(found(samples_of(x, y, 4), head=turned[:, :8])["nc3"])
    assert np.isnan(found(samples_of(x, y, 4), head=turned[:3])["nc3"])
    assert np.isnan(found(samples_of(rng.normal(size=(1200, 9)), y, 4), head=turned)["nc3"])


def test_a_head_is_recorded_by_its_digest() -> None:
    one, same, other = (NeuralCollapse(head=np.eye(3) * scale) for scale in (1, 1, 2))
    assert one == same != other
    assert one.parameters == same.parameters != other.parameters
    assert one.parameters["head"].startswith("3 × 3, sha256 ")
    assert NeuralCollapse().parameters == {"head": None}
    for wrong in (np.ones(3), np.zeros((2, 2)), np.full((2, 2), np.nan)):
        with pytest.raises(PluginError, match=r"NeuralCollapse\(head=…\) of shape"):
            NeuralCollapse(head=wrong)


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
