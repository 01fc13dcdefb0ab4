"""How large the gradients are that reach a site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit.metrics.moments import class_counts, class_sums
from probekit.metrics.protocol import Parameters, Spec, State, Variables

__all__ = ["GradientNorm"]


@dataclass(frozen=True)
class GradientNorm(Parameters):
    """Size of the gradients at a ``:grad`` site, by node and for the site: how much of the loss reaches it.

    With g the gradient of a sample's loss with respect to what the site gave (capture's default, a loss summed over the
    batch, makes each row that): `gradient_norm` (node) is the mean of ``|g|`` over the samples. `gradient_norm_site` ()
    is √(Σ mean g²), over the nodes: the root mean square over samples of the Euclidean norm ‖g‖ of all nodes. It is
    never below the mean of ‖g‖, and equal where all samples have the same norm; unlike that mean it adds up over nodes,
    which are measured in blocks. Float64, ≥ 0, in units of loss per unit of activation; NaN without samples.

    At a site that isn't ``:grad`` it gives the size of the activations. Compared over the depth of a network it shows
    gradients that vanish or explode, but sites of different width or scale aren't comparable by it alone. Where maps
    or tokens are pooled, it is the norm of the pooled gradient, in which signs may cancel: capture with
    ``reduce="flatten"`` to have them all.
    """

    name: ClassVar[str] = "gradient_norm"

    def init(self, spec: Spec) -> State:
        sums = torch.zeros(spec.classes, spec.nodes, dtype=torch.float64, device=spec.device)
        count = torch.zeros(spec.classes, dtype=torch.int64, device=spec.device)
        return {"count": count, "absolute": sums, "square": sums.clone()}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        classes, size = len(state["count"]), x.abs().double()
        absolute, square = class_sums(size, y, classes), class_sums(size.square_(), y, classes)
        return self.merge(state, {"count": class_counts(y, classes), "absolute": absolute, "square": square})

    def merge(self, a: State, b: State) -> State:
        return {key: a[key] + b[key] for key in a}

    def finalize(self, state: State) -> Variables:
        samples = state["count"].sum()
        return {
            "gradient_norm": (("node",), (state["absolute"].sum(0) / samples).cpu().numpy()),
            "gradient_norm_site": ((), (state["square"].sum() / samples).sqrt().cpu().numpy()),
        }
