"""Shares of inactive samples, by class, node and site, and the nodes that always are or never."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from probekit.metrics import AlwaysOn, Dead, Sparsity, State

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


@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_dead_and_always_on_count_the_nodes_that_are_off_for_all_samples_or_none(
    stream: Stream, threshold: float
) -> None:
    rng = np.random.default_rng(0)
    x, y = np.maximum(rng.normal(size=(60, 40)) + rng.normal(0, 3, 40), 0).astype(np.float32), rng.integers(0, 3, 60)
    off = x <= threshold
    for metric, nodes in ((Dead(threshold), off.all(0)), (AlwaysOn(threshold), ~off.any(0))):
        found = metric.finalize(stream(metric, x, y, 3, (20, 21)))
        count, share = found[metric.name], found[f"{metric.name}_share"]
        assert (count[0], share[0], count[1].dtype) == ((), (), np.int64)
        assert count[1] == nodes.sum()
        assert share[1] == nodes.mean()
        assert 0 < count[1] < 40


def test_a_single_sample_makes_a_node_alive_or_not_always_on(stream: Stream) -> None:
    x = np.zeros((1000, 2), np.float32)
    x[777, 0] = 1
    y = np.arange(1000) % 2
    assert Dead().finalize(stream(Dead(), x, y, 3))["dead"][1] == 1
    assert AlwaysOn().finalize(stream(AlwaysOn(), 1 - x, y, 3))["always_on"][1] == 1


def test_of_no_samples_nothing_is_dead_or_always_on(stream: Stream) -> None:
    for metric in (Dead(), AlwaysOn()):
        found = metric.finalize(stream(metric, np.zeros((0, 4), np.float32), np.zeros(0), 2))
        assert found[metric.name][1] == 0
        assert np.isnan(found[f"{metric.name}_share"][1])
