"""Distances of class means, against scikit-learn and the formulas."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import xarray as xr
from sklearn.feature_selection import f_classif
from sklearn.metrics import calinski_harabasz_score

import probekit as pk
from probekit.metrics import DPrime, Fisher, Samples, Separability, State, StreamingMetric

Stream = Callable[..., State]
SamplesOf = Callable[..., Samples]
CUTS = (100, 101, 350)


@pytest.fixture(params=["normal", "tied"])
def samples(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 500)
    x = rng.normal(size=(500, 6)) * [1, 1, 1e-2, 10, 3, 1] + y[:, None] * [0, 1, 1e-2, 1, -3, 0.1] + [0, 50, 9, 0, 0, 0]
    return (np.round(x) if request.param == "tied" else x).astype(np.float32), y


def variables(metric: StreamingMetric, state: State) -> dict[str, np.ndarray]:
    return {name: array for name, (_, array) in metric.finalize(state).items()}


def test_fisher_is_the_f_of_an_analysis_of_variance(samples: tuple[np.ndarray, np.ndarray], stream: Stream) -> None:
    x, y = samples
    x = x[:, [0, 1, 3, 4, 5]]  # node 2 is constant where it is rounded, which scikit-learn has no number for
    dims, found = Fisher(corrected=False).finalize(stream(Fisher(), x, y, 4, CUTS))["fisher"]
    assert dims == ("node",)
    np.testing.assert_allclose(found * (500 - 4) / (4 - 1), f_classif(x.astype(np.float64), y)[0], rtol=1e-9)


def test_separability_is_calinskis_score_and_the_ratio_of_traces(
    samples: tuple[np.ndarray, np.ndarray], stream: Stream
) -> None:
    x, y = samples
    found = variables(Separability(), stream(Separability(), x, y, 4, CUTS))
    x = x.astype(np.float64)
    expected = calinski_harabasz_score(x, y)
    np.testing.assert_allclose(found["separability_calinski_harabasz"], expected, rtol=1e-10)
    within = sum(np.trace(np.cov(x[y == c].T, ddof=0)) * (y == c).sum() for c in range(4))
    total = np.trace(np.cov(x.T, ddof=0)) * len(x)
    np.testing.assert_allclose(found["separability"], (total - within) / within - 3 / 496, rtol=1e-10)
    assert all(array.shape == () for array in found.values())


def test_separability_of_a_store_has_the_accuracy_of_nearest_means(
    samples: tuple[np.ndarray, np.ndarray],
    stream: Stream,
    samples_of: SamplesOf,
    nearest_mean_share: Callable[..., float],
) -> None:
    x, y = samples
    found = Separability().compute_samples(samples_of(x, np.array([0, 2, 3, 5])[y], 7))
    assert {name: dims for name, (dims, _) in found.items()} == {
        "separability": (),
        "separability_calinski_harabasz": (),
        "separability_nearest_mean": (),
    }
    x = x.astype(np.float64)
    np.testing.assert_allclose(found["separability_nearest_mean"][1], nearest_mean_share(x, y))
    for name, array in variables(Separability(), stream(Separability(), x, y, 4)).items():
        np.testing.assert_allclose(found[name][1], array, rtol=1e-12)


def test_of_a_store_separability_has_all_three_beside_metrics_of_the_same_state(
    samples: tuple[np.ndarray, np.ndarray], samples_of: SamplesOf, tree_of: Callable[..., xr.DataTree]
) -> None:
    x, y = samples
    m = pk.measure(tree_of({"relu": x}, y), [Separability(), Fisher(), "std"])["relu"]
    for name, (_, array) in Separability().compute_samples(samples_of(x, y, 4)).items():
        np.testing.assert_allclose(m[name], array, rtol=1e-12)
    assert {"fisher", "std"} <= set(m.data_vars)


@pytest.mark.parametrize(("value", "expected"), [(np.inf, np.nan), (-np.inf, np.nan), (0.1, 0.5)])
def test_nearest_means_of_infinite_and_of_constant_nodes(samples_of: SamplesOf, value: float, expected: float) -> None:
    x, y = np.full((40, 2), 0.1), np.arange(40) % 2  # equally near means count in equal parts
    x[7, 1] = value
    found = Separability().compute_samples(samples_of(x, y, 3))
    np.testing.assert_array_equal(found["separability_nearest_mean"][1], expected)


@pytest.mark.parametrize("each", [1, 3])
def test_rows_of_a_unit_are_left_out_of_their_mean_together(samples_of: SamplesOf, each: int) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 6)
    x = np.round(rng.normal(size=(24, 40)) + 0.4 * rng.normal(size=(4, 40))[y], 3)
    once = Separability().compute_samples(samples_of(x, y, 4))["separability_nearest_mean"][1]
    rows = np.repeat(rng.permutation(24), each)
    # Of a row that stands there thrice only the rows of other samples count; batches cut it.
    found = Separability().compute_samples(samples_of(x[rows], y[rows], 4, units=rows, batch=7))
    assert abs(found["separability_nearest_mean"][1] - once) <= (each > 1) / 24
    alone = Separability().compute_samples(samples_of(x[rows], y[rows], 4, batch=7))
    assert alone["separability_nearest_mean"][1] == once if each == 1 else alone["separability_nearest_mean"][1] > 0.9


def test_nothing_tells_classes_of_noise(samples_of: SamplesOf) -> None:
    rng, y = np.random.default_rng(0), np.repeat(np.arange(10), 20)
    found = [Separability().compute_samples(samples_of(rng.normal(size=(200, 300)), y, 10)) for _ in range(4)]
    near = np.array([each["separability_nearest_mean"][1] for each in found])
    assert abs(near.mean() - 0.1) < 2 * near.std(ddof=1) / 2 + 0.01
    ratio = np.array([each["separability"][1] for each in found])  # uncorrected, 0.047 ± 0.001
    assert abs(ratio).max() < 0.005


def test_chunks_of_which_no_sample_is_chosen_change_nothing(tree_of: Callable[..., xr.DataTree]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9000, 3)) + np.arange(9000)[:, None] % 3, np.arange(9000) % 3
    chosen = np.arange(9000) >= 8500  # beyond the rows that are read first
    for metric in ("separability", "neural_collapse"):
        found = pk.measure(tree_of({"a": x}, y), metric, where=chosen)["a"]
        xr.testing.assert_allclose(found, pk.measure(tree_of({"a": x[chosen]}, y[chosen]), metric)["a"])


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_one_class_is_nearest_to_nothing_else(samples_of: SamplesOf, rows: int) -> None:
    found = Separability().compute_samples(samples_of(np.arange(2.0 * rows).reshape(rows, 2), np.ones(rows), 3))
    assert np.isnan([array for _, array in found.values()]).all()


def cohens_d(a: np.ndarray, b: np.ndarray) -> float:
    """Cohen (1988), with the pooled standard deviation of samples."""
    pooled = ((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2)
    return float(abs(a.mean() - b.mean()) / np.sqrt(pooled))


def test_dprime_is_cohens_d_for_classes_of_one_size(stream: Stream) -> None:
    rng, n = np.random.default_rng(0), 40
    y = np.repeat([0, 1, 2], n)
    x = np.round(rng.normal(size=(3 * n, 5)) * 3 + y[:, None])
    metric = DPrime(corrected=False)
    found = metric.finalize(stream(metric, x, y, 3, (17, 60)))
    assert {name: dims for name, (dims, _) in found.items()} == {
        "dprime": ("label", "label_b", "node"),
        "dprime_mean": ("node",),
        "dprime_max": ("node",),
        "dprime_constant": ("node",),
    }
    every = found["dprime"][1]
    expected = {
        (a, b): [cohens_d(x[y == a, node], x[y == b, node]) * np.sqrt(n / (n - 1)) for node in range(5)]
        for a, b in combinations(range(3), 2)
    }
    for (a, b), values in expected.items():
        np.testing.assert_allclose(every[a, b], values, rtol=1e-12)
        np.testing.assert_array_equal(every[a, b], every[b, a])
    np.testing.assert_array_equal(every[range(3), range(3)], 0)
    np.testing.assert_allclose(found["dprime_mean"][1], np.mean(list(expected.values()), axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["dprime_max"][1], np.max(list(expected.values()), axis=0), rtol=1e-12)


def test_dprime_of_two_normal_classes_is_the_distance_of_their_means(stream: Stream) -> None:
    rng, n = np.random.default_rng(0), 20_000
    y = np.repeat([0, 1], n)
    x = rng.normal(size=(2 * n, 1)) * np.where(y == 1, 2, 1)[:, None] + 3 * y[:, None]
    found = variables(DPrime(), stream(DPrime(), x, y, 2, (30_000,)))
    expected = 3 / np.sqrt((1 + 4) / 2)
    np.testing.assert_allclose(found["dprime"][0, 1], expected, atol=5 * np.sqrt((2 + expected**2 / 2) / n))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3])
def test_a_constant_node_has_no_distances(stream: Stream, value: float) -> None:
    x, y = np.full((90, 2), value), np.repeat([0, 1, 0, 2], [10, 31, 20, 29])
    x[:, 1] = np.arange(90)
    found = variables(DPrime(), stream(DPrime(), x, y, 4, (7, 50)))
    np.testing.assert_array_equal(found["dprime"][:3, :3, 0], 0)
    np.testing.assert_array_equal(found["dprime_constant"], [True, False])
    assert found["dprime_mean"][0] == 0 < found["dprime_mean"][1]
    fisher = variables(Fisher(), stream(Fisher(), x, y, 4, (7, 50)))["fisher"]
    assert fisher[0] == 0 < fisher[1]
    alone = variables(Separability(), stream(Separability(), x[:, :1], y, 4, (7, 50)))
    assert alone == {"separability": 0, "separability_calinski_harabasz": 0}


def test_classes_without_spread_are_infinitely_far_apart_or_alike(stream: Stream) -> None:
    y = np.repeat([0, 1, 2], 20)
    x = np.array([0.1, 0.7, 0.7])[y][:, None]
    found = variables(DPrime(), stream(DPrime(), x, y, 3, (5, 33)))
    np.testing.assert_array_equal(found["dprime"][..., 0], [[0, np.inf, np.inf], [np.inf, 0, 0], [np.inf, 0, 0]])
    assert not found["dprime_constant"][0]
    assert variables(Fisher(), stream(Fisher(), x, y, 3))["fisher"] == np.inf
    assert variables(Separability(), stream(Separability(), x, y, 3))["separability"] == np.inf
    each_alone = variables(Separability(), stream(Separability(), x[::20], y[::20], 3))
    assert np.isnan([*each_alone.values()]).all()


def test_a_class_without_samples_changes_no_other(samples: tuple[np.ndarray, np.ndarray], stream: Stream) -> None:
    x, y = samples
    gaps = np.array([0, 2, 3, 5])  # classes 1, 4 and 6 have no samples
    for metric in (DPrime(), Fisher(), Separability()):
        without, found = variables(metric, stream(metric, x, y, 4)), variables(metric, stream(metric, x, gaps[y], 7))
        if "dprime" in found:
            every = found["dprime"]
            assert np.isnan(every[[1, 4, 6]]).all()
            assert np.isnan(every[:, [1, 4, 6]]).all()
            found["dprime"] = every[np.ix_(gaps, gaps)]
        for name, array in without.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-12)


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_with_one_class_there_is_nothing_to_compare(stream: Stream, rows: int) -> None:
    x, y = np.arange(2.0 * rows).reshape(rows, 2), np.ones(rows)
    for metric, names in (
        (DPrime(), ("dprime_mean", "dprime_max")),
        (Fisher(), ("fisher",)),
        (Separability(), ("separability", "separability_calinski_harabasz")),
    ):
        found = variables(metric, stream(metric, x, y, 3))
        assert all(np.isnan(found[name]).all() for name in names)


def test_one_sample_of_each_class(stream: Stream) -> None:
    x, y = np.array([[1.0, 2.0], [4.0, 2.0]]), np.array([0, 1])
    dprime, fisher = DPrime(min_count=1, corrected=False), Fisher(corrected=False)
    np.testing.assert_array_equal(variables(dprime, stream(dprime, x, y, 2))["dprime"][0, 1], [np.inf, 0])
    np.testing.assert_array_equal(variables(fisher, stream(fisher, x, y, 2))["fisher"], [np.inf, 0])
    for metric in (DPrime(), DPrime(min_count=1), Fisher()):  # their spread isn't known
        found = variables(metric, stream(metric, x, y, 2))
        assert np.isnan(found["fisher"][0] if "fisher" in found else found["dprime"][0, 1]).all()


def test_an_infinite_value_is_nan_for_its_class_and_node(stream: Stream) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 2)), np.arange(60) % 3
    x[31, 0] = np.inf  # of class 1
    for cuts in ((), (31,), (20, 50)):
        every = variables(DPrime(), stream(DPrime(), x, y, 3, cuts))["dprime"]
        np.testing.assert_array_equal(np.isnan(every[..., 0]), [[False, True, False], [True] * 3, [False, True, False]])
        assert np.isfinite(every[..., 1]).all()
        np.testing.assert_array_equal(
            np.isnan(variables(Fisher(), stream(Fisher(), x, y, 3, cuts))["fisher"]), [True, False]
        )
        assert np.isnan(variables(Separability(), stream(Separability(), x, y, 3, cuts))["separability"])


@pytest.mark.parametrize(
    ("pairs", "classes", "kept"), [(None, 64, True), (None, 65, False), (True, 65, True), (False, 3, False)]
)
def test_pairs_are_kept_up_to_64_classes_or_as_asked(
    stream: Stream, pairs: bool | None, classes: int, kept: bool
) -> None:
    x, y = np.random.default_rng(0).normal(size=(10 * classes, 300)), np.arange(10 * classes) % classes
    found = variables(DPrime(pairs), stream(DPrime(pairs), x, y, classes))
    assert ("dprime" in found) == kept
    if kept:
        upper = found["dprime"][np.triu_indices(classes, 1)]
        np.testing.assert_allclose(found["dprime_mean"], upper.mean(0), rtol=1e-12)
    else:
        second = variables(DPrime(True), stream(DPrime(True), x[:, 1:], y, classes))["dprime"]
        largest = second[np.triu_indices(classes, 1)].max(0)
        np.testing.assert_allclose(found["dprime_max"][1:], largest, rtol=1e-12)
