"""Counts, means, variances and standard deviations of each class, in one pass and float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.errors import PluginError
from probekit.metrics.protocol import Parameters, Spec, State, Variables

__all__ = ["ClassMoments", "Count", "Mean", "Std", "Var", "class_counts", "class_sums"]

_ROWS = 512  # handled together: their float64 scratch stays in the cache, and torch's threads are started seldom


def class_counts(y: Tensor, classes: int) -> Tensor:
    """Samples of each class among the codes `y`: (class,), int64."""
    return torch.bincount(y, minlength=classes)


def class_sums(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """Sums of `x` (batch, node) over the samples of each class: (class, node), float64.

    Other than in a product with one-hot codes, an infinity stays within its class.
    """
    return x.new_zeros((classes, x.shape[1]), dtype=torch.float64).index_add_(0, y, x.double())


class ClassMoments(Parameters):
    """Base of metrics of class variances: the state is `count` (class), `mean` and `m2` (class, node), Σ(x − μ_c)².

    States merge as Chan, Golub and LeVeque (1983) do, so that no two large sums are subtracted. `m2` is exactly 0, and
    `mean` exactly the value, where a class has a single value at a node; both are NaN where it has an infinity.
    """

    state_key: ClassVar[str] = "class moments"

    def init(self, spec: Spec) -> State:
        zeros = torch.zeros(spec.classes, spec.nodes, dtype=torch.float64, device=spec.device)
        count = torch.zeros(spec.classes, dtype=torch.int64, device=spec.device)
        return {"count": count, "mean": zeros, "m2": zeros.clone()}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        if not len(x):
            return dict(state)
        before = state["count"][:, None]
        # Around the mean so far, or a sample of the class itself, so that little of the squares can cancel.
        pivot = state["mean"]
        if x.device.type != "cpu" or not before.all():  # elsewhere, to ask would wait for the device
            first = x.index_select(0, _first_of_each(y, len(before))).double()
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

    def merge(self, a: State, b: State) -> State:
        count = a["count"] + b["count"]
        here, there = a["count"][:, None].double(), b["count"][:, None].double()
        share = there / count[:, None].clamp(min=1)
        apart = b["mean"] - a["mean"]
        between = torch.where((here > 0) & (there > 0), apart.square() * here * share, 0.0)
        mean = torch.where(here > 0, torch.where(there > 0, a["mean"] + apart * share, a["mean"]), b["mean"])
        return {"count": count, "mean": mean, "m2": a["m2"] + b["m2"] + between}


def _first_of_each(y: Tensor, classes: int) -> Tensor:
    """Where each class comes first among the codes `y`, (class,); the last place for a class that doesn't."""
    places = torch.arange(len(y), device=y.device)
    return y.new_full((classes,), len(y) - 1).scatter_reduce_(0, y, places, "amin")


@dataclass(frozen=True)
class Count(Parameters):
    """Number of samples of each class at each node.

    `count` (label, node), int64; 0 for a class without samples. It is the n of `mean` and `std`: std / √count is the
    standard error of the mean.
    """

    name: ClassVar[str] = "count"

    def init(self, spec: Spec) -> State:
        return {"count": torch.zeros(spec.classes, spec.nodes, dtype=torch.int64, device=spec.device)}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return {"count": state["count"] + class_counts(y, len(state["count"]))[:, None]}

    def merge(self, a: State, b: State) -> State:
        return {"count": a["count"] + b["count"]}

    def finalize(self, state: State) -> Variables:
        return {"count": (("label", "node"), state["count"].cpu().numpy().copy())}


@dataclass(frozen=True)
class Mean(Parameters):
    """Mean of each class at each node.

    `mean` (label, node), float64. NaN for a class without samples. An infinite value makes the mean infinite, two of
    opposite sign make it NaN, as numpy's.
    """

    name: ClassVar[str] = "mean"

    def init(self, spec: Spec) -> State:
        sums = torch.zeros(spec.classes, spec.nodes, dtype=torch.float64, device=spec.device)
        return {"count": torch.zeros(spec.classes, dtype=torch.int64, device=spec.device), "sum": sums}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        classes = len(state["count"])
        return self.merge(state, {"count": class_counts(y, classes), "sum": class_sums(x, y, classes)})

    def merge(self, a: State, b: State) -> State:
        return {key: a[key] + b[key] for key in a}

    def finalize(self, state: State) -> Variables:
        mean = state["sum"] / state["count"][:, None]
        return {"mean": (("label", "node"), mean.cpu().numpy())}


@dataclass(frozen=True)
class Var(ClassMoments):
    """Variance of each class at each node.

    `var` (label, node), float64, in the square of the activation's unit: Σ(x − μ_c)² / (n_c − ddof), the square of
    `std`; exactly 0 for a constant node. NaN for a class without samples, for one of `ddof` samples, and, as numpy's,
    where a value is infinite.
    """

    ddof: int = 0
    name: ClassVar[str] = "var"

    def __post_init__(self) -> None:
        _require_ddof("Var", self.ddof)

    def finalize(self, state: State) -> Variables:
        return {"var": (("label", "node"), _variance(state, self.ddof).cpu().numpy())}


@dataclass(frozen=True)
class Std(ClassMoments):
    """Standard deviation of each class at each node.

    `std` (label, node), float64: √(Σ(x − μ_c)² / (n_c − ddof)), from (n, μ, M2) merged as Chan, Golub and LeVeque
    (1983) do, so that no two large sums are subtracted; exactly 0 for a constant node. NaN for a class without
    samples, for one of `ddof` samples, and, as numpy's, where a value is infinite.
    """

    ddof: int = 0
    name: ClassVar[str] = "std"

    def __post_init__(self) -> None:
        _require_ddof("Std", self.ddof)

    def finalize(self, state: State) -> Variables:
        # numpy's square root is the nearest number on every CPU; on some, torch's is the one beside it.
        return {"std": (("label", "node"), np.sqrt(_variance(state, self.ddof).cpu().numpy()))}


def _variance(state: State, ddof: int) -> Tensor:
    return state["m2"] / (state["count"][:, None] - ddof).clamp(min=0)


def _require_ddof(metric: str, ddof: int) -> None:
    if ddof < 0:
        raise PluginError(
            f"{metric}(ddof={ddof}): ddof is 0 for the samples' own deviation, 1 for an unbiased variance."
        )
