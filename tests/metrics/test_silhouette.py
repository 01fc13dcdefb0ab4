"""Silhouettes, against scikit-learn's and the formula."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_samples, silhouette_score

from probekit.errors import PluginError
from probekit.metrics import Samples, Silhouette
from probekit.metrics._kernels.row_sampling import draws

SamplesOf = Callable[..., Samples]


def found(metric: Silhouette, samples: Samples) -> tuple[np.ndarray, float, int]:
    """The silhouettes of the classes, of the site, and the number of samples."""
    variables = metric.compute_samples(samples)
    assert {name: dims for name, (dims, _) in variables.items()} == {
        "silhouette": ("label",),
        "silhouette_site": (),
        "silhouette_crossfit": (),
        "silhouette_size": (),
    }
    return variables["silhouette"][1], float(variables["silhouette_site"][1]), int(variables["silhouette_size"][1])


def by_the_formula(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rousseeuw's s(i), sample by sample."""
    distances, each = cdist(x, x), np.zeros(len(x))
    for i, code in enumerate(y):
        own = np.flatnonzero((y == code) & (np.arange(len(x)) != i))
        if len(own):
            a = distances[i, own].mean()
            b = min(distances[i, y == other].mean() for other in np.unique(y) if other != code)
            each[i] = (b - a) / max(a, b)
    return each


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0, 1e4])
def test_all_samples_have_rousseeuws_silhouette(samples_of: SamplesOf, dtype: type, offset: float) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 150)
    x = (np.round(rng.normal(size=(150, 5)) + y[:, None], 1) + offset).astype(dtype)
    of_class, of_site, size = found(Silhouette(), samples_of(x, y, 4, batch=40))
    each = by_the_formula(x.astype(np.float64), y)
    np.testing.assert_allclose(of_class, [each[y == code].mean() for code in range(4)], rtol=1e-7)
    np.testing.assert_allclose(of_site, each.mean(), rtol=1e-7)
    assert size == 150


def test_of_more_samples_a_few_are_compared_with_all(samples_of: SamplesOf) -> None:
    rng = np.random.default_rng(0)
    y = np.minimum(rng.geometric(0.5, 1000) - 1, 3)
    x = rng.normal(size=(1000, 4)) + y[:, None]
    each = silhouette_samples(x, y)
    of_class, of_site, size = found(Silhouette(200, seed=5), samples_of(x, y, 4))
    assert size == 200
    # As many of each class as it has a share, those with the least draws.
    drawn = draws(np.arange(1000), 5)
    for code in range(4):
        rows = np.flatnonzero(y == code)
        taken = rows[np.argsort(drawn[rows])]
        numbers = [round(len(rows) / 5) + more for more in (-1, 0, 1, 2)]
        means = [each[taken[:number]].mean() for number in numbers]
        assert np.isclose(of_class[code], means, rtol=1e-9).any()
    np.testing.assert_allclose(of_site, np.average(of_class, weights=np.bincount(y)), rtol=1e-12)
    again = found(Silhouette(200, seed=5), samples_of(x, y, 4, batch=1000))
    np.testing.assert_allclose(again[0], of_class, rtol=1e-12)
    assert found(Silhouette(200, seed=6), samples_of(x, y, 4))[1] != of_site
    assert abs(of_site - silhouette_score(x, y)) < 0.03
    assert abs(found(Silhouette(200, references=500), samples_of(x, y, 4))[1] - silhouette_score(x, y)) < 0.05


def test_many_small_classes_have_the_silhouette_of_all_samples(samples_of: SamplesOf) -> None:
    rng, y = np.random.default_rng(0), np.arange(4000) % 400
    x = (rng.normal(size=(4000, 8)) + 2 * rng.normal(size=(400, 8))[y]).astype(np.float32)
    of_class, of_site, _ = found(Silhouette(size=800), samples_of(x, y, 400))
    assert not np.isnan(of_class).any()
    np.testing.assert_allclose(of_site, silhouette_score(x, y), atol=0.02)


def test_noise_is_between_classes_by_crossfitting_only(samples_of: SamplesOf) -> None:
    rng, y = np.random.default_rng(0), np.repeat(np.arange(20), 10)
    runs = [Silhouette().compute_samples(samples_of(rng.normal(size=(200, 30)), y, 20)) for _ in range(5)]
    of_site, crossed = (
        np.array([float(run[f"silhouette_{name}"][1]) for run in runs]) for name in ("site", "crossfit")
    )
    assert of_site.max() < -0.03
    assert abs(crossed.mean()) < 2 * crossed.std(ddof=1) < 0.02
    apart = rng.normal(size=(200, 30)) + 5 * rng.normal(size=(20, 30))[y]
    run = Silhouette().compute_samples(samples_of(apart, y, 20))
    np.testing.assert_allclose(run["silhouette_crossfit"][1], run["silhouette_site"][1], atol=0.01)


def test_the_two_halves_are_crossed(samples_of: SamplesOf) -> None:
    rng, y = np.random.default_rng(0), np.repeat(np.arange(3), 8)
    x = np.round(rng.normal(size=(24, 3)), 2)
    place = np.arange(24) % 8 % 2
    distances, each = cdist(x, x), []
    for i in range(24):
        a = distances[i, y == y[i]].sum() / 7
        means = [[distances[i, (y == c) & (place == half)].mean() for c in range(3)] for half in (0, 1)]
        others = [c for c in range(3) if c != y[i]]
        b = [means[1 - half][min(others, key=lambda c: means[half][c])] for half in (0, 1)]
        each.append(np.mean([(b_half - a) / max(a, b_half) for b_half in b]))
    crossed = Silhouette().compute_samples(samples_of(x, y, 3))["silhouette_crossfit"][1]
    np.testing.assert_allclose(crossed, np.mean(each), rtol=1e-9)


def test_rows_of_a_sample_are_not_compared(samples_of: SamplesOf) -> None:
    rng, rows = np.random.default_rng(0), np.repeat(np.arange(60), 4)
    y, x = np.arange(60) % 3, rng.normal(size=(60, 20))
    once, often = (
        found(Silhouette(), samples_of(x, y, 3)),
        found(Silhouette(), samples_of(x[rows], y[rows], 3, units=rows)),
    )
    np.testing.assert_allclose(often[1], once[1], atol=1e-9)
    assert found(Silhouette(), samples_of(x[rows], y[rows], 3))[1] > once[1] + 0.03


def test_classes_far_apart_near_1_and_swapped_ones_negative(samples_of: SamplesOf) -> None:
    y = np.repeat([0, 1], 50)
    x = np.random.default_rng(0).normal(size=(100, 3)) * 1e-3 + y[:, None]
    assert found(Silhouette(), samples_of(x, y, 2))[1] > 0.99
    swapped = y.copy()
    swapped[:5] = 1
    of_class, of_site, _ = found(Silhouette(), samples_of(x, swapped, 2))
    assert of_class[0] > 0.9
    np.testing.assert_allclose(of_site, silhouette_score(x, swapped), rtol=1e-9)
    np.testing.assert_allclose(of_class[1], by_the_formula(x, swapped)[swapped == 1].mean(), rtol=1e-6)


def test_a_class_without_samples_is_nan_and_one_of_one_sample_0(samples_of: SamplesOf) -> None:
    y = np.array([0, 0, 0, 2, 4, 4])
    x = np.array([[0.0], [0.1], [0.2], [9], [5], [5.1]])
    of_class, of_site, _ = found(Silhouette(), samples_of(x, y, 6))
    np.testing.assert_array_equal(np.isnan(of_class), [False, True, False, True, False, True])
    assert of_class[2] == 0
    np.testing.assert_allclose(of_site, by_the_formula(x, y).mean(), rtol=1e-9)


def test_constant_nodes_are_between_all_classes(samples_of: SamplesOf) -> None:
    of_class, of_site, _ = found(Silhouette(), samples_of(np.full((20, 3), 0.1), np.arange(20) % 2, 2))
    np.testing.assert_array_equal(of_class, 0)
    assert of_site == 0


@pytest.mark.parametrize(
    ("rows", "codes"), [(0, 1), (1, 1), (30, 1), (5, 5)], ids=["none", "one", "one class", "all alone"]
)
def test_with_nothing_to_compare_they_are_nan(samples_of: SamplesOf, rows: int, codes: int) -> None:
    x = np.random.default_rng(0).normal(size=(rows, 3))
    of_class, of_site, size = found(Silhouette(), samples_of(x, np.arange(rows) % codes, 5))
    assert np.isnan([*of_class, of_site]).all()
    assert size == rows


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_value_leaves_none(samples_of: SamplesOf, value: float) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    x[3, 1] = value
    of_class, of_site, _ = found(Silhouette(), samples_of(x, np.arange(40) % 2, 2))
    assert np.isnan([*of_class, of_site]).all()


def test_one_sample_is_too_few() -> None:
    with pytest.raises(PluginError, match=r"Silhouette\(size=1\): size must be a whole number of at least 2"):
        Silhouette(1)
