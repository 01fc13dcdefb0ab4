"""How often a node is inactive, and the nodes that always are, or never."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit.metrics.moments import class_counts
from probekit.metrics.protocol import Parameters, Spec, State, Variables

__all__ = ["AlwaysOn", "Dead", "InactiveCounts", "Sparsity", "shares"]


def shares(name: str, hits: Tensor, count: Tensor) -> Variables:
    """Shares of samples, from the `hits` (class, node) among the `count` (class): by class and node, node, and site.

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
class InactiveCounts(Parameters):
    """Base of metrics of how often a node is on: the state is `count` (class) and `inactive` (class, node), int64.

    A node is inactive, or off, for a sample where its value is at or below `threshold`.
    """

    threshold: float = 0.0

    @property
    def state_key(self) -> tuple[str, float]:
        return "inactive counts", self.threshold

    def init(self, spec: Spec) -> State:
        inactive = torch.zeros(spec.classes, spec.nodes, dtype=torch.int64, device=spec.device)
        return {"count": torch.zeros(spec.classes, dtype=torch.int64, device=spec.device), "inactive": inactive}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        classes = len(state["count"])
        # As floats of 0 and 1, by which these can be counted: torch compares into bools, and sums them, far slower.
        exact = torch.float32 if len(x) < 2**24 else torch.float64
        inactive = torch.le(x, self.threshold, out=torch.empty_like(x, dtype=exact))
        sums = inactive.new_zeros(state["inactive"].shape).index_add_(0, y, inactive)
        return self.merge(state, {"count": class_counts(y, classes), "inactive": sums.long()})

    def merge(self, a: State, b: State) -> State:
        return {key: a[key] + b[key] for key in a}


@dataclass(frozen=True)
class Sparsity(InactiveCounts):
    """Share of samples with an activation at or below `threshold`: by class and node, node, and site.

    `sparsity` (label, node); `sparsity_node` (node), over all samples; `sparsity_site` (), the mean over the nodes,
    which is what Table 1 of Pretorius et al. (2019) shows in per cent. In [0, 1], float64, exact; NaN for a class
    without samples. With the default threshold 0 it tells how often a ReLU is off; for a sigmoid it is 0.
    """

    name: ClassVar[str] = "sparsity"

    def finalize(self, state: State) -> Variables:
        return shares("sparsity", state["inactive"], state["count"])


@dataclass(frozen=True)
class Dead(InactiveCounts):
    """Number and share of a site's nodes that are off for every sample.

    `dead` (), int64, counts the nodes whose values are all at or below `threshold`: those of `sparsity_node` 1.
    `dead_share` (), float64 in [0, 1], is that over the site's nodes. With the default threshold 0 it is for ReLU;
    a sigmoid is never off by it. It speaks of these samples alone: a node that is dead for the samples of one data set
    may be on for those of another. NaN, and 0 nodes, without samples.
    """

    name: ClassVar[str] = "dead"

    def finalize(self, state: State) -> Variables:
        return _number("dead", state["inactive"].sum(0) == state["count"].sum(), state)


@dataclass(frozen=True)
class AlwaysOn(InactiveCounts):
    """Number and share of a site's nodes that are on for every sample.

    `always_on` (), int64, counts the nodes whose values are all above `threshold`: those of `sparsity_node` 0.
    `always_on_share` (), float64 in [0, 1], is that over the site's nodes. A ReLU that is always on is linear on these
    samples. With the default threshold 0 nearly all nodes of a sigmoid are. NaN, and 0 nodes, without samples.
    """

    name: ClassVar[str] = "always_on"

    def finalize(self, state: State) -> Variables:
        return _number("always_on", state["inactive"].sum(0) == 0, state)


def _number(name: str, nodes: Tensor, state: State) -> Variables:
    """The count and the share of the `nodes` (node), bool, that are chosen."""
    sampled = state["count"].sum() > 0
    return {
        name: ((), (nodes & sampled).sum().cpu().numpy()),
        f"{name}_share": ((), nodes.double().mean().where(sampled, torch.nan).cpu().numpy()),
    }
