"""Laws of results: how they may change when the data change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from probekit._measure.accumulator import scope_of, side_by_side
from probekit._results.assemble import join
from probekit.metrics import ColumnMetric, SampleMetric, StreamingMetric, Variables
from probekit.metrics.block import Array
from probekit.testing.comparison import difference, require_same
from probekit.testing.computation import (
    Computation,
    batch_of,
    block_of,
    broken_by,
    computations,
    finalized,
    streamed,
)
from probekit.testing.data import DEAD, Data, mixed
from probekit.testing.law import Broken, every, law

__all__ = [
    "arguments_unchanged",
    "class_permutation",
    "dead_nodes",
    "infinities_stay_where_they_are",
    "missing_class",
    "node_subset",
    "one_class",
    "one_sample",
    "precision",
]

_CLASS_DIMS = ("label", "label_b")


def _of_nodes(metric: Any) -> bool:
    """Whether the metric is computed for blocks of nodes."""
    return isinstance(metric, ColumnMetric) or (isinstance(metric, StreamingMetric) and scope_of(metric) == "node")


@law(every)
def arguments_unchanged(metric: Any) -> None:
    """A metric doesn't change its arguments: other metrics get the same ones.

    Work on copies: x = x.clone(), np.sort(values) rather than values.sort(). Return new states, and add with + rather
    than += or add_. x.double() is x itself where that is float64 already: x.double().abs() rather than abs_().
    """
    for dtype in (np.float32, np.float64):
        data = mixed()
        _arguments(metric, replace(data, description=f"{data.description}, {dtype.__name__}", x=data.x.astype(dtype)))


def _arguments(metric: Any, data: Data) -> None:
    if isinstance(metric, ColumnMetric):
        block, kept = block_of(data), block_of(data)
        with broken_by("compute", data):
            metric.compute(block)
        _require_unchanged("compute", "block.values", block.values, kept.values, data)
    if isinstance(metric, SampleMetric):
        given = replace(data, x=data.x.copy(), y=data.y.copy(), target=data.target.copy())
        next(compute for compute in computations(metric) if compute.method == "compute_samples")(given)
        _require_unchanged("compute_samples", "a batch", given.x, data.x, data)
        _require_unchanged("compute_samples", "the codes", given.y, data.y, data)
        _require_unchanged("compute_samples", "the target", given.target, data.target, data)
    if isinstance(metric, StreamingMetric):
        _streaming_arguments(metric, data)


def _streaming_arguments(metric: StreamingMetric, data: Data) -> None:
    (x, y), (kept, _) = batch_of(metric, data), batch_of(metric, data)
    xs, kepts = (x, kept) if isinstance(x, list) else ([x], [kept])
    state = streamed(metric, data)
    before = {key: value.clone() for key, value in state.items()}
    for doing, call in (
        ("update", lambda: metric.update(state, x, y)),
        ("merge", lambda: metric.merge(state, state)),
        ("finalize", lambda: metric.finalize(state)),
    ):
        with broken_by(doing, data):
            call()
        for ours, theirs in zip(xs, kepts, strict=True):
            _require_unchanged(doing, "x", ours.numpy(), theirs.numpy(), data)
        _require_unchanged(doing, "y", y.numpy(), data.y, data)
        for key, value in before.items():
            _require_unchanged(doing, f"state[{key!r}]", state[key].numpy(), value.numpy(), data)


def _require_unchanged(doing: str, what: str, ours: Array, before: Array, data: Data) -> None:
    if ours.shape != before.shape or not np.array_equal(ours, before, equal_nan=ours.dtype.kind == "f"):
        raise Broken(f"{doing} changed its argument {what}", data.description)


@law(every)
def class_permutation(metric: Any) -> None:
    """Renumbering the classes renumbers the results along label and label_b, and changes nothing else.

    No class is special: none is the reference, and among classes that tie the first doesn't count more.
    """
    data, order = mixed(), np.array([2, 0, 3, 1])
    permuted = replace(data, description=f"{data.description}, class c as number {order.tolist()}[c]", y=order[data.y])
    for compute in computations(metric):
        back = _of_classes(compute(permuted), order)
        require_same(back, compute(data), ("after renumbering", "before"), permuted.description)


def _of_classes(variables: Variables, codes: Array) -> Variables:
    """The results of the classes `codes`."""
    chosen = {}
    for name, (dims, array) in variables.items():
        for axis in (dims.index(dim) for dim in _CLASS_DIMS if dim in dims):
            array = array.take(codes, axis)
        chosen[name] = dims, array
    return chosen


@law(_of_nodes)
def node_subset(metric: Any) -> None:
    """The results of a node don't depend on the other nodes, and blocks of nodes put side by side give those of all.

    The engine computes blocks of as many nodes as fit in memory. A metric that needs all nodes of a site at once is a
    streaming metric with scope = "site", or a sample metric. The state of a streaming metric of nodes has the axes
    (class,) or (class, node, ...), in this order.
    """
    data = mixed()
    blocks = [data.of_nodes(*bounds) for bounds in ((0, 1), (1, 5), (5, data.nodes))]
    for compute in (compute for compute in computations(metric) if compute.method != "compute_samples"):
        whole, found = compute(data), [compute(block) for block in blocks]
        of_nodes = {name: variable for name, variable in whole.items() if "node" in variable[0]}
        joined = join(metric, [{name: block[name] for name in of_nodes if name in block} for block in found])
        require_same(joined, of_nodes, ("from nodes 0, 1 to 4, and 5 to 6", "from all nodes"), data.description)
    if isinstance(metric, StreamingMetric):
        with broken_by("putting states side by side", data):
            state = side_by_side([streamed(metric, block) for block in blocks])
        words = ("from states of nodes 0, 1 to 4, and 5 to 6 side by side", "from one state of all nodes")
        require_same(
            finalized(metric, state, data), finalized(metric, streamed(metric, data), data), words, data.description
        )


@law(every)
def missing_class(metric: Any) -> None:
    """A class without samples is NaN in float variables along label and label_b, and changes nothing else.

    A 0 would look like a measured 0. Divide by the count itself (0 / 0 is NaN), and leave such classes out of means
    over classes.
    """
    there = np.array([0, 2, 3])
    data = mixed().take(np.flatnonzero(mixed().y != 1), "those that aren't of class 1")
    packed = replace(data, y=np.searchsorted(there, data.y), classes=len(there))
    for compute in computations(metric):
        found = compute(data)
        for name, (dims, array) in found.items():
            for dim in _CLASS_DIMS:
                if dim in dims and array.dtype.kind == "f":
                    _require_nan(array.take(1, dims.index(dim)), f"{name!r} at {dim} 1", data)
        words = ("with a class 1 that has no samples", "without that class")
        require_same(_of_classes(found, there), compute(packed), words, data.description)


def _require_nan(array: Array, what: str, data: Data) -> None:
    known = array[~np.isnan(array)]
    if known.size:
        raise Broken(f"{what} is {known.flat[0]}, not NaN", data.description)


@law(every)
def dead_nodes(metric: Any) -> None:
    """Nodes that have the same value, 0 or another, for every sample give a result without an exception or a warning.

    Say in the docstring which result. Rounding must not make it look like spread: subtract a sample before you sum
    squares.
    """
    data = mixed()
    everywhere = np.arange(data.number), np.arange(data.nodes)
    for compute in computations(metric):
        for value in (0.0, 3.5, 1 / 3):
            compute(data.with_values(everywhere[0], DEAD, value, f"node {DEAD} always {value:.2f}"))
            compute(data.with_values(*everywhere, value, f"all nodes always {value:.2f}"))


@law(every)
def one_sample(metric: Any) -> None:
    """A single sample, and classes of a single sample, give a result without an exception or a warning.

    An undefined result is NaN. In torch and numpy 0 / 0 is NaN, but np.mean of nothing warns.
    """
    data = mixed()
    firsts = [int(np.flatnonzero(data.y == code)[0]) for code in range(data.classes)]
    for compute in computations(metric):
        compute(data.take([3], "one"))
        compute(data.take(sorted(firsts), "one of each class"))


@law(every)
def one_class(metric: Any) -> None:
    """Samples of a single class give a result without an exception or a warning.

    Samples without labels are of a single class. A metric that compares classes gives NaN.
    """
    data = mixed()
    for compute in computations(metric):
        compute(replace(data, description=f"{data.description}, all as class 0", y=np.zeros_like(data.y), classes=1))


@law(every)
def infinities_stay_where_they_are(metric: Any) -> None:
    """Results that don't depend on the finite values of a node or class don't depend on its infinities either.

    A product with a one-hot matrix spreads infinities (0 × ∞ is NaN), as does a cumulative sum: use index_add,
    torch.where and masks. NaN never reaches a metric.
    """
    data = mixed()
    of_class = np.flatnonzero(data.y == 1)
    for compute in computations(metric):
        _require_within(compute, data, np.arange(3), [0], ("node",), 0)
        _require_within(compute, data, of_class[:3], np.arange(data.nodes), _CLASS_DIMS, 1)


def _require_within(
    compute: Computation, data: Data, rows: Array, nodes: Any, dims: tuple[str, ...], index: int
) -> None:
    """Infinities at some rows and nodes change no result at another index of `dims` that finite values don't change."""
    where = f"three samples at {dims[0].replace('label', 'class')} {index}"
    whole = _elsewhere(compute(data), dims, index)
    finite = [
        _elsewhere(compute(data.with_values(rows, nodes, value, f"{value} for {where}")), dims, index)
        for value in (50.0, -50.0, 3.0)
    ]
    apart = {
        name: variable
        for name, variable in whole.items()
        if not any(difference({name: one[name]}, {name: variable}, ("", "")) for one in finite if name in one)
    }
    for value in (np.inf, -np.inf):
        changed = data.with_values(rows, nodes, value, f"{value} for {where}")
        found = _elsewhere(compute(changed), dims, index)
        kept = {name: found[name] for name in apart if name in found}
        require_same(kept, apart, (f"beside {value}", "beside finite values"), changed.description)


def _elsewhere(variables: Variables, along: tuple[str, ...], index: int) -> Variables:
    """The variables that have such dims, with 0 at `index` of these dims."""
    left = {}
    for name, (dims, array) in variables.items():
        axes = [axis for axis, dim in enumerate(dims) if dim in along]
        if axes:
            left[name] = dims, array.copy()
            for axis in axes:
                np.moveaxis(left[name][1], axis, 0)[index] = 0
    return left


@law(every)
def precision(metric: Any) -> None:
    """The same numbers in float32 and in float64 give the same results, to 1 in 10,000.

    Sum in float64 (x.double()), whatever the dtype of the activations: float32 sums lose the digits that contain the
    spread around a large mean.
    """
    data = mixed()
    wide = replace(data, description=f"{data.description}, as float64", x=data.x.astype(np.float64))
    for compute in computations(metric):
        require_same(compute(data), compute(wide), ("as float32", "as float64"), data.description, rtol=1e-4)
