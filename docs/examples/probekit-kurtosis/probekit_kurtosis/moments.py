"""Kurtosis from moments that are merged over batches."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from probekit.metrics import Spec, State, Variables

__all__ = ["Kurtosis"]

_ROUNDING = 1e-12  # of the mean: a spread as small as this is none


@dataclass(frozen=True)
class Kurtosis:
    """Kurtosis of each class at each node, less the 3 of a normal distribution: how heavy its tails are.

    `kurtosis` (label, node), float64, without a unit: n Σ(x − μ)⁴ / (Σ(x − μ)²)² − 3, from −2 (two values, equally
    often) on; with ``excess=False`` the 3 is left on. NaN for a class without samples, for a node that is constant in a
    class, and where a value is infinite.

    A single outlier decides it: compare with `moors`, which is made of octiles.
    """

    excess: bool = True
    name: ClassVar[str] = "kurtosis"
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
        count = state["count"][:, None]
        kurtosis = count * state["m4"] / state["m2"] ** 2 - (3 if self.excess else 0)
        spread = state["m2"] > count * (_ROUNDING * state["mean"]) ** 2
        return {"kurtosis": (("label", "node"), kurtosis.where(spread, torch.nan).cpu().numpy())}
