"""How often a bounded activation is near its bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit.errors import PluginError
from probekit.metrics.moments import class_counts, class_sums
from probekit.metrics.protocol import Parameters, Spec, State, Variables
from probekit.metrics.sparsity import shares

__all__ = ["Saturation"]


@dataclass(frozen=True)
class Saturation(Parameters):
    """Share of samples within `delta` of a bound of the activation: by class and node, node, and site.

    A sample counts where x ≤ low + δ or x ≥ high − δ, in the precision of x; δ is in the activation's unit, so that
    0.05 means the outer 5 % of a sigmoid at either end and 2.5 % of a tanh. `saturation` (label, node);
    `saturation_node` (node), over all samples; `saturation_site` (), the mean over the nodes. Float64 in [0, 1],
    exact; NaN for a class without samples.

    `bounds` are the least and the greatest value that the activation can take: (0, 1) of a sigmoid, (−1, 1) of a tanh,
    infinity for a side without one. By default they are those that the site is known to have; PluginError where none
    are known. It doesn't tell one end from the other: with the bounds (0, inf) a sigmoid is counted at 0 alone.
    """

    delta: float = 0.05
    bounds: tuple[float, float] | None = None
    name: ClassVar[str] = "saturation"

    def __post_init__(self) -> None:
        if not self.delta >= 0 or (self.bounds is not None and not self.bounds[0] < self.bounds[1]):
            raise PluginError(
                f"Saturation(delta={self.delta!r}, bounds={self.bounds!r}): delta is at least 0, and of the bounds the "
                "first is below the second."
            )

    def init(self, spec: Spec) -> State:
        bounds = self.bounds or spec.bounds
        if bounds is None:
            raise PluginError(
                "nothing says between which bounds the activation lies. Give them, such as "
                "pk.metrics.Saturation(bounds=(0, 1)), and with sites= the sites that have them"
            )
        count = torch.zeros(spec.classes, dtype=torch.int64, device=spec.device)
        low, high = (torch.full_like(count, bound, dtype=torch.float64) for bound in bounds)
        return {"count": count, "saturated": count[:, None].repeat(1, spec.nodes), "low": low, "high": high}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        low, high = (state["low"][0] + self.delta).to(x.dtype), (state["high"][0] - self.delta).to(x.dtype)
        # As floats of 0 and 1, which torch compares into, and sums, several times faster than bools.
        saturated = torch.le(x, low, out=torch.empty_like(x))
        torch.maximum(saturated, torch.ge(x, high, out=torch.empty_like(x)), out=saturated)
        classes = len(state["count"])
        sums = class_sums(saturated, y, classes).long()
        return self.merge(state, state | {"count": class_counts(y, classes), "saturated": sums})

    def merge(self, a: State, b: State) -> State:
        return a | {key: a[key] + b[key] for key in ("count", "saturated")}

    def finalize(self, state: State) -> Variables:
        return shares("saturation", state["saturated"], state["count"])
