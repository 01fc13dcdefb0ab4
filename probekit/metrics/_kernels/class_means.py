"""The class means of a site, and the nearest of them to each sample."""

from __future__ import annotations

import torch
from torch import Tensor

from probekit.metrics._kernels.class_moments import ClassMoments
from probekit.metrics._kernels.rounding import vector_error
from probekit.metrics._kernels.sample_batches import tensor_batches
from probekit.metrics.protocol import Samples, Spec, State

__all__ = ["class_moments", "nearest", "own_mean_share"]


def class_moments(samples: Samples) -> State:
    """The state of `ClassMoments` after all samples, in one pass: `count` (class), `mean` and `m2` (class, node)."""
    metric = ClassMoments()
    state = metric.init(Spec(samples.nodes, samples.classes, torch.float64, torch.device("cpu")))
    for x, y in tensor_batches(samples):
        state = metric.update(state, x, y)
    return state


def nearest(x: Tensor, means: Tensor) -> Tensor:
    """For each row of `x` (batch, node) the index of the nearest of the `means` (class, node).

    It is the first of several that are equally near, up to rounding in float64.
    """
    if not len(x):
        return torch.empty(0, dtype=torch.int64)
    error = vector_error(means.shape[1]) * torch.linalg.vector_norm(x.double(), dim=1).amax()
    centre = means.mean(0)
    means, x = means - centre, x.double() - centre  # otherwise the common part of distant means would cancel
    scores = x @ means.T - means.square().sum(1) / 2
    # Each factor of a product moves by the error, while the other is as long as it is here.
    moved = 2 * error * (torch.linalg.vector_norm(x, dim=1) + torch.linalg.vector_norm(means, dim=1).amax())
    first: Tensor = (scores >= (scores.amax(1) - moved)[:, None]).byte().argmax(1)
    return first


def own_mean_share(samples: Samples, state: State) -> float:
    """The share of samples whose nearest class mean is that of their own class; `state` comes from `class_moments`.

    NaN with fewer than two classes that have samples, and where a value is infinite.
    """
    there = state["count"].nonzero().flatten()
    means = state["mean"][there]
    if len(there) < 2 or not means.isfinite().all():
        return float("nan")
    hits = sum(int((there[nearest(x, means)] == y).sum()) for x, y in tensor_batches(samples))
    return hits / samples.number
