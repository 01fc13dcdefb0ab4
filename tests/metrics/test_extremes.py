"""The smallest and the largest values are numpy's, to the bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from probekit.metrics import Max, Min, Spec, State

Stream = Callable[..., State]


@settings(max_examples=50)
@given(
    x=st.sampled_from([np.float32, np.float64]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            st.tuples(st.integers(1, 30), st.integers(1, 3)),
            elements=st.floats(width=32, allow_nan=False) | st.integers(-2, 2).map(float),
        )
    ),
    cut=st.integers(0, 30),
)
def test_they_are_numpys(stream: Stream, x: np.ndarray, cut: int) -> None:
    y = np.arange(len(x)) % 3
    for metric, extreme in ((Min(), np.min), (Max(), np.max)):
        dims, found = metric.finalize(stream(metric, x, y, 4, (min(cut, len(x)),)))[metric.name]
        assert (dims, found.dtype) == (("label", "node"), x.dtype)
        for code in range(4):
            ours = x[y == code]
            expected = extreme(ours, axis=0) if len(ours) else np.full(x.shape[1], np.nan)
            np.testing.assert_array_equal(found[code], expected)


def test_infinite_values_are_values_and_a_class_without_samples_has_none(stream: Stream) -> None:
    x, y = np.array([[np.inf, -np.inf], [np.inf, 3.0]], np.float32), np.array([0, 0])
    np.testing.assert_array_equal(Min().finalize(stream(Min(), x, y, 2))["min"][1], [[np.inf, -np.inf], [np.nan] * 2])
    np.testing.assert_array_equal(Max().finalize(stream(Max(), x, y, 2))["max"][1], [[np.inf, 3], [np.nan] * 2])


@pytest.mark.parametrize(
    ("stored", "measured"),
    [
        (torch.float16, np.float32),
        (torch.bfloat16, np.float32),
        (torch.float32, np.float32),
        (torch.float64, np.float64),
        (torch.int64, np.float64),
    ],
)
def test_the_dtype_is_that_in_which_values_are_measured(stored: torch.dtype, measured: type) -> None:
    for metric in (Min(), Max()):
        state = metric.init(Spec(2, 3, stored, torch.device("cpu")))
        assert metric.finalize(state)[metric.name][1].dtype == measured
