"""Shares of inactive samples, by class, node and site."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from probekit.metrics import Sparsity, State

Stream = Callable[..., State]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_sparsity_is_the_share_at_or_below_the_threshold(stream: Stream, dtype: type, threshold: float) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-3, 4, (200, 5)) / 4).astype(dtype), rng.integers(0, 3, 200)
    found = Sparsity(threshold).finalize(stream(Sparsity(threshold), x, y, 3, (50, 51)))
    off = x <= threshold
    assert {name: dims for name, (dims, _) in found.items()} == {
        "sparsity": ("label", "node"),
        "sparsity_node": ("node",),
        "sparsity_site": (),
    }
    np.testing.assert_array_equal(found["sparsity"][1], [off[y == c].mean(0) for c in range(3)])
    np.testing.assert_array_equal(found["sparsity_node"][1], off.mean(0))
    np.testing.assert_allclose(found["sparsity_site"][1], off.mean(), rtol=1e-15)


def test_minus_zero_is_off_and_a_missing_class_is_nan(stream: Stream) -> None:
    found = Sparsity().finalize(stream(Sparsity(), np.array([[-0.0], [np.inf], [-np.inf]]), np.array([0, 0, 2]), 3))
    np.testing.assert_array_equal(found["sparsity"][1], [[0.5], [np.nan], [1]])
    assert found["sparsity_node"][1] == [2 / 3]
