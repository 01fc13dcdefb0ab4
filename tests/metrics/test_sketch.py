"""Samples made of a sketch are the real ones, to the errors that its docstring says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import ks_2samp, mannwhitneyu, wasserstein_distance

import probekit as pk
from probekit.metrics import AUROC, KS, Block, MutualInformation, Overlap, Quantile, Spec, State, Wasserstein, median
from probekit.metrics.sketch import Sketch

CPU = torch.device("cpu")
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]

ACTIVATIONS: dict[str, tuple[Draw, tuple[float, float] | None]] = {
    "normal": (lambda rng, shape: rng.normal(size=shape), None),
    "relu": (lambda rng, shape: rng.normal(size=shape).clip(0), (0, np.inf)),
    "sigmoid": (lambda rng, shape: 1 / (1 + np.exp(-6 * rng.normal(size=shape))), (0, 1)),
    "heavy-tailed": (lambda rng, shape: rng.standard_cauchy(shape).clip(-1000, 1000), None),
    "tanh": (lambda rng, shape: np.tanh(rng.normal(size=shape)), (-1, 1)),
}
activations = pytest.mark.parametrize("name", ACTIVATIONS)


def spec_of(x: np.ndarray, classes: int, bounds: tuple[float, float] | None = None) -> Spec:
    return Spec(x.shape[1], classes, torch.float32, CPU, bounds)


def sketched(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    bounds: tuple[float, float] | None = None,
    sketch: Sketch | None = None,
    batch: int = 512,
) -> State:
    sketch = sketch or Sketch()
    state = sketch.init(spec_of(x, classes, bounds))
    for start in range(0, len(x), batch):
        rows = slice(start, start + batch)
        state = sketch.update(state, torch.from_numpy(x[rows]), torch.from_numpy(y[rows]))
    return state


def draw(name: str, samples: int, nodes: int = 6, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, samples)
    make, _ = ACTIVATIONS[name]
    x = make(rng, (samples, nodes)).astype(np.float32)
    x = np.where((y == 1)[:, None], (x**2 if name == "sigmoid" else x * np.float32(0.7)), x)  # so that classes differ
    return x.astype(np.float32), y


def distance_from_bounds(values: np.ndarray, bounds: tuple[float, float] | None) -> np.ndarray:
    values = values.astype(np.float64)
    return np.minimum(values, 1 - values) if bounds == (0, 1) else abs(values)


@activations
@pytest.mark.parametrize("samples", [900, 40_000])
def test_samples_are_order_statistics_to_within_half_a_cell(name: str, samples: int) -> None:
    x, y = draw(name, samples)
    bounds = ACTIVATIONS[name][1]
    sketch = Sketch()
    state = sketched(x, y, 4, bounds)
    block, exact = sketch.block(state), Block.from_samples(x, y, 4)
    assert block.values.dtype == np.float32
    for code in range(3):
        n, m = exact.counts[code], block.counts[code]
        assert m == n if samples == 900 else m == pytest.approx(4096, rel=0.02)
        real = exact[code][:, ((2 * np.arange(m) + 1) * n) // (2 * m)]
        np.testing.assert_array_equal(np.sort(block[code]), block[code])
        np.testing.assert_array_equal(block[code] == 0, real == 0)
        far = abs(block[code].astype(np.float64) - real)
        distance = distance_from_bounds(real, bounds)
        assert (far <= distance * 2**-8)[distance >= 2**-17].all()
        assert (far <= distance / 4).all()
        assert (far[distance > 0] > 0).any()  # they aren't the very samples
    assert block.counts[3] == 0
    errors = sketch.errors(state)
    assert errors["value_error"] == 2**-8
    assert errors["rank_error"] == (0 if samples == 900 else 1 / (2 * block.counts[:3].min()))
    distance, least = distance_from_bounds(x, bounds), 2.0**-30 if bounds == (0, 1) else 2.0**-17
    tiny = (distance > 0) & (distance < least)
    assert errors["wide_share"] == pytest.approx(max(tiny[y == code].mean(0).max() for code in range(3)), abs=2e-3)


@activations
def test_metrics_are_the_exact_ones_to_the_error_of_ranks(name: str) -> None:
    x, y = draw(name, 40_000, nodes=3)
    block = Sketch().block(sketched(x, y, 3, ACTIVATIONS[name][1]))
    ks, auroc, overlap = (metric.compute(block) for metric in (KS(), AUROC(), Overlap()))
    exact = Overlap().compute(Block.from_samples(x, y, 3))
    # Beside ranks, what falls into one cell, 0.8 % wide: at most 0.4 % of a class of these.
    ranks = 2 / 4000
    for node in range(3):
        a, b = x[y == 0, node], x[y == 1, node]
        assert ks["ks"][1][0, 1, node] == pytest.approx(ks_2samp(a, b).statistic, abs=ranks + 0.004)
        u = mannwhitneyu(b, a).statistic / (len(a) * len(b))
        assert auroc["auroc"][1][0, 1, node] == pytest.approx(u, abs=ranks)
        assert overlap["overlap_pairs"][1][0, 1, node] == pytest.approx(
            exact["overlap_pairs"][1][0, 1, node], abs=0.016
        )
        scale = float(abs(a).mean() + abs(b).mean())
        distance = Wasserstein().compute(block)["wasserstein"][1][0, 1, node]
        assert distance == pytest.approx(wasserstein_distance(a, b), abs=(2**-8 + 0.02) * scale)


@activations
def test_medians_and_quantiles_lie_between_the_exact_ones_next_to_them(name: str) -> None:
    x, y = draw(name, 40_000)
    q = np.array([0.05, 0.25, 0.5, 0.9])
    block = Sketch().block(sketched(x, y, 3, ACTIVATIONS[name][1]))
    found = Quantile(q).compute(block)["quantile"][1]
    np.testing.assert_allclose(median.compute(block)["median"][1], found[:, 2], rtol=1e-6)
    for code in range(3):
        ours = x[y == code].astype(np.float64)
        low, high = (np.quantile(ours, q + shift, axis=0) for shift in (-2 / 4000, 2 / 4000))
        margin = np.maximum(abs(low), abs(high)) * 2**-8 + 1e-6
        assert ((found[code] >= low - margin) & (found[code] <= high + margin)).all()


def test_numbers_of_eight_bits_zero_and_infinity_are_exact() -> None:
    rng = np.random.default_rng(0)
    x = rng.choice(np.float32([0, -0.0, 1, -1, 6, 0.5, 255, -0.125, np.inf, -np.inf, 2.0**-17]), (3000, 4))
    y = rng.integers(0, 2, 3000)
    block = Sketch().block(sketched(x, y, 2))
    np.testing.assert_array_equal(block.values, Block.from_samples(x, y, 2).values)


def test_the_bounds_of_a_sigmoid_are_exact_and_what_is_next_to_them_is_not_lost() -> None:
    ends = np.float32([0, 2.0**-30, 2.0**-20, 0.5, 1 - 2.0**-10, 1 - 2.0**-23, 1 - 2.0**-24, 1])
    x, y = np.tile(ends, 5)[:, None], np.zeros(40, np.int64)
    bounded, free = (Sketch().block(sketched(x, y, 1, bounds)) for bounds in ((0, 1), None))
    np.testing.assert_array_equal(bounded[0][0], np.repeat(ends, 5))
    assert len(np.unique(free[0])) < len(ends)
    outside = Sketch().block(sketched(np.float32([[-1e-9], [1 + 2e-7]]), np.zeros(2, np.int64), 1, (0, 1)))
    np.testing.assert_array_equal(outside[0], [[0, 1]])


@pytest.mark.parametrize("magnitude", [2.0**-126, 1e-30, 1e-7, 1030, 1e4, 1e30, 3e38])
def test_what_is_far_too_small_or_large_keeps_its_order_and_is_within_a_quarter(magnitude: float) -> None:
    x = np.float32(magnitude) * np.float32([[-1.1], [-0.0], [1], [1.05], [1.1]])
    state = sketched(x, np.zeros(5, np.int64), 1)
    found = Sketch().block(state)[0][0]
    np.testing.assert_allclose(found, np.sort(x[:, 0]), rtol=0.25)
    assert Sketch().errors(state)["wide_share"] == 0.8


def test_what_is_no_normal_float_is_zero_or_infinite() -> None:
    x = np.float32([1e-38, -1e-38, 1e-45, 3.402e38, -3.402e38])[:, None]
    found = Sketch().block(sketched(x, np.zeros(5, np.int64), 1))
    np.testing.assert_array_equal(found[0], [[-np.inf, 0, 0, 0, np.inf]])


def test_every_float32_is_in_its_cell() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 60_000, dtype=np.uint32)
    x = bits.view(np.float32)
    x = x[np.isfinite(x) & (abs(x) < 2.0**127) & (abs(x) > 2.0**-126)]
    sketch = Sketch(samples=len(x))
    found = sketch.block(sketched(x[:, None], np.zeros(len(x), np.int64), 1, sketch=sketch))[0][0]
    np.testing.assert_allclose(found, np.sort(x), rtol=0.25)
    narrow = (abs(np.sort(x)) >= 2.0**-17) & (abs(np.sort(x)) < 1020)
    assert narrow.sum() > 3000
    np.testing.assert_allclose(found[narrow], np.sort(x)[narrow], rtol=2**-8)


@given(
    x=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 3)),
        elements=st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0]),
    ),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    order=st.randoms(use_true_random=False),
    bounds=st.sampled_from([None, (0, 1)]),
)
def test_split_and_merged_in_any_order_it_is_the_same(
    x: np.ndarray, cuts: list[int], order: object, bounds: tuple[float, float] | None
) -> None:
    y = np.arange(len(x)) % 3
    sketch = Sketch()
    whole = sketched(x, y, 4, bounds)
    parts = list(zip(np.split(x, sorted(cuts)), np.split(y, sorted(cuts)), strict=True))
    order.shuffle(parts)
    merged = sketch.init(spec_of(x, 4, bounds))
    for ours, codes in parts:
        before = sketched(ours, codes, 4, bounds)
        merged = sketch.merge(before, merged)
    assert whole.keys() == merged.keys()
    assert all(torch.equal(whole[key], merged[key]) for key in whole)
    np.testing.assert_array_equal(whole["count"], np.bincount(y, minlength=4))


def test_merge_changes_neither() -> None:
    x, y = draw("normal", 100)
    a, b = sketched(x, y, 3), sketched(x + 1, y, 3)
    Sketch().merge(a, b)
    assert torch.equal(a["signed"], sketched(x, y, 3)["signed"])
    assert torch.equal(b["signed"], sketched(x + 1, y, 3)["signed"])


def test_a_class_may_come_later() -> None:
    x, y = draw("relu", 3000)
    sketch = Sketch()
    early, late = sketched(x[y < 2], y[y < 2], 2), sketch.init(spec_of(x, 1))
    state = {key: torch.cat([early[key], late[key]]) for key in early}
    state = sketch.update(state, torch.from_numpy(x[y == 2]), torch.from_numpy(y[y == 2]))
    whole = sketched(x, y, 3)
    assert all(torch.equal(whole[key], state[key]) for key in whole)


def test_blocks_of_nodes_are_the_block() -> None:
    x, y = draw("normal", 2000, nodes=7)
    state = sketched(x, y, 3)
    blocks = list(Sketch().blocks(state, nodes=3))
    assert [block.nodes for block in blocks] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([block.values for block in blocks]), Sketch().block(state).values)


def test_classes_of_different_size_weigh_what_they_should() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [50_000, 4000, 20])
    x = (rng.normal(size=(len(y), 2)) + y[:, None]).astype(np.float32)
    sketch = Sketch()
    state = sketched(x, y, 4)
    block, exact = sketch.block(state), Block.from_samples(x, y, 4)
    np.testing.assert_array_equal(block.counts, [50_000 * 12_288 // 54_020, 4000 * 12_288 // 54_020, 20, 0])
    assert sketch.errors(state)["rank_error"] == 1 / (2 * block.counts[1])
    for metric, name in ((MutualInformation(), "mutual_information"), (AUROC(), "auroc_rest")):
        np.testing.assert_allclose(metric.compute(block)[name][1], metric.compute(exact)[name][1], atol=0.005)


def test_memory_is_what_is_said_whatever_the_samples() -> None:
    spec = Spec(200, 10, torch.float32, CPU)
    state = Sketch().init(spec)
    assert Sketch().state_bytes(spec) == sum(tensor.nbytes for tensor in state.values()) < 64e6
    after = Sketch().update(state, torch.ones(700, 200), torch.arange(700) % 10)
    assert after is state
    assert Sketch().state_bytes(spec) == sum(tensor.nbytes for tensor in after.values())
    bounded = Spec(200, 10, torch.float32, CPU, (0, 1))
    assert Sketch().state_bytes(bounded) == sum(tensor.nbytes for tensor in Sketch().init(bounded).values())


def test_inputs_of_other_dtypes_strides_and_no_rows() -> None:
    x, y = draw("normal", 600)
    sketch, codes = Sketch(), torch.from_numpy(y)
    expected = sketched(x, y, 3)["signed"]
    columns = torch.from_numpy(np.asfortranarray(x))
    assert not columns.is_contiguous()
    assert torch.equal(sketch.update(sketch.init(spec_of(x, 3)), columns, codes)["signed"], expected)
    assert torch.equal(sketch.update(sketch.init(spec_of(x, 3)), columns.double(), codes)["signed"], expected)
    none = sketch.update(sketch.init(spec_of(x, 3)), torch.empty(0, 6), codes[:0])
    assert not none["signed"].any()
    assert sketch.block(none).values.shape == (6, 0)
    assert sketch.errors(none)["rank_error"] == 0


def test_more_samples_than_a_cell_counts_are_refused() -> None:
    state = sketched(np.ones((4, 1), np.float32), np.zeros(4, np.int64), 1)
    one = state["signed"].argmax()
    state["count"] += 2**31 - 5
    state["signed"].view(-1)[one] += 2**31 - 5
    assert (Sketch().block(state)[0] == 1).all()
    state["count"] += 1
    with pytest.raises(pk.errors.DataError, match="2147483648 samples"):
        Sketch().block(state)


def test_at_least_two_samples_are_made() -> None:
    with pytest.raises(pk.errors.DataError, match="samples=1"):
        Sketch(samples=1)
