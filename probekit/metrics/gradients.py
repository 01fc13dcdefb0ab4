"""The size of the gradients that reach a site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit.metrics._kernels.sums import Sums
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Spec, State, Variables
from probekit.metrics.ranges import SIZE, Ranges

__all__ = ["GradientNorm"]


@dataclass(frozen=True)
class GradientNorm(Sums):
    """Mean size of the loss gradients at a ``:grad`` site, per node and for the whole site.

    g is the gradient of a sample's loss with respect to the site's output; capture's default, a loss summed over the
    batch, makes each row such a gradient. `gradient_norm` (node) is the mean of ``|g|`` over the samples, and
    `gradient_norm_site` () the mean of ‖g‖, the Euclidean norm over all nodes. Both are float64, ≥ 0, in units of loss
    per unit of activation; infinite where a gradient is; NaN without samples.

    At a site that isn't ``:grad`` the metric gives the size of the activations. Compared over the depth of a network it
    shows gradients that vanish or explode, but it alone doesn't make sites of different width or scale comparable.
    Where maps or tokens are pooled, it is the norm of the pooled gradient, in which signs may cancel: capture with
    ``reduce="flatten"`` to keep every position.
    """

    version: ClassVar[int] = 2  # in version 1 `gradient_norm_site` was the root mean square of ‖g‖
    scope: ClassVar[str] = "site"
    name: ClassVar[str] = "gradient_norm"
    ranges: ClassVar[Ranges] = {"gradient_norm": SIZE, "gradient_norm_site": SIZE}
    headline: ClassVar[Headline] = Headline(
        "gradient_norm_site",
        None,
        "at a `:grad` site, the loss depends strongly on it; at any other, its activations are large",
    )

    def init(self, spec: Spec) -> State:
        size = torch.zeros(spec.nodes, dtype=torch.float64, device=spec.device)
        count = torch.zeros((), dtype=torch.int64, device=spec.device)
        return {"count": count, "size": size, "norm": size.new_zeros(())}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        size = x.double().abs()
        norm = torch.linalg.vector_norm(size, dim=1).sum()
        return self.merge(state, {"count": state["count"].new_tensor(len(x)), "size": size.sum(0), "norm": norm})

    def finalize(self, state: State) -> Variables:
        return {
            "gradient_norm": (("node",), (state["size"] / state["count"]).cpu().numpy()),
            "gradient_norm_site": ((), (state["norm"] / state["count"]).cpu().numpy()),
        }
