"""Metrics in a few lines, and what every built-in metric keeps to."""

from __future__ import annotations

import inspect
import pickle
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import probekit as pk
from probekit.metrics import (
    AUROC,
    CKA,
    KS,
    PWCCA,
    RSA,
    SVCCA,
    AlwaysOn,
    Block,
    ColumnMetric,
    Count,
    Dead,
    DPrime,
    EffectiveRank,
    Entropy,
    Fisher,
    GradientNorm,
    Histogram,
    LinearProbe,
    Max,
    Mean,
    Min,
    MutualInformation,
    NeuralCollapse,
    Overlap,
    ParticipationRatio,
    Perplexity,
    Procrustes,
    Quantile,
    RankMe,
    SampleMetric,
    Saturation,
    Selectivity,
    Separability,
    Silhouette,
    Sparsity,
    StableRank,
    State,
    Std,
    StreamingMetric,
    TopSamples,
    TwoNN,
    Var,
    Wasserstein,
    median,
)

Stream = Callable[..., State]
STREAMING = [Mean(), Std(), Std(ddof=1), Sparsity()]
STREAMING += [Count(), Var(), Min(), Max(), Dead(), AlwaysOn(), Saturation(bounds=(-1, 1)), Selectivity(), Perplexity()]
STREAMING += [DPrime(), Fisher(), Separability()]
OF_SITES = [
    GradientNorm(),
    EffectiveRank(),
    ParticipationRatio(),
    RankMe(),
    StableRank(),
]  # their states are of whole sites
COLUMN = [
    median,
    Quantile([0.1, 0.8]),
    Histogram(bins=5),
    Histogram(bins=5, edges="width"),
    Overlap(bins=5, min_count=1),
    KS(min_count=1),
    AUROC(min_count=1),
    Wasserstein(min_count=1),
    MutualInformation(bins=5, min_count=1),
    Entropy(bins=5, min_count=1),
]
SAMPLE = [LinearProbe(), Silhouette(), NeuralCollapse(), TopSamples(), TwoNN()]
BUILT_IN = [*STREAMING, *OF_SITES, *COLUMN, *SAMPLE, CKA(), RSA(), Procrustes(), SVCCA(), PWCCA()]
named = {"ids": lambda metric: f"{metric.name}-{dict(metric.parameters)}"}


@pk.metric
def spread(values: np.ndarray) -> np.ndarray:
    """Range of each class at each node.

    A second paragraph.
    """
    return values[-1] - values[0]


def test_a_decorated_function_is_a_column_metric_of_one_class() -> None:
    x, y = np.array([[3.0, 1], [1, 1], [2, 8], [5, 0]]), np.array([0, 0, 2, 2])
    dims, found = spread.compute(Block.from_samples(x, y))["spread"]
    assert dims == ("label", "node")
    np.testing.assert_array_equal(found, [[2, 0], [np.nan, np.nan], [3, 8]])


def test_a_decorated_function_has_its_name_and_summary_and_can_be_called() -> None:
    assert isinstance(spread, ColumnMetric)
    assert spread.name == "spread"
    assert (inspect.getdoc(spread) or "").splitlines()[0] == "Range of each class at each node."
    np.testing.assert_array_equal(spread(np.array([[1.0], [4.0]])), [3])


def test_a_function_of_the_wrong_shape_is_told_what_was_expected() -> None:
    @pk.metric
    def total(values: np.ndarray) -> np.ndarray:
        return values.sum()

    with pytest.raises(pk.errors.PluginError, match=r"'total' returned shape \(\).*shape \(4,\)"):
        total.compute(Block.from_samples(np.ones((5, 4)), np.zeros(5)))


@pytest.mark.parametrize("metric", BUILT_IN, **named)
def test_built_in_metrics_say_what_they_are(metric: pk.metrics.Metric) -> None:
    assert isinstance(metric, StreamingMetric | SampleMetric) != isinstance(metric, ColumnMetric)
    assert metric.version >= 1
    assert all(isinstance(key, str) for key in metric.parameters)
    summary = (inspect.getdoc(metric) or "").splitlines()[0]
    assert summary.endswith(".")
    assert "(" not in summary  # a sentence, not the signature that dataclasses write


def test_parameters_are_the_fields() -> None:
    assert Std(ddof=1).parameters == {"ddof": 1}
    assert Overlap().parameters == {"bins": None, "null": None, "min_count": 10, "pairs": None, "corrected": True}


samples = st.lists(st.tuples(st.integers(-4, 4), st.integers(-2, 2), st.integers(0, 3)), min_size=1, max_size=40)


@pytest.mark.parametrize("metric", [*STREAMING, *OF_SITES], **named)
@settings(max_examples=25)
@given(rows=samples, cuts=st.lists(st.integers(0, 40), max_size=4), swap=st.booleans())
def test_any_split_and_any_merge_order_give_the_same(
    metric: StreamingMetric, stream: Stream, rows: list[tuple[int, int, int]], cuts: list[int], swap: bool
) -> None:
    table = np.array(rows)
    x, y = table[:, :2] / 3, table[:, 2]
    whole = metric.finalize(stream(metric, x, y, 4))
    cut = min(cuts, default=0)
    parts = [stream(metric, x[:cut], y[:cut], 4), stream(metric, x[cut:], y[cut:], 4, tuple(cuts[1:3]))]
    merged = metric.finalize(metric.merge(*(parts[::-1] if swap else parts)))
    split = metric.finalize(stream(metric, x, y, 4, tuple(min(at, len(x)) for at in cuts)))
    for name, (dims, array) in whole.items():
        for other in (merged, split):
            assert other[name][0] == dims
            np.testing.assert_allclose(other[name][1], array, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("metric", [*STREAMING, *OF_SITES], **named)
def test_update_merge_and_finalize_change_nothing_they_are_given(metric: StreamingMetric, stream: Stream) -> None:
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    state = stream(metric, x.numpy(), np.array([0, 1]), 2)
    kept, inputs = {key: value.clone() for key, value in state.items()}, x.clone()
    metric.update(state, x, torch.tensor([1, 1]))
    metric.merge(state, state)
    first, second = metric.finalize(state), metric.finalize(state)
    assert torch.equal(x, inputs)
    assert all(torch.equal(state[key], kept[key]) for key in kept)
    for name, (_, array) in first.items():
        np.testing.assert_array_equal(second[name][1], array)


@pytest.mark.parametrize("metric", STREAMING, **named)
def test_states_of_blocks_of_nodes_stand_side_by_side(metric: StreamingMetric, stream: Stream) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)
    whole, parts = stream(metric, x, y, 3), [stream(metric, x[:, nodes], y, 3) for nodes in (slice(0, 2), slice(2, 5))]
    for key, value in whole.items():
        assert value.shape[0] == 3
        joined = torch.cat([part[key] for part in parts], dim=1) if value.ndim > 1 else parts[0][key]
        assert torch.equal(joined, value)


@pytest.mark.parametrize("metric", COLUMN, **named)
@settings(max_examples=25)
@given(data=st.data())
def test_permuting_classes_or_choosing_nodes_permutes_or_chooses_results(
    metric: ColumnMetric, data: st.DataObject
) -> None:
    table = np.array(data.draw(samples))
    x, y = table[:, :2].astype(np.float32), table[:, 2]
    order = np.array(data.draw(st.permutations(range(4))))
    whole = metric.compute(Block.from_samples(x, y, 4))
    permuted = metric.compute(Block.from_samples(x, order[y], 4))
    second = metric.compute(Block.from_samples(x[:, 1:], y, 4))
    for name, (dims, array) in whole.items():
        back = permuted[name][1]
        for axis, dim in enumerate(dims):
            back = back.take(order, axis) if dim in ("label", "label_b") else back
        np.testing.assert_allclose(back, array, rtol=1e-12)
        chosen = array.take([1], dims.index("node"))
        if "atom" in dims:  # as many as the node with most of them has
            chosen = chosen[..., : second[name][1].shape[-1]]
        np.testing.assert_array_equal(second[name][1], chosen)


@pytest.mark.parametrize("metric", [*STREAMING, *OF_SITES], **named)
@settings(max_examples=25)
@given(data=st.data())
def test_streaming_metrics_too_permute_with_classes_and_choose_with_nodes(
    metric: StreamingMetric, stream: Stream, data: st.DataObject
) -> None:
    table = np.array(data.draw(samples))
    x, y = table[:, :2].astype(np.float32), table[:, 2]
    order = np.array(data.draw(st.permutations(range(4))))
    whole = metric.finalize(stream(metric, x, y, 4))
    permuted = metric.finalize(stream(metric, x, order[y], 4))
    second = metric.finalize(stream(metric, x[:, 1:], y, 4))
    for name, (dims, array) in whole.items():
        back = permuted[name][1]
        for axis, dim in enumerate(dims):
            back = back.take(order, axis) if dim in ("label", "label_b") else back
        np.testing.assert_allclose(back, array, rtol=1e-12, atol=1e-12)
        if "node" in dims:
            np.testing.assert_array_equal(second[name][1], array.take([1], dims.index("node")))


@pytest.mark.parametrize("metric", COLUMN, **named)
def test_a_block_stays_as_it_is(metric: ColumnMetric) -> None:
    block = Block.from_samples(np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 3)
    kept = block.values.copy()
    metric.compute(block)
    np.testing.assert_array_equal(block.values, kept)


def test_the_blocks_of_a_split_share_results_that_are_computed_once() -> None:
    block = Block.from_samples(np.arange(300.0).reshape(3, 100), [0, 1, 0])
    made: list[int] = []
    for _ in range(2):
        for few in block.split(40):
            few.shared("nodes", lambda few=few: made.append(few.nodes))
    assert made == [40, 40, 20]
    assert block.split(100) == (block,)


def test_metrics_that_want_the_same_cells_share_them() -> None:
    block = Block.from_samples(np.random.default_rng(0).normal(size=(60, 40)), np.arange(60) % 3)
    edges = Histogram().compute(Block(block.values.copy(), block.offsets))["histogram_edges"][1]
    Overlap(bins=32).compute(block)
    block.values[...] += 100  # beyond every cell that was found so far, so that whoever finds cells anew is seen
    found = Histogram().compute(block)
    np.testing.assert_array_equal(found["histogram_edges"][1], edges)
    np.testing.assert_array_equal(found["histogram"][1][..., -1], np.full((3, 40), 20))
    assert not Entropy(bins=32, corrected=False).compute(block)["entropy"][1].any()
    assert not MutualInformation(bins=32).compute(block)["mutual_information"][1].any()
    assert (Histogram(bins=8).compute(block)["histogram_edges"][1] > 50).all()  # other cells, of the values as they are


def test_overlap_is_the_same_in_whatever_block_a_node_stands() -> None:
    rng = np.random.default_rng(0)
    x, y = np.maximum(rng.normal(size=(3000, 40)), 0), rng.integers(0, 12, 3000)
    whole, alone = (Overlap().compute(Block.from_samples(each, y)) for each in (x, x[:, 39:]))
    for name, (_, array) in alone.items():
        np.testing.assert_array_equal(array, whole[name][1][..., 39:])


def test_a_constant_node_is_one_of_equal_samples_of_all_classes() -> None:
    x = np.array([[2.0, 1, -0.0, np.inf], [2, 1, 0, np.inf], [2, 3, 0, np.inf]])
    np.testing.assert_array_equal(Block.from_samples(x, [0, 0, 2], 4).constant, [True, False, True, True])
    assert Block.from_samples(x[:0], [], 2).constant.all()


def test_a_decorated_function_goes_to_other_processes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_metrics.py").write_text(
        "import probekit as pk\n@pk.metric\ndef width(values):\n    return values[-1] - values[0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    ours = import_module("my_metrics").width
    sent = pickle.dumps(ours)
    assert pickle.loads(sent) is ours
    monkeypatch.delitem(sys.modules, "my_metrics")  # as in a process that hasn't imported it
    theirs = pickle.loads(sent)
    assert theirs is import_module("my_metrics").width is not ours
    assert theirs.name == "width"
    np.testing.assert_array_equal(theirs(np.array([[1.0], [4.0]])), [3])


@pytest.mark.parametrize("metric", BUILT_IN, **named)
def test_built_in_metrics_go_to_other_processes(metric: pk.metrics.Metric) -> None:
    assert pickle.loads(pickle.dumps(metric)) == metric


def test_a_local_or_hidden_function_says_why_it_goes_nowhere() -> None:
    @pk.metric
    def local(values: np.ndarray) -> np.ndarray:
        return values[0]

    with pytest.raises(pk.errors.PluginError, match=r"'local' can't be sent.*<locals>\.local.*top level"):
        pickle.dumps(local)
    with pytest.raises(pk.errors.PluginError, match=r"'spread' can't be sent.*isn't it"):
        pickle.dumps(pk.metric(spread.__wrapped__))


def test_block_groups_and_sorts_each_class() -> None:
    x, y = np.array([[3, 0], [1, 5], [2, 7], [0, 9]], dtype=np.float16), np.array([1, 3, 1, 1])
    block = Block.from_samples(x, y, 5)
    assert block.values.dtype == np.float32
    assert (block.nodes, block.classes) == (2, 5)
    np.testing.assert_array_equal(block.counts, [0, 3, 0, 1, 0])
    np.testing.assert_array_equal(block[1], [[0, 2, 3], [0, 7, 9]])
    np.testing.assert_array_equal(block[3], [[1], [5]])
    assert block[0].shape == (2, 0)
    assert [piece.values.tolist() for piece in block.split(1)] == [[row] for row in block.values.tolist()]


def test_complex_values_are_refused() -> None:
    with pytest.raises(pk.errors.DataError, match="complex64"):
        Block.from_samples(np.ones((2, 2), np.complex64), [0, 1])
