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
from probekit.metrics import EffectiveRank, ParticipationRatio, RankMe, Spec, StableRank, State

Stream = Callable[..., State]
METRICS = (EffectiveRank(corrected=False), ParticipationRatio(biased=True))


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


def of_few(metric, x: np.ndarray, cuts: tuple[int, ...] = ()) -> float:
    """The number of a metric of a store with fewer samples than nodes, which multiplies samples."""
    samples = torch.from_numpy(x)
    state = metric.init(Spec(x.shape[1], 1, samples.dtype, samples.device, samples=len(x)))
    assert state["rows"].shape == x.shape
    for part in samples.tensor_split(cuts):
        state = metric.update(state, part, torch.zeros(len(part), dtype=torch.int64))
    return float(metric.finalize(state)[metric.name][1])


ALL = [
    *METRICS,
    ParticipationRatio(),
    EffectiveRank(center=False, corrected=False),
    RankMe(),
    StableRank(),
    StableRank(center=False),
]


@pytest.mark.parametrize("metric", ALL, ids=repr)
@pytest.mark.parametrize(("samples", "nodes"), [(20, 7), (7, 30), (16, 2500)])
def test_pairs_of_samples_give_what_pairs_of_nodes_give(stream: Stream, metric, samples: int, nodes: int) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(samples, nodes)) * np.geomspace(1, 1e-2, nodes) + 3).astype(np.float32)
    if nodes < samples:
        found = float(metric.finalize(stream(metric, x, np.zeros(samples), 1, (1, 9)))[metric.name][1])
    else:
        found = of_few(metric, x, (1, 3, 3))
    np.testing.assert_allclose(found, by_numpy(metric, x.astype(np.float64)), rtol=1e-6)


def by_numpy(metric, x: np.ndarray) -> float:
    """By singular values; and by all products of distinct samples, which are few enough."""
    centred = x - x.mean(0)
    if metric == ParticipationRatio():
        return of_distinct(centred)
    around = x if metric in (RankMe(), EffectiveRank(False, False), StableRank(center=False)) else centred
    roots = np.linalg.svd(around, compute_uv=False)
    roots = roots[roots > 1e-9 * roots[0]] if metric != RankMe() else roots
    if isinstance(metric, StableRank):
        return float((roots**2).sum() / roots[0] ** 2)
    if isinstance(metric, ParticipationRatio):
        return float((roots**2).sum() ** 2 / (roots**4).sum())
    shares = roots / roots.sum() + (1e-7 if metric == RankMe() else 0)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def of_distinct(x: np.ndarray) -> float:
    """The mean of ‖a − b‖² ‖c − d‖² over that of ((a − b)·(c − d))², over all distinct samples a, b, c, d."""
    n, k = len(x), x @ x.T
    a, b, c, d = np.ogrid[:n, :n, :n, :n]
    distinct = (a != b) & (a != c) & (a != d) & (b != c) & (b != d) & (c != d)
    across = k[a, c] - k[a, d] - k[b, c] + k[b, d]
    lengths = k[a, a] + k[b, b] - 2 * k[a, b]
    return float((lengths * (k[c, c] + k[d, d] - 2 * k[c, d]))[distinct].mean() / (across**2)[distinct].mean())


@pytest.mark.parametrize("number", [10, 20, 50, 180, 1000])
def test_the_participation_ratio_is_right_for_few_samples_too(number: int) -> None:
    draws = (np.random.default_rng(seed).normal(size=(number, 50)) for seed in range(20))
    metric = ParticipationRatio()
    found = []
    for x in draws:
        state = metric.init(Spec(50, 1, torch.float64, torch.device("cpu"), samples=number))
        state = metric.update(state, torch.from_numpy(x), torch.zeros(number, dtype=torch.int64))
        found.append(float(metric.finalize(state)["participation_ratio"][1]))
    assert abs(np.mean(found) - 50) < np.std(found)


# Variances of a population in its directions, and how many nodes do nothing beside them.
POPULATIONS = {
    "equal": np.ones(50),
    "falling": np.arange(1, 51) ** -1.0,
    "some strong": np.repeat([50.0, 1.0], [5, 45]),
    "few": np.repeat([1.0, 0.0], [5, 45]),
    "real layers have": np.arange(1, 51) ** -2.0,
}


def of_draw(metric, x: np.ndarray) -> float:
    state = metric.init(Spec(x.shape[1], 1, torch.float64, torch.device("cpu"), samples=len(x)))
    state = metric.update(state, torch.from_numpy(x), torch.zeros(len(x), dtype=torch.int64))
    return float(metric.finalize(state)[metric.name][1])


@pytest.mark.parametrize("variances", POPULATIONS.values(), ids=POPULATIONS)
@pytest.mark.parametrize("number", [10, 20, 50, 180, 1000])
def test_the_effective_rank_is_that_of_the_population(variances: np.ndarray, number: int) -> None:
    true = np.exp(entropy(np.sqrt(variances)))
    draws = [np.random.default_rng(n).normal(size=(number, 50)) * np.sqrt(variances) for n in range(12)]
    found = [of_draw(EffectiveRank(), x) for x in draws]
    assert abs(np.mean(found) - true) < 1.2 * np.std(found) + 0.005 * true
    assert np.std(found) < 0.35 * true  # it isn't right because it may be anything
    plain = [of_draw(EffectiveRank(corrected=False), x) for x in draws]
    assert number > 50 or true - np.mean(plain) > 1.4 * abs(np.mean(found) - true)


def test_the_corrected_effective_rank_of_half_normal_nodes_that_are_mixed() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(60, 60))
    whole = (rng.normal(size=(100_000, 60)) @ mixing).clip(min=0)
    true = np.exp(entropy(np.linalg.svd(whole - whole.mean(0), compute_uv=False)))
    for number, error in [(30, 4), (100, 1), (400, 0.4)]:
        found = [of_draw(EffectiveRank(), whole[rng.choice(100_000, number)]) for _ in range(8)]
        assert np.mean(found) == pytest.approx(true, abs=error)
    assert of_draw(EffectiveRank(corrected=False), whole[:100]) < true - 4


def test_neither_rotation_nor_scale_nor_dead_nodes_change_the_corrected_effective_rank() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 12)) * np.geomspace(1, 0.1, 12)
    turned = x @ np.linalg.qr(rng.normal(size=(12, 12)))[0] * 1e-3 + 5
    wide = np.pad(x, ((0, 0), (0, 100)))  # by pairs of samples
    found = [of_draw(EffectiveRank(), each) for each in (x, turned, wide)]
    np.testing.assert_allclose(found, found[0], rtol=1e-6)


@pytest.mark.parametrize(("samples", "expected"), [(1, 0), (2, np.nan), (3, np.nan), (4, 1)])
def test_the_corrected_effective_rank_needs_four_samples(samples: int, expected: float) -> None:
    line = np.arange(samples)[:, None] * np.array([1.0, 2, 3])
    np.testing.assert_allclose(of_draw(EffectiveRank(), line), expected, rtol=1e-5)


@pytest.mark.parametrize("samples", [1, 2, 3, 9])
def test_the_corrected_participation_ratio_needs_four_samples_that_differ(stream: Stream, samples: int) -> None:
    x = np.zeros((samples, 2))
    x[0] = [3, 4]
    expected = 0 if samples == 1 else np.nan
    metric = ParticipationRatio()
    np.testing.assert_equal(float(metric.finalize(stream(metric, x, np.zeros(samples), 1))[metric.name][1]), expected)


def test_a_wide_store_is_measured_by_its_samples(tree_of: Callable[..., xr.DataTree]) -> None:
    x = np.random.default_rng(0).normal(size=(40, 300))
    m = pk.measure(tree_of({"a": x}, np.zeros(40, int)), [*METRICS, RankMe()], memory="1.3MiB")[
        "a"
    ]  # less than pairs of nodes
    np.testing.assert_allclose([m["effective_rank"], m["participation_ratio"]], by_svd(x), rtol=1e-9)
