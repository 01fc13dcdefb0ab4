"""Samples made of a sketch are the real ones, to the bounds that it gives: on usual streams and on adversarial ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import ks_2samp, mannwhitneyu, wasserstein_distance

import probekit as pk
from probekit.metrics import (
    AUROC,
    KS,
    Block,
    Entropy,
    Histogram,
    MutualInformation,
    Overlap,
    Quantile,
    Spec,
    State,
    Wasserstein,
    median,
)
from probekit.metrics._kernels.chance import expected_variation, most_variation
from probekit.metrics.sketch import Sketch

CPU = torch.device("cpu")
KEPT = 8195  # float32 samples per class that are kept as they are
ALL = Sketch(samples=10**9)  # leaves no sample out
PLAIN = Overlap(bins=32, corrected=False)
BOUNDING = [
    KS(),
    KS(corrected=False),
    AUROC(),
    *(
        make(bins, corrected=corrected)
        for make in (Overlap, MutualInformation, Entropy)
        for bins in (None, 4)
        for corrected in (True, False)
    ),
]
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]

ACTIVATIONS: dict[str, tuple[Draw, tuple[float, float] | None]] = {
    "normal": (lambda rng, shape: rng.normal(size=shape), None),
    "relu": (lambda rng, shape: rng.normal(size=shape).clip(0), (0, np.inf)),
    "sigmoid": (lambda rng, shape: 1 / (1 + np.exp(-6 * rng.normal(size=shape))), (0, 1)),
    "heavy-tailed": (lambda rng, shape: rng.standard_cauchy(shape).clip(-1000, 1000), None),
    "tanh": (lambda rng, shape: np.tanh(rng.normal(size=shape)), (-1, 1)),
    "shifted": (lambda rng, shape: rng.normal(1e5, 100, shape), None),
}
activations = pytest.mark.parametrize("name", ACTIVATIONS)


def spec_of(x: np.ndarray, classes: int, bounds: tuple[float, float] | None = None) -> Spec:
    return Spec(x.shape[1], classes, torch.from_numpy(x[:0]).dtype, CPU, bounds)


def sketched(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    bounds: tuple[float, float] | None = None,
    sketch: Sketch | None = None,
    batch: int = 512,
    state: State | None = None,
) -> State:
    sketch = sketch or Sketch()
    state = sketch.init(spec_of(x, classes, bounds)) if state is None else state
    for start in range(0, len(x), batch):
        rows = slice(start, start + batch)
        state = sketch.update(state, torch.from_numpy(x[rows]), torch.from_numpy(y[rows]))
    return state


def counted(
    x: np.ndarray, y: np.ndarray, classes: int, bounds: tuple[float, float] | None = None, batch: int = 512
) -> State:
    """The state of the samples when they are counted in cells, although they are few."""
    zeros = np.zeros(((classes + 1) * KEPT * 4 // x.itemsize + 1, x.shape[1]), x.dtype)
    state = sketched(zeros, np.full(len(zeros), classes), classes + 1, bounds, batch=len(zeros) - 1)
    assert not len(state["x"])
    without = {name: state[name][:classes] for name in state.keys() & {"count", "signed", "unit", "symmetric"}}
    return sketched(x, y, classes, state=state | without, batch=batch)


def draw(name: str, samples: int, nodes: int = 6, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, samples)
    make, _ = ACTIVATIONS[name]
    x = make(rng, (samples, nodes)).astype(np.float32)
    x = np.where((y == 1)[:, None], (x**2 if name == "sigmoid" else x * np.float32(0.7)), x)  # so that classes differ
    return x.astype(np.float32), y


def distance_from_bounds(values: np.ndarray, bounds: tuple[float, float] | None) -> np.ndarray:
    """Of values, or those of the values 0 and ±1 from each other; of what a sketch's error is a share."""
    values = abs(values.astype(np.longdouble))
    return np.minimum(values, 1 - values) if bounds in ((0, 1), (-1, 1)) else values


def relative(block: Block, exact: Block, bounds: tuple[float, float] | None = None) -> float:
    """The largest distance of two blocks' values, relative to the exact ones."""
    with np.errstate(invalid="ignore", over="ignore"):
        apart, size = abs(block.values.astype(np.longdouble) - exact.values), distance_from_bounds(exact.values, bounds)
    same = block.values == exact.values
    return float((np.where(same, 0, apart) / np.where(same, 1, size)).max(initial=0))


@activations
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_samples_are_kept_as_they_are(name: str, dtype: type) -> None:
    x, y = draw(name, 5000)
    state = sketched(x.astype(dtype), y, 4, ACTIVATIONS[name][1])
    block, exact = Sketch(samples=2).block(state), Block.from_samples(x.astype(dtype), y, 4)
    np.testing.assert_array_equal(block.values, exact.values)
    assert block.values.dtype == dtype
    np.testing.assert_array_equal(block.offsets, exact.offsets)
    resolution = Sketch(samples=2).resolution(state)
    assert resolution.exact
    for metric in BOUNDING:
        np.testing.assert_array_equal(metric.error_bound(resolution), np.zeros(6))


@activations
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_are_order_statistics_to_within_their_bound(name: str, dtype: type) -> None:
    x, y = draw(name, 40_000)
    x, bounds = x.astype(dtype), ACTIVATIONS[name][1]
    state = sketched(x, y, 4, bounds)
    sketch = Sketch(samples=4096)
    block, exact, resolution = sketch.block(state), Block.from_samples(x, y, 4), sketch.resolution(state)
    value_error = resolution.value_error
    assert value_error <= (2**-11 if name == "shifted" else 2**-6 if name == "sigmoid" else 2**-8)
    assert resolution.rank_error == 1 / (2 * block.counts[:3].min())
    for code in range(3):
        n, m = exact.counts[code], block.counts[code]
        assert m == pytest.approx(4096, rel=0.02)
        real = exact[code][:, ((2 * np.arange(m) + 1) * n) // (2 * m)]
        np.testing.assert_array_equal(np.sort(block[code]), block[code])
        np.testing.assert_array_equal(block[code] == 0, real == 0)
        far = abs(block[code].astype(np.float64) - real)
        assert (far <= distance_from_bounds(real, bounds) * value_error).all()
        assert (far > distance_from_bounds(real, bounds) * value_error / 2).any()  # the bound isn't idle
    assert block.counts[3] == 0


@activations
def test_metrics_are_the_exact_ones_to_the_error_of_ranks(name: str) -> None:
    x, y = draw(name, 40_000, nodes=3)
    state = sketched(x, y, 3, ACTIVATIONS[name][1])
    block, resolution = Sketch().block(state), Sketch().resolution(state)
    error = KS(corrected=False).error_bound(resolution).max()
    assert error < (0.05 if name == "shifted" else 0.01)
    ks, auroc, overlap = (metric.compute(block) for metric in (KS(corrected=False), AUROC(), PLAIN))
    exact = PLAIN.compute(Block.from_samples(x, y, 3))
    for node in range(3):
        a, b = x[y == 0, node], x[y == 1, node]
        assert ks["ks"][1][0, 1, node] == pytest.approx(ks_2samp(a, b).statistic, abs=error)
        u = mannwhitneyu(b, a).statistic / (len(a) * len(b))
        assert auroc["auroc"][1][0, 1, node] == pytest.approx(u, abs=AUROC().error_bound(resolution).max())
        assert overlap["overlap_pairs"][1][0, 1, node] == pytest.approx(
            exact["overlap_pairs"][1][0, 1, node], abs=0.016
        )
        scale = float(abs(a).mean() + abs(b).mean())
        distance = Wasserstein(corrected=False).compute(block)["wasserstein"][1][0, 1, node]
        assert distance == pytest.approx(wasserstein_distance(a, b), abs=(2**-8 + 0.02) * scale)


@activations
def test_medians_and_quantiles_lie_between_the_exact_ones_next_to_them(name: str) -> None:
    x, y = draw(name, 40_000)
    q = np.array([0.05, 0.25, 0.5, 0.9])
    state = sketched(x, y, 3, ACTIVATIONS[name][1])
    sketch = Sketch(samples=4096)
    block, errors = sketch.block(state), sketch.resolution(state)
    found = Quantile(q).compute(block)["quantile"][1]
    np.testing.assert_allclose(median.compute(block)["median"][1], found[:, 2], rtol=1e-6)
    shift = errors.rank_error + 2 / 12_000
    for code in range(3):
        ours = x[y == code].astype(np.float64)
        low, high = (np.quantile(ours, q + to, axis=0) for to in (-shift, shift))
        margin = np.maximum(abs(low), abs(high)) * errors.value_error + 1e-6
        assert ((found[code] >= low - margin) & (found[code] <= high + margin)).all()


N = 6000  # of each adversarial stream: two classes


def streams() -> dict[str, np.ndarray]:
    """Adversarial streams (sample, node) of which even samples are class 0 and odd ones class 1, at two nodes."""
    rng = np.random.default_rng(0)
    normal, odd = rng.normal(size=(N, 2)), (np.arange(N) % 2)[:, None]
    halves = np.where(rng.random((N, 2)) < 0.5, 1.0, 0.0)
    return {
        "1e5 and 1.1e5": 1e5 + 1e4 * odd + 100 * normal,
        "1e5 and 1.001e5": 1e5 + 100 * odd + 100 * normal,
        "1e5 and 1.00001e5": 1e5 + odd + 0.1 * normal,
        "below 0, shifted": -3e7 + 10 * odd + 5 * normal,
        "huge": 1e37 * normal,
        "tiny": 1e-36 * normal + 1e-36 * odd,
        "below the least normal": 1e-41 * normal,
        "the least": 1e-45 * rng.integers(-3, 4, (N, 2)),
        "huge and tiny": normal * np.where(halves, 1e30, 1e-30),
        "tiny class, huge class": normal * np.where(odd, 1e30, 1e-30),
        "classes apart by octaves": np.exp2(60 * odd) * (1 + 0.001 * normal),
        "nodes of other scales": normal * np.array([1e-20, 1e20]) + odd * np.array([1e-20, 1e20]),
        "one that is tiny": np.where(np.arange(N)[:, None] == 77, 1e-38, 5 + normal),
        "one that is huge": np.where(np.arange(N)[:, None] == 77, 3.4e38, 5 + normal),
        "zeros and a shifted class": np.where(halves, 0, 1e4 + odd + normal),
        "clusters on both sides": np.where(halves, -700, 900) + 0.1 * odd + 0.1 * normal,
        "range that grows late": normal * np.exp2(np.arange(N) // 200)[:, None] + odd,
        "range that grows down": normal * np.exp2(-(np.arange(N) // 150))[:, None],
        "sorted": np.sort(normal, axis=0),
        "reversed": -np.sort(-normal + 3, axis=0),
        "small integers": np.round(3 * normal + odd),
        "large integers": np.round(1e6 * normal + 1e5 * odd),
        "constant": np.full((N, 2), 0.1),
        "constant class": np.where(odd, 0.1, normal),
        "infinities": np.where(abs(normal) > 2, np.copysign(np.inf, normal), 1e3 * normal),
        "nearly ties": 1 + np.finfo(np.float32).eps * rng.integers(0, 4, (N, 2)) * (1 + odd),
        "powers of two": np.exp2(rng.integers(-120, 120, (N, 2))) * np.sign(normal),
        "just below powers of two": np.exp2(rng.integers(-100, 100, (N, 2))) * (1 - 2**-20),
        "2,000 ± 30": 2000 + 30 * normal + 10 * odd,
        "gradients": 1e-6 * (normal + odd),
        "drift by a million": (normal + odd) * np.where(np.arange(N) < N // 2, 1e-3, 1e3)[:, None],
        "heavy tails": rng.standard_cauchy((N, 2)) ** 3,
        "bfloat16": torch.from_numpy(normal + odd).bfloat16().double().numpy(),
        "tanh": np.tanh(2 * normal + odd),
        "tanh, saturated": np.tanh(12 * normal + odd),
        "tanh, saturated at one end": np.tanh(6 + 3 * odd + 3 * normal),
        "softsign of heavy tails": 1 / (1 + 1 / abs(1e4 * rng.standard_cauchy((N, 2)))) * np.sign(normal),
        "sigmoid, saturated": 1 / (1 + np.exp(-30 * normal - 9 * odd)),
        "bounds alone": np.where(halves, 1.0, odd),
        "classes apart within cells": np.exp2(rng.integers(0, 9, (N, 2)))
        * (1 + rng.integers(0, 32, (N, 2)) / 32 + np.where(odd, 1e-3, -1e-3) * rng.uniform(0.1, 1, (N, 2))),
    }


STREAMS = streams()
BOUNDED = {
    name: (0, 1) if name in ("sigmoid, saturated", "bounds alone") else (-1, 1)
    for name in STREAMS
    if name.startswith(("tanh", "soft", "sigmoid", "bounds"))
}
WIDE = {
    "beyond float32": 1e250 * STREAMS["huge and tiny"],
    "all that float64 has": np.where(STREAMS["sorted"] > 0, 1.7e308, 5e-324) * STREAMS["small integers"].clip(-1, 1),
    "shifted by 1e12": 1e12 + STREAMS["1e5 and 1.00001e5"],
    "finer than float32": 1 + 1e-12 * STREAMS["sorted"],
}
adversarial = pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in STREAMS for dtype in (np.float32, np.float64)] + [(name, np.float64) for name in WIDE],
)


def stream(name: str, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(over="ignore"):
        return (STREAMS | WIDE)[name].astype(dtype), np.arange(N) % 2


@adversarial
def test_bounds_hold_on_adversarial_streams(name: str, dtype: type) -> None:
    x, y = stream(name, dtype)
    bounds = BOUNDED.get(name)
    state, exact = counted(x, y, 2, bounds), Block.from_samples(x, y, 2)
    for sketch in (ALL, Sketch(samples=1000), Sketch(samples=64)):  # the last with fewer bins
        block, resolution = sketch.block(state), sketch.resolution(state)
        if sketch is ALL:
            assert relative(block, exact, bounds) <= resolution.value_error
        for metric in BOUNDING:
            bound = metric.error_bound(resolution) + 1e-12
            ours, theirs = metric.compute(block), metric.compute(exact)
            for variable in (v for v in theirs if not v.endswith("constant")):
                assert (abs(ours[variable][1] - theirs[variable][1]) <= bound).all(), (metric, variable)


@pytest.mark.parametrize(
    ("name", "value_error", "cell_share"),
    [
        ("1e5 and 1.1e5", 2**-14, 0.025),
        ("1e5 and 1.001e5", 2**-15, 0.01),
        ("1e5 and 1.00001e5", 2**-20, 0.01),
        ("clusters on both sides", 2**-18, 0.01),
        ("zeros and a shifted class", 2**-18, 0.01),
        ("huge", 2**-8, 0.01),
        ("tiny", 2**-7, 0.01),
        ("huge and tiny", 2**-4, 0.1),
        ("small integers", 0, 0),
        ("constant", 0, 0),
        ("powers of two", 2**-5, 0.02),
        ("2,000 ± 30", 2**-13, 0.01),
        ("gradients", 2**-8, 0.01),
        ("bfloat16", 0, 0),
        ("tanh", 2**-8, 0.01),
        ("tanh, saturated", 2**-6, 0.01),
        ("tanh, saturated at one end", 2**-7, 0.02),
        ("softsign of heavy tails", 2**-7, 0.01),
        ("sigmoid, saturated", 2**-4, 0.01),
        ("bounds alone", 0, 0),
    ],
)
def test_bounds_are_as_small_as_the_range_lets_them_be(name: str, value_error: float, cell_share: float) -> None:
    resolution = ALL.resolution(counted(*stream(name, np.float32), 2, BOUNDED.get(name)))
    assert resolution.value_error <= value_error
    assert resolution.cell_share().max() <= cell_share


def test_what_cells_cannot_tell_apart_is_in_the_bound() -> None:
    """Two classes that differ by less than a cell, beside one value so small that cells are wide."""
    rng = np.random.default_rng(0)
    x = 1e5 + np.where(np.arange(N) % 2, 30, 0) + rng.normal(size=N)
    x[5] = 1e-30
    state = counted(x.astype(np.float32)[:, None], np.arange(N) % 2, 2)
    resolution, exact = ALL.resolution(state), Block.from_samples(x.astype(np.float32)[:, None], np.arange(N) % 2)
    for metric, name in ((KS(), "ks"), (AUROC(), "auroc")):
        apart = abs(metric.compute(ALL.block(state))[name][1][0, 1] - metric.compute(exact)[name][1][0, 1])
        assert 0.4 < apart <= metric.error_bound(resolution) + 1e-12
    assert PLAIN.error_bound(resolution) == 1 <= Overlap().error_bound(resolution)
    assert resolution.rank_error == 0


@pytest.mark.parametrize("name", [*STREAMS, *WIDE])
def test_the_order_of_samples_and_merges_changes_nothing(name: str) -> None:
    (x, y), bounds = stream(name, np.float32 if name in STREAMS else np.float64), BOUNDED.get(name)
    expected = counted(x, y, 2, bounds)
    rng = np.random.default_rng(1)
    for order in (rng.permutation(N), np.argsort(-abs(x[:, 1]))):
        found = counted(x[order], y[order], 2, bounds, batch=3001)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    few = [counted(x[part::3], y[part::3], 2, bounds) for part in range(3)]
    a, b = (Sketch().merge(Sketch().merge(few[i], few[j]), few[k]) for i, j, k in ((0, 1, 2), (2, 0, 1)))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert all(torch.equal(a[key], expected[key]) for key in expected)


def test_kept_and_counted_states_merge() -> None:
    x, y = draw("normal", 60_000, nodes=2)
    whole, sketch = sketched(x, y, 3), Sketch()
    parts = [sketched(x[part], y[part], 3) for part in (slice(100), slice(100, 30_000), slice(30_000, None))]
    assert [len(part["x"]) > 0 for part in parts] == [True, False, False]
    parts[1:1] = [sketched(x[:0], y[:0], 3)]
    for order in ((0, 1, 2, 3), (3, 0, 2, 1)):
        merged = sketch.init(spec_of(x, 3))
        for part in order:
            merged = sketch.merge(merged, parts[part])
        assert all(torch.equal(merged[key], whole[key]) for key in whole)
    kept = [sketched(x[:9000], y[:9000], 3), sketched(x[9000:18_000], y[9000:18_000], 3)]
    both = sketch.block(sketch.merge(*kept))
    np.testing.assert_array_equal(both.values, Block.from_samples(x[:18_000], y[:18_000], 3).values)


@settings(max_examples=30)
@given(
    x=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 3)),
        elements=st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0]),
    ),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    order=st.randoms(use_true_random=False),
    bounds=st.sampled_from([None, (0, 1), (-1, 1)]),
)
def test_split_and_merged_in_any_order_it_is_the_same(
    x: np.ndarray, cuts: list[int], order: object, bounds: tuple[float, float] | None
) -> None:
    x = x.clip(*bounds) if bounds else x
    y = np.arange(len(x)) % 3
    sketch = Sketch()
    whole = counted(x, y, 3, bounds=bounds)
    parts = list(zip(np.split(x, sorted(cuts)), np.split(y, sorted(cuts)), strict=True))
    order.shuffle(parts)
    merged = counted(x[:0], y[:0], 3, bounds=bounds)
    for ours, codes in parts:
        before = sketched(ours, codes, 3, bounds)
        merged = sketch.merge(before, merged)
    assert whole.keys() == merged.keys()
    assert all(torch.equal(whole[key], merged[key]) for key in whole)
    np.testing.assert_array_equal(whole["count"][:3], np.bincount(y, minlength=3))
    exact = Block.from_samples(x, y, 3)
    assert relative(ALL.block(whole), exact, bounds) <= ALL.resolution(whole).value_error


def test_numbers_of_eight_bits_zero_and_infinity_are_exact() -> None:
    rng = np.random.default_rng(0)
    x = rng.choice(np.float32([0, -0.0, 1, -1, 6, 0.5, 255, -0.125, np.inf, -np.inf, 2.0**-17]), (3000, 4))
    y = rng.integers(0, 2, 3000)
    state = counted(x, y, 2)
    block, exact = ALL.block(state), Block.from_samples(x, y, 2)
    np.testing.assert_array_equal(block.values, exact.values)
    assert ALL.resolution(state).exact
    state = sketched(np.float32([[0.3] * 4]), np.array([0]), 2, state=state)
    assert ALL.resolution(state).value_error, "0.3 has more bits"
    block = ALL.block(state)
    np.testing.assert_array_equal(block[1], exact[1])


def test_the_bounds_of_a_sigmoid_are_exact_and_what_is_next_to_them_is_not_lost() -> None:
    ends = np.float32([0, 2.0**-30, 2.0**-20, 0.5, 1 - 2.0**-10, 1 - 2.0**-23, 1 - 2.0**-24, 1])
    x, y = np.tile(ends, 5)[:, None], np.zeros(40, np.int64)
    bounded = Sketch().block(counted(x, y, 1, bounds=(0, 1)))
    np.testing.assert_array_equal(bounded[0][0], np.repeat(ends, 5))
    outside = counted(np.float32([[-1e-9], [1 + 2e-7]]), np.zeros(2, np.int64), 1, bounds=(0, 1))
    np.testing.assert_array_equal(Sketch().block(outside)[0], [[0, 1]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_next_to_the_bounds_of_a_tanh_is_not_lost(dtype: type) -> None:
    """Each of the 127 floats next to a bound has a cell of its own, beside values of any size."""
    near = 1 - np.arange(128) * np.finfo(dtype).epsneg
    x = np.concatenate([near, -near, [0, np.finfo(dtype).tiny]]).astype(dtype)
    state = counted(x[:-1, None], np.zeros(len(x) - 1, np.int64), 1, bounds=(-1, 1))
    np.testing.assert_array_equal(ALL.block(state)[0][0], np.sort(x[:-1]))
    assert ALL.resolution(state).exact
    state = sketched(x[-1:, None], np.zeros(1, np.int64), 1, state=state)
    exact, found = Block.from_samples(x[:, None], np.zeros(len(x))), ALL.block(state)[0][0]
    np.testing.assert_array_equal((found[0], found[-1]), (-1, 1))
    assert relative(ALL.block(state), exact, (-1, 1)) <= ALL.resolution(state).value_error < 1


@pytest.mark.parametrize("bounds", [(0, 1), (-1, 1)])
def test_values_far_out_of_the_bounds_are_kept_or_refused(bounds: tuple[float, float]) -> None:
    x, y = np.float32([[0.5], [7], [-2]]), np.zeros(3, np.int64)
    np.testing.assert_array_equal(Sketch().block(sketched(x, y, 1, bounds))[0], [[-2, 0.5, 7]])
    with pytest.raises(
        pk.errors.DataError, match=rf"values from -2 to 7 .* outside {bounds[0]} and 1.*probekit\.capture"
    ):
        counted(x, y, 1, bounds=bounds)


def test_every_float32_is_in_its_cell() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 60_000, dtype=np.uint32)
    x = bits.view(np.float32)
    x = np.concatenate([x[np.isfinite(x)], np.float32([3.4028235e38, -3.4028235e38, 1e-45, -1e-45])])
    state = sketched(x[:, None], np.zeros(len(x), np.int64), 1)
    found = ALL.block(state)[0][0]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, np.sort(x), rtol=ALL.resolution(state).value_error)
    assert ALL.resolution(state).value_error == 2**-3
    normal = abs(np.sort(x)) > 1.2e-38
    np.testing.assert_allclose(found[normal], np.sort(x)[normal], rtol=2**-4)


def test_merge_changes_neither() -> None:
    for make in (sketched, counted):
        x, y = draw("normal", 100)
        a, b = make(x, y, 3), make(1e9 * x + 1, y, 3)
        kept = [{key: value.clone() for key, value in state.items()} for state in (a, b)]
        Sketch().merge(a, b)
        assert all(
            torch.equal(state[key], before[key]) for state, before in zip((a, b), kept, strict=True) for key in state
        )


@pytest.mark.parametrize("samples", [3000, 60_000])
def test_a_class_may_come_later(samples: int) -> None:
    x, y = draw("relu", samples)
    sketch, late = Sketch(), y == 2
    state = sketch.grow(sketched(x[~late], y[~late], 2), 3)
    state = sketched(x[late], y[late], 3, state=state)
    whole = sketched(x, y, 3)
    np.testing.assert_array_equal(sketch.block(state).values, sketch.block(whole).values)
    found, expected = (KS().error_bound(sketch.resolution(each)) for each in (state, whole))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("samples", [2000, 40_000])
def test_blocks_of_nodes_are_the_block(samples: int) -> None:
    x, y = draw("normal", samples, nodes=7)
    state = sketched(x, y, 3)
    blocks = list(Sketch().blocks(state, nodes=3))
    assert [block.nodes for block in blocks] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([block.values for block in blocks]), Sketch().block(state).values)


def test_classes_of_different_size_weigh_what_they_should() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [50_000, 4000, 20])
    x = (rng.normal(size=(len(y), 2)) + y[:, None]).astype(np.float32)
    sketch = Sketch(samples=4096)
    state = sketched(x, y, 4)
    block, exact = sketch.block(state), Block.from_samples(x, y, 4)
    np.testing.assert_array_equal(block.counts, [50_000 * 12_288 // 54_020, 4000 * 12_288 // 54_020, 20, 0])
    assert sketch.resolution(state).rank_error == 1 / (2 * block.counts[1])
    for metric, name in ((MutualInformation(), "mutual_information"), (AUROC(), "auroc_rest")):
        np.testing.assert_allclose(metric.compute(block)[name][1], metric.compute(exact)[name][1], atol=0.005)


def test_other_weights_of_classes_are_in_the_bound() -> None:
    """Classes of 30 and of 3,000 samples keep as many, beside one of so many that its share leaves 64 to both."""
    rng = np.random.default_rng(0)
    counts = [400_000, 3000, 70]
    y = np.repeat(np.arange(3), counts)
    x = np.concatenate([rng.normal(size=counts[0]), rng.normal(-9, 1, counts[1]), rng.normal(9, 1, counts[2])])
    x = x.astype(np.float32)[:, None]
    state, sketch = sketched(x, y, 3, batch=10**6), Sketch(samples=4096)
    block, exact, resolution = sketch.block(state), Block.from_samples(x, y, 3), sketch.resolution(state)
    for metric in BOUNDING:
        ours, theirs = metric.compute(block), metric.compute(exact)
        apart = max(abs(ours[each][1] - theirs[each][1]).max() for each in theirs if not each.endswith("constant"))
        assert apart <= metric.error_bound(resolution).max()
        assert apart > 0.1 or metric.name != "auroc"


@pytest.mark.parametrize("corrected", [True, False])
def test_what_chance_adds_is_that_of_all_samples(corrected: bool) -> None:
    """Identical classes of 30,000 samples, of which a block has 8,192: their order statistics vary as 30,000 do."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90_000, 4)).astype(np.float32), np.arange(90_000) % 3
    block, exact = Sketch().block(sketched(x, y, 3, batch=10**5)), Block.from_samples(x, y, 3)
    np.testing.assert_array_equal(block.counts, [8192] * 3)
    np.testing.assert_array_equal(block.measured, [30_000] * 3)
    for metric, variable, apart in (
        (Overlap(corrected=corrected), "overlap_pairs", 0.008),
        (KS(corrected=corrected), "ks", 0.002),
        (MutualInformation(corrected=corrected), "mutual_information", 1e-4),
        (Entropy(corrected=corrected), "entropy", 0.005),
        (Wasserstein(corrected=corrected), "wasserstein", 0.003),
    ):
        ours, theirs = metric.compute(block)[variable][1], metric.compute(exact)[variable][1]
        np.testing.assert_allclose(ours, theirs, atol=apart, err_msg=variable)
    assert (PLAIN.compute(block)["overlap_pairs"][1] < 1 + 1e-12).all()


CROWDED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": torch.nn.functional.gelu,
    "silu": lambda z: torch.nn.functional.silu(1.5 * z),
    "a value that many share": lambda z: torch.where(abs(z + 0.6) < 0.4, -0.1234567, z),
}


def crowded(name: str, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Samples of two classes, most of which are next to one value; a few more than are kept."""
    z = torch.from_numpy(np.random.default_rng(0).normal(-0.6, 0.8, (17_000, 2)).astype(dtype))
    y = np.arange(len(z)) % 2
    return CROWDED[name](z + 0.1 * torch.from_numpy(y.astype(dtype))[:, None]).numpy(), y


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, np.float32) for name in CROWDED), ("gelu", np.float64), ("silu", np.float64)],
)
def test_where_values_crowd_cells_are_finer(name: str, dtype: type) -> None:
    x, y = crowded(name, dtype)
    state, exact = sketched(x, y, 2), Block.from_samples(x, y, 2)
    assert (state["focus"] >= 0).any()
    resolution, block = ALL.resolution(state), ALL.block(state)
    assert resolution.cell_share().max() < 0.012
    assert not resolution.ambiguous.any()
    assert relative(block, exact) <= resolution.value_error <= 2**-8
    without = counted(x, y, 2)
    assert (without["focus"] < 0).all()
    assert ALL.resolution(without).cell_share().max() > 0.02
    for metric, apart in ((KS(), 0.002), (AUROC(), 1e-4), (Overlap(), 0.01), (Entropy(), 0.02)):
        ours, theirs, bound = metric.compute(block), metric.compute(exact), metric.error_bound(resolution)
        for variable in (v for v in theirs if not v.endswith("constant")):
            error = abs(ours[variable][1] - theirs[variable][1])
            assert (error <= np.minimum(apart, bound)).all(), variable


def later(name: str, dtype: type) -> dict[str, np.ndarray]:
    """What may follow on samples that crowd."""
    x, _ = crowded(name, dtype)
    rng, least, most = np.random.default_rng(1), np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    return {
        "the same": x[:2000],
        "few powers of two more": np.append(x[:2000], [[1e-9, -1e-9]], 0).astype(dtype),
        "all powers of two": np.append(x[:2000], [[least, -least], [-most, -most]], 0).astype(dtype),
        "infinities and zeros": rng.choice(np.array([np.inf, -np.inf, 0, -0.0, 1], dtype), (2000, 2)),
        "other scales": (x[:2000] * np.exp2(rng.integers(-60, 60, (2000, 1)))).astype(dtype),
        "adversarial": (x[:2000] * (1 + 1e-4 * rng.integers(-3, 4, (2000, 1)))).astype(dtype),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("after", later("gelu", np.float32))
@pytest.mark.parametrize("name", ["gelu", "a value that many share"])
def test_bounds_hold_whatever_follows_on_samples_that_crowd(name: str, after: str, dtype: type) -> None:
    first, codes = crowded(name, dtype)
    x = np.concatenate([first, later(name, dtype)[after]])
    y = np.concatenate([codes, np.arange(len(x) - len(first)) % 2])
    state, exact = sketched(x, y, 2), Block.from_samples(x, y, 2)
    given_up = dtype == np.float64 and after == "all powers of two"  # of which there are too many
    assert (state["focus"] >= 0).any() != given_up
    np.testing.assert_array_equal(state["signed"].sum(2), np.broadcast_to(np.bincount(y)[:, None], (2, 2)))
    last = sketched(x[17_000:], y[17_000:], 2)
    merged = Sketch().merge(sketched(first, codes, 2), last), Sketch().merge(last, sketched(first, codes, 2))
    assert all(torch.equal(each[key], state[key]) for each in merged for key in state)
    for each in (state, *merged):
        resolution, block = ALL.resolution(each), ALL.block(each)
        assert relative(block, exact) <= resolution.value_error
        for metric in (KS(), AUROC(), Overlap(), Entropy()):
            ours, theirs, bound = metric.compute(block), metric.compute(exact), metric.error_bound(resolution) + 1e-12
            for variable in (v for v in theirs if not v.endswith("constant")):
                assert (abs(ours[variable][1] - theirs[variable][1]) <= bound).all(), variable


def test_counts_of_a_histogram_are_of_all_samples() -> None:
    x, y = draw("relu", 60_000)
    found = Histogram().compute(Sketch().block(sketched(x, y, 3)))
    exact = Histogram().compute(Block.from_samples(x, y, 3))
    total = found["histogram"][1].sum(-1) + found["histogram_atoms"][1].sum(-1)
    np.testing.assert_array_equal(total, np.broadcast_to(np.bincount(y)[:, None], total.shape))
    np.testing.assert_array_equal(found["histogram_atom"][1], exact["histogram_atom"][1])
    np.testing.assert_allclose(found["histogram_atoms"][1], exact["histogram_atoms"][1], atol=2)


def test_a_class_of_enough_samples_counts_although_few_represent_it() -> None:
    """As in a store, min_count is of the samples: 64 represent a class of 600 beside one of 400,000."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [400_000, 600, 499])
    x = (rng.normal(size=(len(y), 1)) + y[:, None]).astype(np.float32)
    state = sketched(x, y, 3, batch=10**6)
    block, exact, resolution = Sketch().block(state), Block.from_samples(x, y, 3), Sketch().resolution(state)
    assert block.counts[1] < 100
    for metric in (
        KS(500),
        AUROC(500),
        Wasserstein(500),
        Entropy(min_count=500),
        MutualInformation(min_count=500),
        Overlap(min_count=500),
        Overlap(min_count=500, corrected=False),
    ):
        ours, theirs = metric.compute(block), metric.compute(exact)
        for variable in theirs:
            np.testing.assert_array_equal(np.isnan(ours[variable][1]), np.isnan(theirs[variable][1]))
        if not isinstance(metric, Wasserstein):
            bound = metric.error_bound(resolution)
            assert (bound < np.inf).all()
            for variable in (v for v in theirs if not v.endswith("constant")):
                assert (np.nan_to_num(abs(ours[variable][1] - theirs[variable][1])) <= bound).all()


@settings(max_examples=50)
@given(
    sizes=st.tuples(st.integers(2, 300), st.integers(2, 20_000)),
    shares=st.lists(st.floats(0.001, 1), min_size=2, max_size=132),
    seed=st.integers(0, 2**32),
)
def test_no_cells_add_more_to_the_total_variation_than_is_said(
    sizes: tuple[int, int], shares: list[float], seed: int
) -> None:
    a, b = sizes
    cells = np.random.default_rng(seed).multinomial(a + b, np.array(shares) / sum(shares))
    most = float(most_variation(a, b, np.array([len(shares)]))[0])
    assert expected_variation(cells[:, None], a, np.array([b])).sum() <= most
    assert most <= 0.52 * np.sqrt(len(shares) * (1 / a + 1 / b) * (1 + len(shares) / 2 / (a + b)))


def test_bounds_of_metrics_in_cells_are_those_of_the_edges() -> None:
    """Not 31 times the largest share of a cell, and finite for classes of a few samples."""
    x, y = draw("normal", 90_000)
    resolution = Sketch().resolution(sketched(x, y, 3))
    assert PLAIN.error_bound(resolution).max() < 0.1
    assert Overlap().error_bound(resolution).max() < 0.16
    assert MutualInformation().error_bound(resolution).max() < 0.5
    assert Entropy().error_bound(resolution).max() < 0.6
    x, y = np.concatenate([x, x[:10]]), np.append(y, [3] * 10)
    assert Overlap(bins=32).error_bound(Sketch().resolution(sketched(x, y, 4))).max() < 10


def test_memory_is_what_is_said_whatever_the_samples() -> None:
    spec, sketch = Spec(200, 10, torch.float32, CPU), Sketch()
    state = sketch.init(spec)
    for samples in (0, 700, 41_000, 90_000):
        y = torch.arange(samples - int(state["count"].sum())) % 10
        state = sketch.update(state, torch.ones(len(y), 200), y)
        held = sum(tensor.nbytes for tensor in state.values())
        assert held <= sketch.state_bytes(spec, samples) <= sketch.state_bytes(spec) < 140e6
    assert len(state["x"]) == 0, "they were never counted"
    assert sketch.state_bytes(spec, 700) < 1.2e6


@pytest.mark.parametrize("make", [sketched, counted])
def test_inputs_of_other_dtypes_strides_and_no_rows(make: Callable[..., State]) -> None:
    x, y = draw("normal", 600)
    sketch, codes = Sketch(), torch.from_numpy(y)
    expected = sketch.block(make(x, y, 3)).values
    columns = torch.from_numpy(np.asfortranarray(x))
    assert not columns.is_contiguous()
    for batch in (columns, columns.double()):
        state = sketch.update(make(x[:0], y[:0], 3), batch, codes)
        np.testing.assert_array_equal(sketch.block(state).values, expected)
    none = sketch.update(sketch.init(spec_of(x, 3)), torch.empty(0, 6), codes[:0])
    assert sketch.block(none).values.shape == (6, 0)
    assert sketch.resolution(none).exact


def test_more_samples_than_a_cell_counts_are_refused() -> None:
    state = counted(np.ones((4, 1), np.float32), np.zeros(4, np.int64), 1)
    one = state["signed"][0].argmax()
    state["count"][0] += 2**31 - 5
    state["signed"][0].view(-1)[one] += 2**31 - 5
    assert (Sketch().block(state)[0] == 1).all()
    state["count"][0] += 1
    with pytest.raises(pk.errors.DataError, match="2147483648 samples"):
        Sketch().block(state)


def test_at_least_two_samples_are_made() -> None:
    with pytest.raises(pk.errors.DataError, match="samples=1"):
        Sketch(samples=1)
