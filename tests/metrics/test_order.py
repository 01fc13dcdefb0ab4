"""Medians equal numpy's in every bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from probekit.metrics import Block, median


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's own, for the midpoint of -inf and inf
@given(
    st.sampled_from([np.float32, np.float64]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            st.tuples(st.integers(1, 30), st.integers(1, 3)),
            elements=st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([0.0, -0.0, 1.0, np.inf, -np.inf]),
        )
    )
)
def test_median_is_numpys(x: np.ndarray) -> None:
    y = np.arange(len(x)) % 3
    dims, found = median.compute(Block.from_samples(x, y, 4))["median"]
    assert dims == ("label", "node")
    assert found.dtype == x.dtype
    for code in range(4):
        ours = x[y == code]
        expected = np.median(ours, axis=0) if len(ours) else np.full(x.shape[1], np.nan)
        np.testing.assert_array_equal(found[code], expected)
