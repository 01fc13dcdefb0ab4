"""Sparsity: how often a node is inactive, and which nodes always or never are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit.metrics._kernels.inactive_counts import InactiveCounts, shares
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import State, Variables
from probekit.metrics.ranges import SHARE, Ranges

__all__ = ["AlwaysOn", "Dead", "Sparsity"]


@dataclass(frozen=True)
class Sparsity(InactiveCounts):
    """Share of samples with an activation at or below `threshold`, per class and node, per node, and per site.

    `sparsity` (label, node); `sparsity_node` (node), over all samples; `sparsity_site` (), the mean over the nodes,
    which Table 1 of Pretorius et al. (2019) shows in per cent. In [0, 1], float64, exact; NaN for a class without
    samples. With the default threshold 0 it is the share of samples for which a ReLU is off; for a sigmoid it is 0.

    For feature maps each position is a sample of its own, also where other metrics see the mean over positions; the
    attribute `positions` of each variable says so. Where the capture kept the mean (``reduce="mean"``), the share is
    that of means, which are 0 for whole maps of zeros only: capture without `reduce`, or use `measure_live`.

    The number isn't the sparseness of Treves and Rolls (1991), which weighs how unequal the activations are: that is
    `lifetime_sparseness` and `population_sparseness`.
    """

    name: ClassVar[str] = "sparsity"
    ranges: ClassVar[Ranges] = {"sparsity": SHARE, "sparsity_node": SHARE, "sparsity_site": SHARE}
    headline: ClassVar[Headline] = Headline(
        "sparsity_site", None, "nodes are off for most samples", missing="there are no samples"
    )

    def finalize(self, state: State) -> Variables:
        return shares("sparsity", state["inactive"], state["count"])


@dataclass(frozen=True)
class Dead(InactiveCounts):
    """Number and share of a site's nodes that are off for every sample.

    `dead` (), int64, counts the nodes whose values are all at or below `threshold`: their `sparsity_node` is 1.
    `dead_share` (), float64 in [0, 1], is that number divided by the number of nodes. The default threshold 0 is for
    ReLU; a sigmoid is always above it. The result holds for these samples only: a node that is dead for the samples of
    one data set may be on for those of another. Without samples, `dead` is 0 and `dead_share` NaN.

    For feature maps a node is dead if it is off at every position. These are not the τ-dormant neurons of Sokar et al.
    (2023), which are weak beside the other nodes of their layer: those are counted by `dormant`.
    """

    name: ClassVar[str] = "dead"
    ranges: ClassVar[Ranges] = {"dead_share": SHARE}
    headline: ClassVar[Headline] = Headline(
        "dead_share", None, "many nodes are off for every sample", missing="there are no samples"
    )

    def finalize(self, state: State) -> Variables:
        return _number("dead", state["inactive"].sum(0) == state["count"].sum(), state)


@dataclass(frozen=True)
class AlwaysOn(InactiveCounts):
    """Number and share of a site's nodes that are on for every sample.

    `always_on` (), int64, counts the nodes whose values are all above `threshold`: their `sparsity_node` is 0.
    `always_on_share` (), float64 in [0, 1], is that number divided by the number of nodes. A ReLU that is always on is
    linear on these samples. With the default threshold 0 nearly all nodes of a sigmoid are always on. Without samples,
    `always_on` is 0 and `always_on_share` NaN. For feature maps it is on at every position.
    """

    name: ClassVar[str] = "always_on"
    ranges: ClassVar[Ranges] = {"always_on_share": SHARE}
    headline: ClassVar[Headline] = Headline(
        "always_on_share", None, "many nodes are on for every sample", missing="there are no samples"
    )

    def finalize(self, state: State) -> Variables:
        return _number("always_on", state["inactive"].sum(0) == 0, state)


def _number(name: str, nodes: Tensor, state: State) -> Variables:
    """The number and the share of the chosen `nodes` (node), bool."""
    sampled = state["count"].sum() > 0
    return {
        name: ((), (nodes & sampled).sum().cpu().numpy()),
        f"{name}_share": ((), nodes.double().mean().where(sampled, torch.nan).cpu().numpy()),
    }
