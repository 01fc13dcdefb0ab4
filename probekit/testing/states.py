"""Laws of the states of streaming metrics."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from probekit._measure.accumulator import Accumulator
from probekit.metrics import State, StreamingMetric
from probekit.testing.comparison import require_same
from probekit.testing.computation import batch_of, broken_by, finalized, spec_of, streamed
from probekit.testing.data import DEAD, Data, mixed
from probekit.testing.law import Broken, law, streaming

__all__ = [
    "any_merge_order",
    "any_split",
    "finalize_twice",
    "merge_with_nothing",
    "new_class",
    "no_autograd_graph",
    "saved_state",
    "state_of_its_own",
    "state_shape",
]


_SINGLE = 50  # batches of one sample


def _cases() -> Iterator[Data]:
    """Finite samples; samples with infinities; and a constant node, in which rounding may look like spread."""
    data = mixed()
    yield data
    both = np.array([[np.inf, -np.inf]])
    yield data.with_values([4, 90], [1, 3], both, "infinities at nodes 1 and 3")
    wide = replace(data, x=data.x.astype(np.float64))
    yield wide.with_values(range(data.number), DEAD, 1 / 3, f"node {DEAD} always 1/3, as float64")


def _state(metric: StreamingMetric, data: Data, cuts: tuple[int, ...] = ()) -> State:
    with broken_by("init and update", data):
        return streamed(metric, data, cuts)


@law(streaming)
def any_split(metric: StreamingMetric) -> None:
    """The result doesn't depend on how the samples are cut into batches: of one sample, of none, without some classes.

    update must add the batch to its argument state, and weigh the means in a state by its number of samples. Don't
    subtract large sums from each other: merge means and sums of squares by the method of Chan, Golub and LeVeque
    (1983).
    """
    for data in _cases():
        whole = finalized(metric, _state(metric, data), data)
        for cuts in ((1,), (0, 100, 100), (64, 128, 192), tuple(range(1, _SINGLE))):
            shown = f"after {', '.join(map(str, cuts))}" if len(cuts) < 9 else f"after each of the first {_SINGLE - 1}"
            found = finalized(metric, _state(metric, data, cuts), data)
            require_same(found, whole, (f"cut {shown}", "in one batch"), data.description)


@law(streaming)
def any_merge_order(metric: StreamingMetric) -> None:
    """States of batches merge, in any order and however nested, to the state of all samples.

    merge(a, b) must give the state that update gives for the samples of both.
    """
    for data in _cases():
        whole = finalized(metric, _state(metric, data), data)
        bounds = pairwise([0, 1, 90, 97, data.number])
        a, b, c, d = (_state(metric, data.take(slice(*each), "a batch")) for each in bounds)
        with broken_by("merge", data):
            merged = {
                "merged one after the other": reduce(metric.merge, [a, b, c, d]),
                "merged from the last to the first": reduce(metric.merge, [d, c, b, a]),
                "merged in pairs": metric.merge(metric.merge(c, a), metric.merge(b, d)),
            }
        for words, state in merged.items():
            require_same(finalized(metric, state, data), whole, (words, "in one state"), data.description)


@law(streaming)
def merge_with_nothing(metric: StreamingMetric) -> None:
    """The state from init has no samples: merging it with any other, from either side, changes nothing.

    Start sums at 0, least values at infinity, means at any value with the weight 0.
    """
    for data in _cases():
        state, nothing = _state(metric, data), metric.init(spec_of(metric, data))
        whole = finalized(metric, state, data)
        with broken_by("merge", data):
            merged = {"init, state": metric.merge(nothing, state), "state, init": metric.merge(state, nothing)}
        for order, each in merged.items():
            require_same(finalized(metric, each, data), whole, (f"after merge({order})", "without"), data.description)
        with broken_by("merge and finalize of two states without samples", data):
            metric.finalize(metric.merge(nothing, nothing))


@law(streaming)
def finalize_twice(metric: StreamingMetric) -> None:
    """finalize gives the same when it is called again, even after its results were changed, and allows more samples.

    A tensor's .numpy() is the same memory: if a result is a tensor of the state itself, copy it.
    """
    data = mixed()
    state = _state(metric, data)
    first = finalized(metric, state, data)
    kept = {name: (dims, array.copy()) for name, (dims, array) in first.items()}
    require_same(finalized(metric, state, data), kept, ("the second time", "the first"), data.description)
    for _, array in first.values():
        if array.flags.writeable:
            array[...] = 7
    require_same(
        finalized(metric, state, data), kept, ("after its arrays were overwritten", "before"), data.description
    )
    x, y = batch_of(metric, data)
    with broken_by("update after finalize", data):
        further = metric.update(state, x, y)
    twice = data.take(np.tile(np.arange(data.number), 2), "twice the samples")
    expected = finalized(metric, _state(metric, twice), twice)
    words = ("with a batch after finalize", "without finalize between")
    require_same(finalized(metric, further, twice), expected, words, data.description)


@law(streaming)
def saved_state(metric: StreamingMetric) -> None:
    """A state that was saved and loaded continues as if it had never been saved.

    torch.load reads it with weights_only=True: it is a flat dict of tensors with strings for keys. It contains all that
    update, merge and finalize need; nothing is stored on the metric itself.
    """
    data, another = mixed(), deepcopy(metric)  # in place of the metric of a process that continues
    begun, rest = data.take(slice(0, 100), "the first 100"), data.take(slice(100, None), "the others")
    stream = io.BytesIO()
    torch.save(_state(metric, begun), stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=True)
    with broken_by("update of a loaded state", rest):
        state = another.update(loaded, *batch_of(metric, rest))
    whole = finalized(metric, _state(metric, data, (100,)), data)
    require_same(finalized(another, state, data), whole, ("after a save between", "without"), data.description)


@law(streaming)
def state_shape(metric: StreamingMetric) -> None:
    """A state is a flat dict of tensors, whose keys, shapes and dtypes depend on the spec alone, not on the samples.

    States of several processes can then be added up. A state must not grow with the samples: bound it, or write a
    column metric or a sample metric.
    """
    data = mixed()
    empty = _shapes(metric.init(spec_of(metric, data)))
    for some in (data.take([0], "one"), data, data.take([], "none")):
        found = _shapes(_state(metric, some))
        if found != empty:
            key = next(key for key in {**empty, **found} if found.get(key) != empty.get(key))
            raise Broken(f"after update {key!r} is {found.get(key)}, and init gave {empty.get(key)}", some.description)


def _shapes(state: Any) -> dict[str, str]:
    if not isinstance(state, Mapping):
        raise Broken(f"the state is {type(state).__name__}")
    odd = {key: type(value).__name__ for key, value in state.items() if not isinstance(value, torch.Tensor)}
    if odd or not all(isinstance(key, str) for key in state):
        raise Broken(f"the state has {odd or list(state)}")
    return {key: f"{value.dtype} of shape {tuple(value.shape)}" for key, value in state.items()}


@law(streaming)
def state_of_its_own(metric: StreamingMetric) -> None:
    """A state doesn't depend on the memory of a batch, which is used again after update.

    A state that keeps x, or a view of it such as x[0] or x.T, has to copy it: x[0].clone(). x.amax(0) isn't a view.
    """
    data = mixed()
    x, y = batch_of(metric, data)
    with broken_by("update", data):
        state = metric.update(metric.init(spec_of(metric, data)), x, y)
    for tensor in [*(x if isinstance(x, list) else [x]), y]:
        tensor.fill_(1)
    expected = finalized(metric, _state(metric, data), data)
    words = ("after the batch was overwritten", "otherwise")
    require_same(finalized(metric, state, data), expected, words, data.description)


@law(streaming)
def new_class(metric: StreamingMetric) -> None:
    """If a class first appears in a later batch, the result is as if it had been known from the start.

    While a model runs, the number of classes isn't known: the rows of a new init are appended to the state. An axis
    that follows the classes is therefore the first of its tensor, and the rows of init for a class don't depend on the
    number of classes.
    """
    data = mixed()
    data = data.take(np.argsort(data.y, kind="stable"), "class by class, all")
    half = int(np.searchsorted(data.y, 2))
    begun, rest = data.take(slice(0, half), "the first"), data.take(slice(half, None), "the others")
    with broken_by("update of a state to which classes were appended", data):
        extended = Accumulator([metric], spec_of(metric, replace(begun, classes=2)), "in a test")
        extended.update(*batch_of(metric, begun))
        extended.grow(data.classes)
        extended.update(*batch_of(metric, rest))
    whole = finalized(metric, _state(metric, data), data)
    words = ("when classes 2 and 3 come later", "when all are known")
    require_same(finalized(metric, extended.states[metric.name], data), whole, words, data.description)


@law(streaming)
def no_autograd_graph(metric: StreamingMetric) -> None:
    """No state keeps an autograd graph, which would keep every batch in memory, even if x requires a gradient.

    update is called under torch.no_grad(). Keep x.detach() rather than x, and leave torch.enable_grad() before you
    return.
    """
    data = mixed()
    x, y = batch_of(metric, data)
    for tensor in x if isinstance(x, list) else [x]:
        tensor.requires_grad_()
    with broken_by("update", data), torch.no_grad():
        state = metric.update(metric.init(spec_of(metric, data)), x, y)
    graphs = [key for key, value in state.items() if value.requires_grad]
    if graphs:
        raise Broken(f"after update {', '.join(map(repr, graphs))} in the state require a gradient", data.description)
