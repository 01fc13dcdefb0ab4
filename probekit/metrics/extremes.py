"""The smallest and the largest value of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit.metrics._kernels.class_sums import class_counts, class_minima, no_minima
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Parameters, Spec, State, Variables

__all__ = ["Max", "Min"]


class _Extreme(Parameters):
    """Base of `Min` and `Max`: the state is `count` (class) and `least` (class, node), the minima of x times `sign`."""

    name: ClassVar[str]
    sign: ClassVar[int]
    interval: ClassVar[None] = None  # the extremes of draws from the samples never lie beyond theirs

    def init(self, spec: Spec) -> State:
        return {"count": torch.zeros(spec.classes, dtype=torch.int64, device=spec.device), "least": no_minima(spec)}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        classes = len(state["count"])
        least = class_minima(x * self.sign, y, classes)
        return self.merge(state, {"count": class_counts(y, classes), "least": least})

    def merge(self, a: State, b: State) -> State:
        return {"count": a["count"] + b["count"], "least": torch.minimum(a["least"], b["least"])}

    def finalize(self, state: State) -> Variables:
        found = (state["least"] * self.sign).where(state["count"][:, None] > 0, torch.nan)
        return {self.name: (("label", "node"), found.cpu().numpy())}


@dataclass(frozen=True)
class Min(_Extreme):
    """Smallest value of each class at each node.

    `min` (label, node), exact, in the dtype that the values are measured in: float32 for float16 and float32, else
    float64. NaN for a class without samples. A single sample decides it, even an outlier; more samples never raise it.
    It has no interval: draws from the samples have no values beyond theirs.
    """

    name: ClassVar[str] = "min"
    headline: ClassVar[Headline] = Headline(
        "min", "median", "values stay far above 0", missing="a class without samples has none"
    )
    sign: ClassVar[int] = 1


@dataclass(frozen=True)
class Max(_Extreme):
    """Largest value of each class at each node.

    `max` (label, node), exact, in the dtype that the values are measured in: float32 for float16 and float32, else
    float64. NaN for a class without samples. A single sample decides it, even an outlier; more samples never lower it.
    It has no interval: draws from the samples have no values beyond theirs.
    """

    name: ClassVar[str] = "max"
    headline: ClassVar[Headline] = Headline(
        "max", "median", "some samples drive nodes strongly", missing="a class without samples has none"
    )
    sign: ClassVar[int] = -1
