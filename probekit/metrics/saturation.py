"""Saturation: how often a bounded activation is near its bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit.errors import PluginError
from probekit.metrics._kernels.class_sums import class_counts, class_sums
from probekit.metrics._kernels.inactive_counts import shares
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, at_least
from probekit.metrics.protocol import Parameters, Spec, State, Variables
from probekit.metrics.ranges import SHARE, Ranges

__all__ = ["Saturation"]


@dataclass(frozen=True)
class Saturation(Parameters):
    """Share of samples within `delta` of a bound of the activation, per class and node, per node, and per site.

    A sample counts if x ≤ low + δ or x ≥ high − δ, in the precision of x. δ is in the activation's unit, so 0.05 is
    the outer 5 % of a sigmoid at either end and 2.5 % of a tanh. `saturation` (label, node); `saturation_node` (node),
    over all samples; `saturation_site` (), the mean over the nodes. Float64 in [0, 1], exact; NaN for a class without
    samples.

    `bounds` are the least and the greatest value that the activation can take: (0, 1) for a sigmoid, (−1, 1) for a
    tanh, infinity for an unbounded side. By default they are the known bounds of the site; PluginError where none are
    known. Both ends count alike; with the bounds (0, inf) only the lower end of a sigmoid counts.

    For feature maps each position is a sample of its own, also where other metrics see the mean over positions.
    """

    delta: float = 0.05
    bounds: tuple[float, float] | None = None
    limits: ClassVar[Limits] = {"delta": at_least(0)}
    name: ClassVar[str] = "saturation"
    ranges: ClassVar[Ranges] = {"saturation": SHARE, "saturation_node": SHARE, "saturation_site": SHARE}
    version: ClassVar[int] = 2  # in version 1 the mean over a map's positions was one sample
    positions: ClassVar[str] = "each"
    headline: ClassVar[Headline] = Headline(
        "saturation_site", None, "nodes are often near a bound of the activation", missing="there are no samples"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise PluginError(f"Saturation(bounds={self.bounds!r}): the first bound must be below the second.")

    def init(self, spec: Spec) -> State:
        bounds = self.bounds or spec.bounds
        if bounds is None:
            raise PluginError(
                "the bounds of the activation aren't known. Give them, such as pk.metrics.Saturation(bounds=(0, 1)), "
                "and choose the sites that have them with sites="
            )
        count = torch.zeros(spec.classes, dtype=torch.int64, device=spec.device)
        low, high = (torch.full_like(count, bound, dtype=torch.float64) for bound in bounds)
        return {"count": count, "saturated": count[:, None].repeat(1, spec.nodes), "low": low, "high": high}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        low, high = (state["low"][0] + self.delta).to(x.dtype), (state["high"][0] - self.delta).to(x.dtype)
        # torch compares into floats of 0 and 1, and sums them, several times faster than bools.
        saturated = torch.le(x, low, out=torch.empty_like(x))
        torch.maximum(saturated, torch.ge(x, high, out=torch.empty_like(x)), out=saturated)
        classes = len(state["count"])
        sums = class_sums(saturated, y, classes).long()
        return self.merge(state, state | {"count": class_counts(y, classes), "saturated": sums})

    def merge(self, a: State, b: State) -> State:
        return a | {key: a[key] + b[key] for key in ("count", "saturated")}

    def finalize(self, state: State) -> Variables:
        return shares("saturation", state["saturated"], state["count"])
