"""Medians and quantiles equal numpy's in every bit."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import probekit as pk
from probekit.metrics import Block, Quantile, median
from probekit.metrics.order import OrderMetric

samples = st.sampled_from([np.float32, np.float64]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        st.tuples(st.integers(1, 30), st.integers(1, 3)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([0.0, -0.0, 1.0, np.inf, -np.inf]),
    )
)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's own, for the midpoint of -inf and inf
@given(samples)
def test_median_is_numpys(x: np.ndarray) -> None:
    y = np.arange(len(x)) % 3
    dims, found = median.compute(Block.from_samples(x, y, 4))["median"]
    assert dims == ("label", "node")
    assert found.dtype == x.dtype
    for code in range(4):
        ours = x[y == code]
        expected = np.median(ours, axis=0) if len(ours) else np.full(x.shape[1], np.nan)
        np.testing.assert_array_equal(found[code], expected)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's own, between -inf and inf
@given(samples, st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=5, unique=True))
def test_quantiles_are_numpys(x: np.ndarray, q: list[float]) -> None:
    y = np.arange(len(x)) % 3
    dims, found = Quantile(q).compute(Block.from_samples(x, y, 4))["quantile"]
    assert dims == ("label", "q", "node")
    assert found.dtype == np.float64
    for code in range(4):
        ours = x[y == code]
        expected = np.quantile(ours, q, axis=0) if len(ours) else np.full((len(q), x.shape[1]), np.nan)
        np.testing.assert_array_equal(found[code], expected)


def test_a_quantile_is_one_number_or_several() -> None:
    assert Quantile(0.1) == Quantile([0.1]) == Quantile((0.1,)) == Quantile(np.array([0.1]))
    assert Quantile().parameters == {"q": (0.25, 0.5, 0.75)}
    np.testing.assert_array_equal(Quantile([0.9, 0.1]).coords["q"], [0.9, 0.1])
    block = Block.from_samples(np.arange(11)[:, None], np.zeros(11))
    np.testing.assert_array_equal(Quantile([1, 0, 0.55]).compute(block)["quantile"][1].ravel(), [10, 0, 5.5])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's own, between infinities
@pytest.mark.parametrize("metric", [median, Quantile(), Quantile([0.9, 0.0, 1 / 3])], ids=["median", "quartiles", "q"])
@given(samples)
def test_a_few_order_statistics_are_enough(metric: OrderMetric, x: np.ndarray) -> None:
    y = np.arange(len(x)) % 3
    counts = np.bincount(y, minlength=4)
    ranks = [list(metric.ranks(int(count))) if count else [] for count in counts]
    assert all(of_class == sorted(set(of_class)) for of_class in ranks)
    values = [np.sort(x[y == code], axis=0)[of_class] for code, of_class in enumerate(ranks)]
    ((name, (dims, found)),) = metric.from_ranks(counts, values).items()
    expected_dims, expected = metric.compute(Block.from_samples(x, y, 4))[name]
    assert (dims, found.dtype) == (expected_dims, expected.dtype)
    np.testing.assert_array_equal(found, expected)


def test_which_order_statistics_are_needed() -> None:
    assert [list(median.ranks(number)) for number in (1, 2, 5, 6)] == [[0], [0, 1], [2], [2, 3]]
    assert list(Quantile([0, 0.25, 1]).ranks(11)) == [0, 1, 2, 3, 10]
    assert isinstance(median, OrderMetric)
    assert isinstance(Quantile(), OrderMetric)


def test_the_median_is_a_function_and_goes_to_other_processes_by_name() -> None:
    np.testing.assert_array_equal(median(np.array([[1.0, 5], [2, 6], [4, 9]])), [2, 6])
    assert median.name == "median"
    assert pickle.loads(pickle.dumps(median)) is median


@pytest.mark.parametrize("q", [-0.1, [0.5, 1.1], [], "median", [[0.1]], math.nan, [0.5, 0.5], None, True])
def test_what_is_no_quantile_is_refused(q: object) -> None:
    with pytest.raises(pk.errors.PluginError, match="Quantile"):
        Quantile(q)
