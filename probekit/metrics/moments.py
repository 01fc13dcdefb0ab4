"""Counts, means, variances and standard deviations of each class, in one pass and float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.metrics._kernels.class_moments import ClassMoments
from probekit.metrics._kernels.class_sums import class_counts, class_sums
from probekit.metrics._kernels.relabelled_sums import RelabelledSums
from probekit.metrics._kernels.sums import Sums
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, at_least
from probekit.metrics.protocol import Spec, State, Variables
from probekit.metrics.ranges import ACTIVATION, SIZE, Ranges

__all__ = ["Count", "Mean", "Std", "Var"]


@dataclass(frozen=True)
class Count(Sums):
    """Number of samples of each class at each node.

    `count` (label, node), int64; 0 for a class without samples. It is the n of `mean` and `std`, so std / √count is the
    standard error of the mean.
    """

    name: ClassVar[str] = "count"
    headline: ClassVar[Headline] = Headline("count", "mean", "many samples a class")

    def init(self, spec: Spec) -> State:
        return {"count": torch.zeros(spec.classes, spec.nodes, dtype=torch.int64, device=spec.device)}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return {"count": state["count"] + class_counts(y, len(state["count"]))[:, None]}

    def finalize(self, state: State) -> Variables:
        return {"count": (("label", "node"), state["count"].cpu().numpy().copy())}


@dataclass(frozen=True)
class Mean(Sums):
    """Mean of each class at each node.

    `mean` (label, node), float64. NaN for a class without samples. As in numpy, an infinite value makes the mean
    infinite, and two infinities of opposite sign make it NaN.
    """

    name: ClassVar[str] = "mean"
    ranges: ClassVar[Ranges] = {"mean": ACTIVATION}
    headline: ClassVar[Headline] = Headline(
        "mean", "mean", "nodes are strongly active", missing="a class without samples has none"
    )

    def init(self, spec: Spec) -> State:
        sums = torch.zeros(spec.classes, spec.nodes, dtype=torch.float64, device=spec.device)
        return {"count": torch.zeros(spec.classes, dtype=torch.int64, device=spec.device), "sum": sums}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        classes = len(state["count"])
        return self.merge(state, {"count": class_counts(y, classes), "sum": class_sums(x, y, classes)})

    def relabelled(self, spec: Spec, labellings: int) -> RelabelledSums:
        return RelabelledSums(spec, labellings, ("sum",))

    def finalize(self, state: State) -> Variables:
        mean = state["sum"] / state["count"][:, None]
        return {"mean": (("label", "node"), mean.cpu().numpy())}


@dataclass(frozen=True)
class Var(ClassMoments):
    """Variance of each class at each node.

    `var` (label, node), float64, in the square of the activation's unit: Σ(x − μ_c)² / (n_c − ddof), the square of
    `std`; exactly 0 for a constant node. NaN for a class without samples, for a class of up to `ddof` samples, and,
    as in numpy, where a value is infinite.
    """

    ddof: int = 0
    limits: ClassVar[Limits] = {"ddof": at_least(0)}
    name: ClassVar[str] = "var"
    ranges: ClassVar[Ranges] = {"var": SIZE}
    headline: ClassVar[Headline] = Headline(
        "var",
        "median",
        "values vary much within a class",
        missing="a class of up to ddof samples has none, nor has an infinite value",
    )

    def finalize(self, state: State) -> Variables:
        return {"var": (("label", "node"), _variance(state, self.ddof).cpu().numpy())}


@dataclass(frozen=True)
class Std(ClassMoments):
    """Standard deviation of each class at each node.

    `std` (label, node), float64: √(Σ(x − μ_c)² / (n_c − ddof)), from (n, μ, M2), which merge by the method of Chan,
    Golub and LeVeque (1983) without subtracting two large sums; exactly 0 for a constant node. NaN for a class without
    samples, for a class of up to `ddof` samples, and, as in numpy, where a value is infinite.
    """

    ddof: int = 0
    limits: ClassVar[Limits] = {"ddof": at_least(0)}
    name: ClassVar[str] = "std"
    ranges: ClassVar[Ranges] = {"std": SIZE}
    headline: ClassVar[Headline] = Headline(
        "std",
        "median",
        "values vary much within a class",
        missing="a class of up to ddof samples has none, nor has an infinite value",
    )

    def finalize(self, state: State) -> Variables:
        # numpy's square root is correctly rounded on every CPU; on some CPUs torch's is off by the last bit.
        return {"std": (("label", "node"), np.sqrt(_variance(state, self.ddof).cpu().numpy()))}


def _variance(state: State, ddof: int) -> Tensor:
    free = state["count"][:, None] - ddof
    return (state["m2"] / free).where(free > 0, torch.nan)
