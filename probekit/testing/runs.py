"""A metric over samples in memory, called as the engine calls it; and how two results differ."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from probekit._measure.accumulator import scope_of
from probekit._results.assemble import Labels, check
from probekit.metrics import Block, ColumnMetric, SampleMetric, Spec, State, StreamingMetric, Variables
from probekit.metrics.block import Array
from probekit.testing.data import Data, Table
from probekit.testing.law import Broken

__all__ = ["RTOL", "Run", "batch_of", "difference", "finalized", "require_same", "runs", "spec_of", "streamed"]

RTOL = 1e-6  # of sums in float64, in whatever order


@dataclass(frozen=True)
class Run:
    """One way in which the engine computes a metric; `says` what it calls."""

    metric: Any
    says: str
    compute: Callable[[Any, Data], Variables]

    def __call__(self, data: Data) -> Variables:
        """The variables of the data, which have the declared dims."""
        with told(f"{self.says} of", data):
            return checked(self.metric, self.compute(self.metric, data), data)


def runs(metric: Any) -> Iterator[Run]:
    """All the ways: a metric may be of several kinds."""
    if isinstance(metric, ColumnMetric):
        yield Run(metric, "compute", lambda metric, data: dict(metric.compute(block_of(data))))
    if isinstance(metric, SampleMetric):
        yield Run(metric, "compute_samples", lambda metric, data: dict(metric.compute_samples(Table(data))))
    if isinstance(metric, StreamingMetric):
        yield Run(metric, "finalize", lambda metric, data: dict(metric.finalize(streamed(metric, data))))


@contextmanager
def told(doing: str, data: Data) -> Iterator[None]:
    """What is raised or warned about in the block, said with the data; numpy's floating-point warnings are off."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("error")
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            yield
    except Broken:
        raise
    except Exception as error:  # whatever a metric raises
        raise Broken(f"{doing} the data raised {type(error).__name__}: {error}", data.says) from error


def checked(metric: Any, variables: Variables, data: Data) -> Variables:
    """The variables, once they have the lengths that their dims ask for."""
    labels = Labels(np.arange(data.classes), tuple(map(str, range(data.classes))))
    lengths = {"site": 2, "site_b": 2} if scope_of(metric) == "sites" else {"node": data.nodes}
    return check(metric, variables, labels, "in a test", **lengths)


def block_of(data: Data) -> Block:
    return Block.from_samples(data.x, data.y, data.classes)


def spec_of(metric: StreamingMetric, data: Data) -> Any:
    """What `init` takes: the specs of two sites for a metric of that scope."""
    specs = [Spec(x.shape[1], data.classes, torch.from_numpy(x[:0]).dtype, torch.device("cpu")) for x in data.sites]
    return specs if scope_of(metric) == "sites" else specs[0]


def batch_of(metric: StreamingMetric, data: Data) -> tuple[Any, torch.Tensor]:
    """What `update` takes of the data: copies."""
    x = [torch.tensor(values) for values in data.sites]
    return x if scope_of(metric) == "sites" else x[0], torch.tensor(data.y)


def streamed(metric: StreamingMetric, data: Data, cuts: Sequence[int] = ()) -> State:
    """The state after the data, cut into batches at `cuts`."""
    state = metric.init(spec_of(metric, data))
    for start, stop in pairwise([0, *cuts, data.number]):
        x, y = batch_of(metric, data.take(slice(start, stop), "a batch"))
        state = metric.update(state, x, y)
    return state


def finalized(metric: StreamingMetric, state: State, data: Data) -> Variables:
    with told("finalize of", data):
        return checked(metric, dict(metric.finalize(state)), data)


def require_same(found: Variables, expected: Variables, words: tuple[str, str], data: str, rtol: float = RTOL) -> None:
    """Raise Broken where the variables differ; `words` say what each of the two are."""
    differing = difference(found, expected, words, rtol)
    if differing:
        raise Broken(differing, data)


def difference(found: Variables, expected: Variables, words: tuple[str, str], rtol: float = RTOL) -> str:
    """Where two results differ first, in words; empty where they agree: integers exactly, floats to `rtol`."""
    if found.keys() != expected.keys():
        return f"{words[0]} there are the variables {sorted(found)}, {words[1]} {sorted(expected)}"
    for name, (dims, array) in expected.items():
        ours_dims, ours = found[name]
        if (ours_dims, ours.shape) != (dims, array.shape):
            return f"{name!r} has {words[0]} the dims {ours_dims} {ours.shape}, {words[1]} {dims} {array.shape}"
        apart = np.argwhere(~_close(ours, array, rtol))
        if len(apart):
            at = tuple(int(index) for index in apart[0])
            place = ", ".join(f"{dim} {index}" for dim, index in zip(dims, at, strict=True))
            where = f"{name!r} at {place}" if place else f"{name!r}"
            more = f" ({len(apart)} of {array.size} values differ)" if array.size > 1 else ""
            return f"{where} is {ours[at]} {words[0]} and {array[at]} {words[1]}{more}"
    return ""


def _close(ours: Array, theirs: Array, rtol: float) -> Array:
    if ours.dtype.kind != "f" or theirs.dtype.kind != "f":
        return np.asarray(ours == theirs)
    finite = np.abs(theirs[np.isfinite(theirs)])
    with np.errstate(all="ignore"):
        close: Array = np.isclose(ours, theirs, rtol, 1e-3 * rtol * max(1.0, finite.max(initial=0)), equal_nan=True)
    return close
