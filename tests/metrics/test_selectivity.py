"""Selectivity by its definition, and perplexity by scipy's entropy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

import probekit as pk
from probekit.metrics import Perplexity, Selectivity, State

Stream = Callable[..., State]


def selectivity(state: State, epsilon: float = 1e-6) -> tuple[np.ndarray, np.ndarray]:
    found = Selectivity(epsilon, corrected=False).finalize(state)
    assert {name: (dims, array.dtype) for name, (dims, array) in found.items()} == {
        "selectivity": (("node",), np.float64),
        "selectivity_preferred": (("label", "node"), np.bool_),
    }
    return found["selectivity"][1], found["selectivity_preferred"][1]


def test_by_hand(stream: Stream) -> None:
    # Class means: node 0: 4, 1, 3; node 1: 0, 0, 2; node 2: 5, 5, 2; node 3: dead; node 4: 1, 1, 1.
    x = np.array([[3, 0, 5, 0, 1], [5, 0, 5, 0, 1], [1, 0, 5, 0, 1], [6, 4, 0, 0, 2], [0, 0, 4, 0, 0]], np.float32)
    value, preferred = selectivity(stream(Selectivity(0.5), x, np.array([0, 0, 1, 2, 2]), 3, (1, 3)), 0.5)
    np.testing.assert_allclose(value, [(4 - 2) / (4 + 2 + 0.5), 2 / 2.5, 1.5 / (8.5 + 0.5), 0, 0], rtol=1e-15)
    np.testing.assert_array_equal(preferred, [[1, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0, 1, 0, 0, 0]])


@given(
    x=hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.integers(0, 5).map(float)),
    codes=st.lists(st.integers(0, 3), min_size=40, max_size=40),
    cut=st.integers(0, 40),
)
def test_it_is_the_definition(stream: Stream, x: np.ndarray, codes: list[int], cut: int) -> None:
    y = np.array(codes[: len(x)])
    value, preferred = selectivity(stream(Selectivity(), x, y, 5, (min(cut, len(x)),)))
    there = np.unique(y)
    means = np.array([x[y == c].astype(np.float64).mean(0) for c in there])
    if len(there) < 2:
        assert np.isnan(value).all()
        assert not preferred.any()
        return
    for node, mean in enumerate(means.T):
        *others, highest = np.sort(mean)
        expected = (highest - np.mean(others)) / (highest + np.mean(others) + 1e-6)
        assert value[node] == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert 0 <= value[node] <= 1
        largest = np.isclose(mean, highest, rtol=1e-14, atol=0)
        expected_classes = [] if largest.all() else list(there[largest])
        assert np.flatnonzero(preferred[:, node]).tolist() == expected_classes


def test_a_tie_stays_one_however_its_sums_are_rounded(stream: Stream) -> None:
    rng = np.random.default_rng(0)
    values = rng.random(501)
    x = np.concatenate([values, rng.permutation(values), values / 2])[:, None]
    assert np.cumsum(x[:501])[-1] != np.cumsum(x[501:1002])[-1]
    _, preferred = selectivity(stream(Selectivity(), x, np.repeat([0, 1, 2], 501), 3))
    np.testing.assert_array_equal(preferred[:, 0], [True, True, False])


def test_a_value_below_0_leaves_the_node_without_selectivity(stream: Stream) -> None:
    x = np.array([[1.0, 1.0, -0.0], [2.0, 2.0, 3.0], [-1e-30, 3.0, 1.0]])
    for cuts in ((), (1, 2)):
        value, preferred = selectivity(stream(Selectivity(), x, np.array([0, 0, 1]), 2, cuts))
        np.testing.assert_array_equal(np.isnan(value), [True, False, False])
        np.testing.assert_array_equal(preferred.sum(0), [0, 1, 1])


def test_an_infinite_mean_has_no_selectivity(stream: Stream) -> None:
    x = np.array([[np.inf, 1.0], [2.0, 2.0]])
    value, preferred = selectivity(stream(Selectivity(), x, np.array([0, 1]), 3))
    np.testing.assert_array_equal(np.isnan(value), [True, False])
    np.testing.assert_array_equal(preferred, [[False, False], [False, True], [False, False]])


def test_equal_means_have_none_though_their_sum_is_rounded(stream: Stream) -> None:
    value, preferred = selectivity(stream(Selectivity(), np.full((4, 1), 0.1), np.arange(4), 4))
    assert value == 0
    assert not preferred.any()


def test_it_has_no_number_without_samples(stream: Stream) -> None:
    value, preferred = selectivity(stream(Selectivity(), np.zeros((0, 2)), np.zeros(0), 3))
    assert np.isnan(value).all()
    assert not preferred.any()


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_an_epsilon_that_is_not_above_0_is_refused(epsilon: float) -> None:
    with pytest.raises(pk.errors.PluginError, match="epsilon="):
        Selectivity(epsilon)


@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_perplexity_is_that_of_the_classes_of_the_samples_that_are_on(stream: Stream, threshold: float) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-3, 4, (200, 5)) / 4).astype(np.float32), rng.integers(0, 3, 200)
    dims, found = Perplexity(threshold, corrected=False).finalize(stream(Perplexity(threshold), x, y, 4, (50, 51)))[
        "perplexity"
    ]
    on = [np.bincount(y[column > threshold], minlength=4) for column in x.T]
    assert dims == ("node",)
    np.testing.assert_allclose(found, [np.exp(stats.entropy(counts)) for counts in on], rtol=1e-13)


def test_perplexity_goes_from_one_class_to_all_and_has_no_number_for_a_dead_node(stream: Stream) -> None:
    y = np.arange(40) % 4
    x = np.column_stack([y == 2, np.ones(40), np.zeros(40), y < 2, np.where(y == 1, np.inf, -np.inf)]).astype(
        np.float64
    )
    found = Perplexity(corrected=False).finalize(stream(Perplexity(), x, y, 6))["perplexity"][1]
    np.testing.assert_allclose(found, [1, 4, np.nan, 2, 1], rtol=1e-14)
