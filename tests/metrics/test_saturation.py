"""Shares of samples near the bounds of an activation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr

import probekit as pk
from probekit.metrics import Saturation, Spec, State

Stream = Callable[..., State]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("delta", "bounds"), [(0.05, (0.0, 1.0)), (0.25, (-1.0, 1.0)), (0.0, (0.0, np.inf))])
def test_it_is_the_share_within_delta_of_a_bound(
    stream: Stream, dtype: type, delta: float, bounds: tuple[float, float]
) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-20, 21, (200, 5)) / 20).clip(*bounds).astype(dtype), rng.integers(0, 3, 200)
    metric = Saturation(delta, bounds)
    found = metric.finalize(stream(metric, x, y, 3, (50, 51)))
    near = np.isclose(x, bounds[0], rtol=0, atol=delta + 1e-6) | np.isclose(x, bounds[1], rtol=0, atol=delta + 1e-6)
    assert {name: dims for name, (dims, _) in found.items()} == {
        "saturation": ("label", "node"),
        "saturation_node": ("node",),
        "saturation_site": (),
    }
    assert 0 < near.mean() < 1
    np.testing.assert_array_equal(found["saturation"][1], [near[y == c].mean(0) for c in range(3)])
    np.testing.assert_array_equal(found["saturation_node"][1], near.mean(0))
    np.testing.assert_allclose(found["saturation_site"][1], near.mean(), rtol=1e-15)


def test_by_hand(stream: Stream) -> None:
    x = np.array([[0.0, 0.5], [0.05, 0.5], [0.06, 0.949], [0.95, 1.0], [0.5, 0.5]], np.float32)
    metric = Saturation(bounds=(0, 1))
    found = metric.finalize(stream(metric, x, np.array([0, 0, 0, 2, 2]), 3))
    np.testing.assert_array_equal(found["saturation"][1], [[2 / 3, 0], [np.nan, np.nan], [0.5, 0.5]])
    np.testing.assert_array_equal(found["saturation_node"][1], [3 / 5, 1 / 5])
    assert found["saturation_site"][1] == pytest.approx(0.4, rel=1e-15)


def test_what_is_near_both_bounds_counts_once(stream: Stream) -> None:
    metric = Saturation(delta=0.75, bounds=(0, 1))
    found = metric.finalize(stream(metric, np.array([[0.5], [0.3], [0.0]]), np.zeros(3), 1))
    assert found["saturation_node"][1] == 1


def test_the_bounds_of_the_site_are_used_unless_others_are_given() -> None:
    x, y = torch.tensor([[-1.0], [0.0], [1.0], [0.3]]), torch.zeros(4, dtype=torch.int64)
    for metric, expected in (
        (Saturation(), 2 / 4),
        (Saturation(bounds=(0, 2)), 2 / 4),
        (Saturation(bounds=(0, 1)), 3 / 4),
    ):
        state = metric.init(Spec(1, 1, x.dtype, x.device, bounds=(-1, 1)))
        assert metric.finalize(metric.update(state, x, y))["saturation_node"][1] == expected


def test_without_bounds_it_is_refused_and_says_how_to_give_them() -> None:
    sigmoid = xr.Dataset({"activation": (("sample", "node"), np.ones((2, 1)))})
    tree = xr.DataTree.from_dict({"/": xr.Dataset(coords={"label": ("sample", [0, 1])}), "act": sigmoid})
    with pytest.raises(
        pk.errors.PluginError, match=r"'saturation' can't be measured at site 'act'.*Saturation\(bounds=\(0, 1\)\)"
    ):
        pk.measure(tree, pk.metrics.Saturation())
    found = pk.measure(tree, pk.metrics.Saturation(bounds=(0, 1)))
    assert found["act"]["saturation_site"] == 1


@pytest.mark.parametrize("parameters", [{"delta": -0.1}, {"delta": float("nan")}, {"bounds": (1, 1)}])
def test_bad_parameters_are_refused(parameters: dict[str, object]) -> None:
    (name,) = parameters
    with pytest.raises(pk.errors.PluginError, match=f"{name}="):
        Saturation(**parameters)
