"""Medians and quantiles equal numpy's in every bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import probekit as pk
from probekit.metrics import Block, Quantile, median

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


@pytest.mark.parametrize("q", [-0.1, [0.5, 1.1], [], "median", [[0.1]], math.nan, [0.5, 0.5], None, True])
def test_what_is_no_quantile_is_refused(q: object) -> None:
    with pytest.raises(pk.errors.PluginError, match="Quantile"):
        Quantile(q)
