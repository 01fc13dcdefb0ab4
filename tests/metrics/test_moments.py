"""Counts, means, variances and standard deviations are numpy's, however the samples are cut into batches."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

import probekit as pk
from probekit.metrics import Count, Mean, State, Std, Var

Stream = Callable[..., State]


@pytest.fixture
def samples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 500)
    # Far from 0 beside its spread: where sums of squares would cancel.
    return (rng.normal(size=(500, 4)) * [1, 1, 1e-3, 10] + [0, 1e4, 1e3, -5]).astype(np.float32), y


@pytest.mark.parametrize("ddof", [0, 1])
def test_std_is_numpys(samples: tuple[np.ndarray, np.ndarray], stream: Stream, ddof: int) -> None:
    x, y = samples
    found = Std(ddof).finalize(stream(Std(ddof), x, y, 3, (100, 101, 350)))["std"]
    expected = [np.std(x[y == c].astype(np.float64), axis=0, ddof=ddof) for c in range(3)]
    assert found[0] == ("label", "node")
    np.testing.assert_allclose(found[1], expected, rtol=1e-12)


def test_mean_is_numpys(samples: tuple[np.ndarray, np.ndarray], stream: Stream) -> None:
    x, y = samples
    found = Mean().finalize(stream(Mean(), x, y, 3, (7, 300)))["mean"][1]
    np.testing.assert_allclose(found, [x[y == c].astype(np.float64).mean(0) for c in range(3)], rtol=1e-12)


def test_merged_states_are_the_states_of_all_samples(samples: tuple[np.ndarray, np.ndarray], stream: Stream) -> None:
    x, y = samples
    parts = [stream(Std(), x[part], y[part], 3) for part in (slice(0, 13), slice(13, 400), slice(400, 500))]
    forwards = Std().merge(Std().merge(parts[0], parts[1]), parts[2])
    backwards = Std().merge(parts[2], Std().merge(parts[1], parts[0]))
    expected = [stats.tstd(x[y == c].astype(np.float64), ddof=0) for c in range(3)]
    for state in (forwards, backwards):
        np.testing.assert_allclose(Std().finalize(state)["std"][1], expected, rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -3e38])
def test_a_constant_node_has_no_deviation_at_all(value: float, stream: Stream) -> None:
    x, y = np.full((90, 1), value, np.float32), np.repeat([0, 1, 0], 30)
    assert (Std().finalize(stream(Std(), x, y, 2, (31, 60)))["std"][1] == 0).all()


def test_a_class_without_samples_is_nan_and_one_sample_deviates_by_nothing(stream: Stream) -> None:
    x, y = np.array([[2.0], [4.0], [7.0]]), np.array([0, 0, 2])
    np.testing.assert_array_equal(Mean().finalize(stream(Mean(), x, y, 3))["mean"][1], [[3], [np.nan], [7]])
    np.testing.assert_array_equal(Std().finalize(stream(Std(), x, y, 3))["std"][1], [[1], [np.nan], [0]])
    np.testing.assert_array_equal(
        Std(ddof=1).finalize(stream(Std(ddof=1), x, y, 3))["std"][1], [[np.sqrt(2)], [np.nan], [np.nan]]
    )


def test_infinities_are_numpys_and_stay_in_their_class(stream: Stream) -> None:
    x = np.array([[1.0, np.inf], [2.0, 1.0], [np.inf, -np.inf], [3.0, 5.0], [5.0, 6.0]])
    y = np.array([0, 0, 0, 1, 1])
    for cuts in ((), (1,), (1, 2, 3, 4)):
        np.testing.assert_array_equal(
            Mean().finalize(stream(Mean(), x, y, 2, cuts))["mean"][1], [[np.inf, np.nan], [4, 5.5]]
        )
        np.testing.assert_array_equal(
            Std().finalize(stream(Std(), x, y, 2, cuts))["std"][1], [[np.nan, np.nan], [1, 0.5]]
        )


@pytest.mark.parametrize("metric", [Std, Var])
def test_a_class_of_no_more_samples_than_ddof_is_nan(stream: Stream, metric: type) -> None:
    x, y = np.random.default_rng(0).normal(size=(10, 2)), np.repeat([0, 1, 2], [3, 2, 5])
    (found,) = metric(ddof=3).finalize(stream(metric(ddof=3), x, y, 3)).values()
    np.testing.assert_array_equal(np.isfinite(found[1]), [[False] * 2, [False] * 2, [True] * 2])


@pytest.mark.parametrize("ddof", [0, 1])
def test_var_is_numpys(samples: tuple[np.ndarray, np.ndarray], stream: Stream, ddof: int) -> None:
    x, y = samples
    dims, found = Var(ddof).finalize(stream(Var(ddof), x, y, 3, (100, 101, 350)))["var"]
    assert (dims, found.dtype) == (("label", "node"), np.float64)
    expected = [np.var(x[y == c].astype(np.float64), axis=0, ddof=ddof) for c in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_count_is_that_of_the_labels(samples: tuple[np.ndarray, np.ndarray], stream: Stream) -> None:
    x, y = samples
    dims, found = Count().finalize(stream(Count(), x, y, 4, (7, 300)))["count"]
    assert (dims, found.dtype) == (("label", "node"), np.int64)
    np.testing.assert_array_equal(found, np.repeat(np.bincount(y, minlength=4)[:, None], 4, axis=1))


def test_deviations_are_right_where_a_batch_begins_with_an_outlier_or_classes_are_far_apart(stream: Stream) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    x = rng.normal(size=(400, 2)) + np.column_stack([1e6 * y, np.zeros(400)])
    x[0, 1] = 1e7
    exact = [[_exact_variance(x[y == c, node]) for node in range(2)] for c in range(2)]
    for cuts in ((), (150, 151)):
        np.testing.assert_allclose(Var().finalize(stream(Var(), x, y, 2, cuts))["var"][1], exact, rtol=1e-9)


def _exact_variance(values: np.ndarray) -> float:
    exact = [Fraction(float(value)) for value in values]
    mean = sum(exact) / len(exact)
    return float(sum((value - mean) ** 2 for value in exact) / len(exact))


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e300, -7e-300])
def test_a_constant_node_of_doubles_has_no_deviation_either(value: float, stream: Stream) -> None:
    x, y = np.full((90, 1), value), np.repeat([0, 1, 0], 30)
    state = stream(Var(), x, y, 2, (7, 31, 60))
    np.testing.assert_array_equal(Var().finalize(state)["var"][1], [[0], [0]])


@pytest.mark.parametrize("metric", [Var, Std])
def test_a_negative_ddof_is_refused_by_both(metric: type) -> None:
    with pytest.raises(pk.errors.PluginError, match=rf"{metric.__name__}\(ddof=-2\)"):
        metric(ddof=-2)
