"""Effective rank and participation ratio, against numpy's SVD and closed forms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

import probekit as pk
from probekit.metrics import EffectiveRank, ParticipationRatio, State

Stream = Callable[..., State]
METRICS = (EffectiveRank(), ParticipationRatio())


def both(state: State) -> tuple[float, float]:
    """The two numbers, of which either metric's state is that of both."""
    assert EffectiveRank.state_key == ParticipationRatio.state_key
    found = [metric.finalize(state)[metric.name] for metric in METRICS]
    assert all(dims == () and array.shape == () and array.dtype == np.float64 for dims, array in found)
    return float(found[0][1]), float(found[1][1])


def by_svd(x: np.ndarray) -> tuple[float, float]:
    deviations = np.linalg.svd(x - x.mean(0), compute_uv=False)
    return float(np.exp(entropy(deviations))), float((deviations**2).sum() ** 2 / (deviations**4).sum())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0, 1000])
def test_they_are_those_of_the_singular_values(stream: Stream, dtype: type, offset: float) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(300, 20)) @ rng.normal(size=(20, 20)) * np.geomspace(1, 1e-2, 20) + offset).astype(dtype)
    state = stream(EffectiveRank(), x, rng.integers(0, 3, 300), 3, (1, 1, 150, 151))
    np.testing.assert_allclose(both(state), by_svd(x.astype(np.float64)), rtol=1e-9)


@settings(max_examples=40)
@given(rank=st.integers(1, 6), seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 60), max_size=3))
def test_equal_spread_in_some_directions_counts_these(stream: Stream, rank: int, seed: int, cuts: list[int]) -> None:
    # Orthonormal columns without mean, turned into 9 dimensions: all `rank` singular values are 1, the others 0.
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(60, rank))
    even = np.linalg.qr(noise - noise.mean(0))[0] @ np.linalg.qr(rng.normal(size=(9, 9)))[0][:rank]
    state = stream(EffectiveRank(), 7 + 3 * even, np.zeros(60), 1, tuple(cuts))
    np.testing.assert_allclose(both(state), rank, rtol=1e-9)


def test_what_rounding_leaves_of_a_direction_counts_for_nothing(stream: Stream) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 300)) + 5
    assert both(stream(EffectiveRank(), x, np.zeros(500), 1, (77, 300)))[0] < 2 + 1e-9


@settings(max_examples=40)
@given(data=st.data())
def test_any_tree_of_merges_gives_the_same(stream: Stream, data: st.DataObject) -> None:
    x = np.random.default_rng(0).normal(size=(50, 4)) + np.array([0, 1e6, 0, 0])
    cuts = sorted(data.draw(st.lists(st.integers(0, 50), min_size=1, max_size=5)))
    metric = EffectiveRank()
    parts = [stream(metric, part, np.zeros(len(part)), 1) for part in np.split(x, cuts)]
    while len(parts) > 1:
        first, second, *others = data.draw(st.permutations(range(len(parts))))
        parts = [metric.merge(parts[first], parts[second]), *(parts[other] for other in others)]
    np.testing.assert_allclose(both(parts[0]), by_svd(x), rtol=1e-8)


def test_neither_rotation_nor_scale_changes_them(stream: Stream) -> None:
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=(200, 8)), 0)
    turned = x @ np.linalg.qr(rng.normal(size=(8, 8)))[0] * 1e-3
    of_both = [both(stream(EffectiveRank(), each, np.zeros(200), 1)) for each in (x, turned)]
    np.testing.assert_allclose(of_both[0], of_both[1], rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3])
def test_a_site_without_spread_has_no_direction(stream: Stream, value: float) -> None:
    assert both(stream(EffectiveRank(), np.full((90, 5), value), np.zeros(90), 1, (13, 14))) == (0, 0)
    assert both(stream(EffectiveRank(), np.full((1, 5), value), np.zeros(1), 1)) == (0, 0)


def test_a_single_direction_beside_constant_nodes_is_one(stream: Stream) -> None:
    x = np.column_stack([np.full(40, 0.1), np.arange(40.0), np.full(40, 1 / 3)])
    np.testing.assert_allclose(both(stream(EffectiveRank(), x, np.zeros(40), 1, (11,))), 1, rtol=1e-12)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e200])
def test_infinities_and_no_samples_are_nan(stream: Stream, value: float) -> None:
    x = np.random.default_rng(0).normal(size=(30, 3))
    x[17, 1] = value
    for cuts in ((), (17,), (18,)):
        assert np.isnan(both(stream(EffectiveRank(), x, np.zeros(30), 1, cuts))).all()
    assert np.isnan(both(stream(EffectiveRank(), x[:0], np.zeros(0), 1))).all()


def test_the_classes_play_no_part(stream: Stream) -> None:
    x = np.random.default_rng(0).normal(size=(30, 3))
    one, two = stream(EffectiveRank(), x, np.zeros(30), 1), stream(EffectiveRank(), x, np.arange(30) % 5, 9)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_store_is_measured_whole_whatever_the_blocks_of_other_metrics(tree_of: Callable[..., xr.DataTree]) -> None:
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(700, 9)).astype(np.float32), "b": rng.normal(size=(700, 150))}
    m = pk.measure(tree_of(x, np.arange(700) % 3), [*METRICS, "gradient_norm", "std", "median"])
    for name, values in x.items():
        found = float(m[name]["effective_rank"]), float(m[name]["participation_ratio"])
        np.testing.assert_allclose(found, by_svd(values.astype(np.float64)), rtol=1e-9)
        norms = np.linalg.norm(values.astype(np.float64), axis=1)
        np.testing.assert_allclose(m[name]["gradient_norm_site"], norms.mean(), rtol=1e-12)
        assert m[name]["std"].sizes == {"label": 3, "node": values.shape[1]}
