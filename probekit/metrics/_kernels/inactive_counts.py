"""How often each node is inactive, per class, and shares of samples from such counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit.metrics._kernels.class_sums import class_counts
from probekit.metrics._kernels.relabelled_sums import RelabelledSums
from probekit.metrics._kernels.sums import Sums
from probekit.metrics.block import Array, Codes
from probekit.metrics.protocol import Spec, State, Variables

__all__ = ["InactiveCounts", "shares"]


def shares(name: str, hits: Tensor, count: Tensor) -> Variables:
    """Shares of samples, from the `hits` (class, node) among the `count` (class): per class and node, node, and site.

    The variables are `name` (label, node), `name`_node (node) over all samples, and `name`_site (), the mean over the
    nodes. NaN where there are no samples.
    """
    hits = hits.double()
    node = hits.sum(0) / count.sum()
    return {
        name: (("label", "node"), (hits / count[:, None]).cpu().numpy()),
        f"{name}_node": (("node",), node.cpu().numpy()),
        f"{name}_site": ((), node.mean().cpu().numpy()),
    }


@dataclass(frozen=True)
class InactiveCounts(Sums):
    """Base of metrics of how often a node is on: the state is `count` (class) and `inactive` (class, node), int64.

    A node is inactive, or off, for a sample where its value is at or below `threshold`. Each position of a feature map
    counts: the mean of a map is 0 only if it is 0 everywhere.
    """

    threshold: float = 0.0
    version: ClassVar[int] = 2  # in version 1 the mean over a map's positions was one sample
    positions: ClassVar[str] = "each"

    @property
    def state_key(self) -> tuple[str, float]:
        return "inactive counts", self.threshold

    def init(self, spec: Spec) -> State:
        inactive = torch.zeros(spec.classes, spec.nodes, dtype=torch.int64, device=spec.device)
        return {"count": torch.zeros(spec.classes, dtype=torch.int64, device=spec.device), "inactive": inactive}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        classes = len(state["count"])
        # torch compares into floats of 0 and 1, and sums them, far faster than bools.
        exact = torch.float32 if len(x) < 2**24 else torch.float64
        inactive = torch.le(x, self.threshold, out=torch.empty_like(x, dtype=exact))
        sums = inactive.new_zeros(state["inactive"].shape).index_add_(0, y, inactive)
        return self.merge(state, {"count": class_counts(y, classes), "inactive": sums.long()})

    def relabelled(self, spec: Spec, labellings: int) -> RelabelledSums:
        return _Counts(spec, labellings, self.threshold)


class _Counts(RelabelledSums):
    def __init__(self, spec: Spec, labellings: int, threshold: float) -> None:
        super().__init__(spec, labellings, ("inactive",))
        self._threshold = threshold

    def _tables(self, x: Tensor) -> Iterable[Array]:
        return [(x <= self._threshold).double().numpy()]

    def _state(self, count: Codes, sums: Array) -> State:
        return {key: each.long() for key, each in super()._state(count, sums).items()}
