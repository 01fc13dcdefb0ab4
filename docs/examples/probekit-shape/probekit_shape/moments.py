"""Bimodality from moments that are merged over batches."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from probekit.metrics import Spec, State, Variables

__all__ = ["Bimodality"]

_ROUNDING = 1e-12  # of the mean: a spread as small as this is none


@dataclass(frozen=True)
class Bimodality:
    """Sarle's bimodality coefficient of each class at each node: above 5/9 where there may be two humps.

    `bimodality` (label, node), float64 in [0, 1], without a unit: (g₁² + 1) / (g₂ + 3), where g₁ is the skewness and g₂
    the excess kurtosis of the samples. 1 for two values, 5/9 for a uniform distribution, 1/3 for a normal one. By
    default g₁ and g₂ are corrected for the number of samples, as by SAS (Pfister et al. 2013), which takes more than
    three; ``corrected=False`` leaves that out. NaN for a class with too few samples, for a node that is constant in a
    class, and where a value is infinite.

    A lopsided distribution with one hump has a large coefficient too: look at the histogram.
    """

    corrected: bool = True
    name: ClassVar[str] = "bimodality"
    version: ClassVar[int] = 1

    @property
    def parameters(self) -> dict[str, Any]:
        return asdict(self)

    def init(self, spec: Spec) -> State:
        zeros = torch.zeros(spec.classes, spec.nodes, dtype=torch.float64, device=spec.device)
        count = torch.zeros(spec.classes, dtype=torch.int64, device=spec.device)
        return {"count": count, "mean": zeros, "m2": zeros.clone(), "m3": zeros.clone(), "m4": zeros.clone()}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        zeros = torch.zeros_like(state["mean"])
        count = torch.bincount(y, minlength=len(zeros))
        mean = zeros.index_add(0, y, x.double()) / count[:, None].clamp(min=1)
        gap = x.double() - mean[y]
        powers = {f"m{k}": zeros.index_add(0, y, gap**k) for k in (2, 3, 4)}
        return self.merge(state, {"count": count, "mean": mean, **powers})

    def merge(self, a: State, b: State) -> State:
        """The moments of both, as Pébay (2008) merges them: no large sums are subtracted from each other."""
        m, n = a["count"][:, None].double(), b["count"][:, None].double()
        total = (m + n).clamp(min=1)
        gap = b["mean"] - a["mean"]
        m2 = a["m2"] + b["m2"] + gap**2 * m * n / total
        m3 = a["m3"] + b["m3"] + gap**3 * m * n * (m - n) / total**2 + 3 * gap * (m * b["m2"] - n * a["m2"]) / total
        m4 = a["m4"] + b["m4"] + gap**4 * m * n * (m * m - m * n + n * n) / total**3
        m4 = m4 + 6 * gap**2 * (m * m * b["m2"] + n * n * a["m2"]) / total**2
        m4 = m4 + 4 * gap * (m * b["m3"] - n * a["m3"]) / total
        return {"count": a["count"] + b["count"], "mean": a["mean"] + gap * n / total, "m2": m2, "m3": m3, "m4": m4}

    def finalize(self, state: State) -> Variables:
        n = state["count"][:, None].double()
        skewness = n.sqrt() * state["m3"] / state["m2"] ** 1.5
        excess = n * state["m4"] / state["m2"] ** 2 - 3
        three = torch.full_like(n, 3)
        if self.corrected:
            skewness = skewness * (n * (n - 1)).sqrt() / (n - 2)
            excess = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * excess + 6)
            three = 3 * (n - 1) ** 2 / ((n - 2) * (n - 3))
        known = (state["m2"] > n * (_ROUNDING * state["mean"]) ** 2) & (n > (3 if self.corrected else 0))
        value = (skewness**2 + 1) / (excess + three)
        return {"bimodality": (("label", "node"), value.where(known, torch.nan).cpu().numpy())}
