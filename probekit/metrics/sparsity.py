"""The share of samples for which a node is inactive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit.metrics.moments import class_counts, class_sums
from probekit.metrics.protocol import Parameters, Spec, State, Variables

__all__ = ["Sparsity"]


@dataclass(frozen=True)
class Sparsity(Parameters):
    """Share of samples with an activation at or below `threshold`: by class and node, node, and site.

    `sparsity` (label, node); `sparsity_node` (node), over all samples; `sparsity_site` (), the mean over the nodes,
    which is what Table 1 of Pretorius et al. (2019) shows in per cent. In [0, 1], float64, exact; NaN for a class
    without samples. With the default threshold 0 it tells how often a ReLU is off; for a sigmoid it is 0.
    """

    threshold: float = 0.0
    name: ClassVar[str] = "sparsity"

    def init(self, spec: Spec) -> State:
        inactive = torch.zeros(spec.classes, spec.nodes, dtype=torch.int64, device=spec.device)
        return {"count": torch.zeros(spec.classes, dtype=torch.int64, device=spec.device), "inactive": inactive}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        classes = len(state["count"])
        # As floats of 0 and 1: torch compares into bools, and sums them, several times slower.
        inactive = torch.le(x, self.threshold, out=torch.empty_like(x))
        sums = class_sums(inactive, y, classes).long()
        return self.merge(state, {"count": class_counts(y, classes), "inactive": sums})

    def merge(self, a: State, b: State) -> State:
        return {key: a[key] + b[key] for key in a}

    def finalize(self, state: State) -> Variables:
        count, inactive = state["count"], state["inactive"].double()
        node = inactive.sum(0) / count.sum()
        return {
            "sparsity": (("label", "node"), (inactive / count[:, None]).cpu().numpy()),
            "sparsity_node": (("node",), node.cpu().numpy()),
            "sparsity_site": ((), node.mean().cpu().numpy()),
        }
