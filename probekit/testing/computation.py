"""A metric computed from samples in memory, called as the engine calls it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from probekit._measure.accumulator import scope_of
from probekit._results.assemble import Labels, check
from probekit.metrics import Block, ColumnMetric, SampleMetric, Spec, State, StreamingMetric, Variables
from probekit.testing.data import Data, Table
from probekit.testing.law import Broken

__all__ = [
    "Computation",
    "batch_of",
    "block_of",
    "broken_by",
    "checked",
    "computations",
    "finalized",
    "spec_of",
    "streamed",
]


@dataclass(frozen=True)
class Computation:
    """One way in which the engine computes a metric; `method` is the last method that it calls."""

    metric: Any
    method: str
    compute: Callable[[Any, Data], Variables]

    def __call__(self, data: Data) -> Variables:
        """The variables of the data, which have the declared dims."""
        with broken_by(self.method, data):
            return checked(self.metric, self.compute(self.metric, data), data)


def computations(metric: Any) -> Iterator[Computation]:
    """All ways to compute the metric, which may be of several kinds."""
    if isinstance(metric, ColumnMetric):
        yield Computation(metric, "compute", lambda metric, data: dict(metric.compute(block_of(data))))
    if isinstance(metric, SampleMetric):
        yield Computation(
            metric, "compute_samples", lambda metric, data: dict(metric.compute_samples(_read(metric, data)))
        )
    if isinstance(metric, StreamingMetric):
        yield Computation(metric, "finalize", lambda metric, data: dict(metric.finalize(streamed(metric, data))))


def _read(metric: Any, data: Data) -> Any:
    """The argument of `compute_samples`: the samples of two sites for a metric of that scope, otherwise of one."""
    if scope_of(metric) == "sites":
        return [Table(replace(data, x=x)) for x in data.sites]
    return Table(data)


@contextmanager
def broken_by(calls: str, data: Data) -> Iterator[None]:
    """Raise Broken, with the data, for every exception and warning that the `calls` in the block raise.

    numpy's floating-point warnings are off.
    """
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("error")
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            yield
    except Broken:
        raise
    except Exception as error:  # a metric may raise anything
        raise Broken(f"{calls} raised {type(error).__name__}: {error}", data.description) from error


def checked(metric: Any, variables: Variables, data: Data) -> Variables:
    """The variables, after a check that they have the lengths that their dims require."""
    labels = Labels(np.arange(data.classes), tuple(map(str, range(data.classes))))
    lengths = {"site": 2, "site_b": 2} if scope_of(metric) == "sites" else {"node": data.nodes}
    return check(metric, variables, labels, "in a test", **lengths)


def block_of(data: Data) -> Block:
    """The argument of `compute`."""
    return Block.from_samples(data.x, data.y, data.classes)


def spec_of(metric: StreamingMetric, data: Data) -> Any:
    """The argument of `init`: the specs of two sites for a metric of that scope, otherwise one spec."""
    specs = [Spec(x.shape[1], data.classes, torch.from_numpy(x[:0]).dtype, torch.device("cpu")) for x in data.sites]
    return specs if scope_of(metric) == "sites" else specs[0]


def batch_of(metric: StreamingMetric, data: Data) -> tuple[Any, torch.Tensor]:
    """Copies of the data as the arguments x and y of `update`."""
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
    """The variables of a state of the data."""
    with broken_by("finalize", data):
        return checked(metric, dict(metric.finalize(state)), data)
