"""The class means of a site, and which of them a sample is nearest to."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from probekit.metrics.moments import ClassMoments
from probekit.metrics.protocol import Samples, Spec, State

__all__ = ["class_moments", "nearest", "own_mean_share", "tensors"]


def tensors(samples: Samples) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of the samples and their classes, as tensors of their own."""
    for x, y in samples.batches():
        yield torch.tensor(x), torch.tensor(y)


def class_moments(samples: Samples) -> State:
    """The state of `ClassMoments` after all samples, in one pass: `count` (class), `mean` and `m2` (class, node)."""
    metric = ClassMoments()
    state = metric.init(Spec(samples.nodes, samples.classes, torch.float64, torch.device("cpu")))
    for x, y in tensors(samples):
        state = metric.update(state, x, y)
    return state


def nearest(x: Tensor, means: Tensor) -> Tensor:
    """Which of the `means` (class, node) each row of `x` (batch, node) is nearest to, (batch); the first of several."""
    centre = means.mean(0)
    means, x = means - centre, x.double() - centre  # else what far means have in common would cancel
    return (x @ means.T - means.square().sum(1) / 2).argmax(1)


def own_mean_share(samples: Samples, state: State) -> float:
    """The share of samples whose nearest class mean is that of their own class; `state` is that of `class_moments`.

    NaN with fewer than two classes that have samples, and where a value is infinite.
    """
    there = state["count"].nonzero().flatten()
    means = state["mean"][there]
    if len(there) < 2 or not means.isfinite().all():
        return float("nan")
    hits = sum(int((there[nearest(x, means)] == y).sum()) for x, y in tensors(samples))
    return hits / samples.number
