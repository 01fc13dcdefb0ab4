"""Laws of results: what becomes of them when the data change in ways that a metric mustn't mind."""

from __future__ import annotations

from typing import Any

import numpy as np

from probekit._measure.accumulator import scope_of, side_by_side
from probekit._results.assemble import join
from probekit.metrics import ColumnMetric, SampleMetric, StreamingMetric, Variables
from probekit.metrics.block import Array
from probekit.testing.data import DEAD, Data, mixed
from probekit.testing.law import Broken, every, law
from probekit.testing.runs import Run, batch_of, block_of, difference, finalized, require_same, runs, streamed, told

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
    """Whether it is computed for blocks of nodes."""
    return isinstance(metric, ColumnMetric) or (isinstance(metric, StreamingMetric) and scope_of(metric) == "node")


@law(every)
def arguments_unchanged(metric: Any) -> None:
    """What a metric is given stays as it is: other metrics are given the same.

    Work on copies: x = x.clone(), np.sort(values) rather than values.sort(); of states return new ones, and add with +
    rather than += or add_.
    """
    data = mixed()
    if isinstance(metric, ColumnMetric):
        block, kept = block_of(data), block_of(data)
        with told("compute of", data):
            metric.compute(block)
        _require_unchanged("compute", "block.values", block.values, kept.values, data)
    if isinstance(metric, SampleMetric):
        given = Data(data.says, data.x.copy(), data.y.copy(), data.classes)
        next(run for run in runs(metric) if run.says == "compute_samples")(given)
        _require_unchanged("compute_samples", "a batch", given.x, data.x, data)
        _require_unchanged("compute_samples", "the codes", given.y, data.y, data)
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
        with told(f"{doing} of", data):
            call()
        for ours, theirs in zip(xs, kepts, strict=True):
            _require_unchanged(doing, "x", ours.numpy(), theirs.numpy(), data)
        _require_unchanged(doing, "y", y.numpy(), data.y, data)
        for key, value in before.items():
            _require_unchanged(doing, f"state[{key!r}]", state[key].numpy(), value.numpy(), data)


def _require_unchanged(doing: str, what: str, ours: Array, before: Array, data: Data) -> None:
    if ours.shape != before.shape or not np.array_equal(ours, before, equal_nan=ours.dtype.kind == "f"):
        raise Broken(f"{doing} changed {what}, which it was given", data.says)


@law(every)
def class_permutation(metric: Any) -> None:
    """When the classes are numbered otherwise, the results along label and label_b are, and nothing else.

    No class is special: none is the reference, and of classes that tie it isn't the first that counts.
    """
    data, order = mixed(), np.array([2, 0, 3, 1])
    permuted = Data(f"{data.says}, class c as number {order.tolist()}[c]", data.x, order[data.y], data.classes)
    for run in runs(metric):
        back = _of_classes(run(permuted), order)
        require_same(back, run(data), ("numbered otherwise", "as before"), permuted.says)


def _of_classes(variables: Variables, codes: Array) -> Variables:
    """The results of some classes."""
    chosen = {}
    for name, (dims, array) in variables.items():
        for axis in (dims.index(dim) for dim in _CLASS_DIMS if dim in dims):
            array = array.take(codes, axis)
        chosen[name] = dims, array
    return chosen


@law(_of_nodes)
def node_subset(metric: Any) -> None:
    """The results of a node don't depend on the others, and blocks of nodes put side by side give those of all.

    The engine computes blocks of nodes, as many as fit in memory. What needs all nodes of a site at once is a streaming
    metric with scope = "site", or a sample metric. The state of a streaming metric of nodes has the axes (class,) or
    (class, node, ...), in this order.
    """
    data = mixed()
    parts = [data.of_nodes(*bounds) for bounds in ((0, 1), (1, 5), (5, data.nodes))]
    for run in (run for run in runs(metric) if run.says != "compute_samples"):
        whole, found = run(data), [run(part) for part in parts]
        of_nodes = {name: variable for name, variable in whole.items() if "node" in variable[0]}
        joined = join(metric, [{name: part[name] for name in of_nodes if name in part} for part in found])
        require_same(joined, of_nodes, ("from nodes 0, 1 to 4, and 5 to 6", "from all nodes"), data.says)
    if isinstance(metric, StreamingMetric):
        with told("putting side by side the states of", data):
            state = side_by_side([streamed(metric, part) for part in parts])
        words = ("from states of nodes 0, 1 to 4, and 5 to 6 side by side", "from one of all")
        require_same(finalized(metric, state, data), finalized(metric, streamed(metric, data), data), words, data.says)


@law(every)
def missing_class(metric: Any) -> None:
    """A class without samples is NaN in what is a float along label and label_b, and changes nothing else.

    A 0 would read as a measured one. Divide by the count itself (0 / 0 is NaN), and leave such classes out of means
    over classes.
    """
    there = np.array([0, 2, 3])
    data = mixed().take(np.flatnonzero(mixed().y != 1), "those that aren't of class 1")
    packed = Data(data.says, data.x, np.searchsorted(there, data.y), len(there))
    for run in runs(metric):
        found = run(data)
        for name, (dims, array) in found.items():
            for dim in _CLASS_DIMS:
                if dim in dims and array.dtype.kind == "f" and not np.isnan(array.take(1, dims.index(dim))).all():
                    raise Broken(f"{name!r} at {dim} 1 is {_one(array.take(1, dims.index(dim)))}, not NaN", data.says)
        words = ("with a class 1 that has no samples", "without that class")
        require_same(_of_classes(found, there), run(packed), words, data.says)


def _one(array: Array) -> object:
    """A value that isn't NaN."""
    return array[~np.isnan(array)].flat[0]


@law(every)
def dead_nodes(metric: Any) -> None:
    """Nodes that are 0, or any one value, for every sample have a result, without an exception or a warning.

    Say in the docstring which it is. Rounding must not make a spread of them: subtract a sample before summing squares.
    """
    data = mixed()
    everywhere = np.arange(data.number), np.arange(data.nodes)
    for run in runs(metric):
        for value in (0.0, 3.5, 1 / 3):
            run(data.with_values(everywhere[0], DEAD, value, f"node {DEAD} always {value:.2f}"))
            run(data.with_values(*everywhere, value, f"all nodes always {value:.2f}"))


@law(every)
def one_sample(metric: Any) -> None:
    """A single sample, and classes of a single sample, have a result, without an exception or a warning.

    Where it isn't defined it is NaN; with torch and numpy 0 / 0 is, but np.mean of nothing warns.
    """
    data = mixed()
    firsts = [int(np.flatnonzero(data.y == code)[0]) for code in range(data.classes)]
    for run in runs(metric):
        run(data.take([3], "one"))
        run(data.take(sorted(firsts), "one of each class"))


@law(every)
def one_class(metric: Any) -> None:
    """Samples of a single class have a result, without an exception or a warning.

    That is what samples without labels are. A metric that compares classes gives NaN.
    """
    data = mixed()
    for run in runs(metric):
        run(Data(f"{data.says}, all as class 0", data.x, np.zeros_like(data.y), 1))


@law(every)
def infinities_stay_where_they_are(metric: Any) -> None:
    """Results that don't depend on a node's or a class's finite values don't on its infinities either.

    A product with a one-hot matrix spreads them (0 × ∞ is NaN), as does a cumulative sum: use index_add, torch.where
    and masks. NaN never reaches a metric.
    """
    data = mixed()
    of_class = np.flatnonzero(data.y == 1)
    for run in runs(metric):
        _require_within(run, data, np.arange(3), [0], ("node",), 0)
        _require_within(run, data, of_class[:3], np.arange(data.nodes), _CLASS_DIMS, 1)


def _require_within(run: Run, data: Data, rows: Array, nodes: Any, dims: tuple[str, ...], place: int) -> None:
    """Infinities of some rows and nodes leave what is elsewhere along `dims` than at `place`, as finite values do."""
    where = f"three samples at {dims[0].replace('label', 'class')} {place}"
    whole = _elsewhere(run(data), dims, place)
    finite = [
        _elsewhere(run(data.with_values(rows, nodes, value, f"{value} for {where}")), dims, place)
        for value in (50.0, -50.0, 3.0)
    ]
    apart = {
        name: variable
        for name, variable in whole.items()
        if not any(difference({name: one[name]}, {name: variable}, ("", "")) for one in finite if name in one)
    }
    for value in (np.inf, -np.inf):
        changed = data.with_values(rows, nodes, value, f"{value} for {where}")
        found = _elsewhere(run(changed), dims, place)
        kept = {name: found[name] for name in apart if name in found}
        require_same(kept, apart, (f"beside {value}", "beside finite values"), changed.says)


def _elsewhere(variables: Variables, along: tuple[str, ...], place: int) -> Variables:
    """The variables that have such dims, with 0 in place of what is at `place`."""
    left = {}
    for name, (dims, array) in variables.items():
        axes = [axis for axis, dim in enumerate(dims) if dim in along]
        if axes:
            left[name] = dims, array.copy()
            for axis in axes:
                np.moveaxis(left[name][1], axis, 0)[place] = 0
    return left


@law(every)
def precision(metric: Any) -> None:
    """The same numbers as float32 and as float64 have the same results, to 1 in 10,000.

    Sum in float64 (x.double()), whatever the dtype of the activations: float32 sums lose the digits that a spread
    around a large mean is in.
    """
    data = mixed()
    wide = Data(f"{data.says}, as float64", data.x.astype(np.float64), data.y, data.classes)
    for run in runs(metric):
        require_same(run(data), run(wide), ("as float32", "as float64"), data.says, rtol=1e-4)
