"""Means and standard deviations of each class, in one pass and float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit.errors import PluginError
from probekit.metrics.protocol import Parameters, Spec, State, Variables

__all__ = ["Mean", "Std", "class_counts", "class_sums"]


def class_counts(y: Tensor, classes: int) -> Tensor:
    """Samples of each class among the codes `y`: (class,), int64."""
    return torch.bincount(y, minlength=classes)


def class_sums(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """Sums of `x` (batch, node) over the samples of each class: (class, node), float64.

    Other than in a product with one-hot codes, an infinity stays within its class.
    """
    return x.new_zeros((classes, x.shape[1]), dtype=torch.float64).index_add_(0, y, x.double())


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
class Std(Parameters):
    """Standard deviation of each class at each node.

    `std` (label, node), float64: √(Σ(x − μ_c)² / (n_c − ddof)), from (n, μ, M2) merged as Chan, Golub and LeVeque
    (1983) do, so that no two large sums are subtracted; exactly 0 for a constant node of float32 values. NaN for a
    class without samples, for one of `ddof` samples, and, as numpy's, where a value is infinite.
    """

    ddof: int = 0
    name: ClassVar[str] = "std"

    def __post_init__(self) -> None:
        if self.ddof < 0:
            raise PluginError(
                f"Std(ddof={self.ddof}): ddof is 0 for the samples' own deviation, 1 for an unbiased one."
            )

    def init(self, spec: Spec) -> State:
        zeros = torch.zeros(spec.classes, spec.nodes, dtype=torch.float64, device=spec.device)
        count = torch.zeros(spec.classes, dtype=torch.int64, device=spec.device)
        return {"count": count, "mean": zeros, "m2": zeros.clone()}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        count, values = class_counts(y, len(state["count"])), x.double()
        mean = class_sums(values, y, len(count)) / count[:, None].clamp(min=1)
        deviation = values.sub(mean.index_select(0, y)).square_()
        return self.merge(state, {"count": count, "mean": mean, "m2": class_sums(deviation, y, len(count))})

    def merge(self, a: State, b: State) -> State:
        count = a["count"] + b["count"]
        here, there = a["count"][:, None].double(), b["count"][:, None].double()
        share = there / count[:, None].clamp(min=1)
        apart = b["mean"] - a["mean"]
        between = torch.where((here > 0) & (there > 0), apart.square() * here * share, 0.0)
        mean = torch.where(here > 0, torch.where(there > 0, a["mean"] + apart * share, a["mean"]), b["mean"])
        return {"count": count, "mean": mean, "m2": a["m2"] + b["m2"] + between}

    def finalize(self, state: State) -> Variables:
        free = (state["count"][:, None] - self.ddof).clamp(min=0)
        return {"std": (("label", "node"), (state["m2"] / free).sqrt().cpu().numpy())}
