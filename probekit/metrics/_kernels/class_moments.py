"""Means and squared deviations of each class, in one pass and float64."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from probekit.metrics._kernels.class_sums import class_counts
from probekit.metrics._kernels.relabelled_sums import RelabelledMoments
from probekit.metrics.protocol import Parameters, Spec, State

__all__ = ["ClassMoments", "first_of_each"]

_ROWS = 512  # rows handled together: their float64 scratch stays in the cache, and torch seldom starts its threads


class ClassMoments(Parameters):
    """Base of metrics of class variances.

    The state is `count` (class), `mean` (class, node) and `m2` (class, node), which is Σ(x − μ_c)². States merge by the
    method of Chan, Golub and LeVeque (1983), which never subtracts two large sums. Where all samples of a class are
    equal at a node, `m2` is exactly 0 and `mean` exactly that value. Both are NaN where a class has an infinite value.
    """

    state_key: ClassVar[str] = "class moments"

    def init(self, spec: Spec) -> State:
        zeros = torch.zeros(spec.classes, spec.nodes, dtype=torch.float64, device=spec.device)
        count = torch.zeros(spec.classes, dtype=torch.int64, device=spec.device)
        return {"count": count, "mean": zeros, "m2": zeros.clone()}

    def memory(self, spec: Spec, samples: int) -> int:
        # The state, a new one and what becomes of the classes of a batch; its rows in float64.
        return 13 * 8 * spec.classes * spec.nodes + 4 * 8 * min(_ROWS, samples) * spec.nodes

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        if not len(x):
            return dict(state)
        before = state["count"][:, None]
        # Deviations from the mean so far, or from a sample of the class, are small: little of their squares can cancel.
        pivot = state["mean"]
        if x.device.type != "cpu" or not before.all():  # off the CPU, evaluating `all` would wait for the device
            first = x.index_select(0, first_of_each(y, len(before))).double()
            pivot = torch.where(before > 0, pivot, first)
        sums, squares = torch.zeros_like(pivot), torch.zeros_like(pivot)
        for rows, codes in zip(x.split(_ROWS), y.split(_ROWS), strict=True):
            gap = pivot.index_select(0, codes).sub_(rows)
            sums.index_add_(0, codes, gap)
            squares.index_add_(0, codes, gap.square_())
        count = state["count"] + class_counts(y, len(before))
        shift = sums / count[:, None].clamp(min=1)
        mean = torch.where(count[:, None] > 0, pivot - shift, state["mean"])
        return {"count": count, "mean": mean, "m2": state["m2"] + squares - shift * sums}

    def relabelled(self, spec: Spec, labellings: int) -> RelabelledMoments:
        return RelabelledMoments(spec, labellings, 2)

    def merge(self, a: State, b: State) -> State:
        count = a["count"] + b["count"]
        here, there = a["count"][:, None].double(), b["count"][:, None].double()
        share = there / count[:, None].clamp(min=1)
        apart = b["mean"] - a["mean"]
        between = torch.where((here > 0) & (there > 0), apart.square() * here * share, 0.0)
        mean = torch.where(here > 0, torch.where(there > 0, a["mean"] + apart * share, a["mean"]), b["mean"])
        return {"count": count, "mean": mean, "m2": a["m2"] + b["m2"] + between}


def first_of_each(y: Tensor, classes: int) -> Tensor:
    """The index at which each class first appears in the codes `y`, (class,); the last index for an absent class."""
    index = torch.arange(len(y), device=y.device)
    return y.new_full((classes,), len(y) - 1).scatter_reduce_(0, y, index, "amin")
