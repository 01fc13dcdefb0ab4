"""Pairs of a site's nodes: how often they are on together, and how they vary together within classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit._sizes import format_size
from probekit.errors import PluginError
from probekit.metrics._kernels.class_moments import first_of_each
from probekit.metrics._kernels.class_sums import class_counts, class_sums
from probekit.metrics._kernels.sums import Sums
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, at_least
from probekit.metrics.protocol import BATCH, Parameters, Spec, State, Variables
from probekit.metrics.ranges import CORRELATION, SHARE, Ranges

__all__ = ["Coactivation", "NodeCorrelation"]

_EXACT = 2**24  # ones that a float32 counts exactly


def _check_number(name: str, nodes: int, most: int) -> None:
    """Raise PluginError for a site with more nodes than the table of all pairs may have."""
    if nodes > most:
        raise PluginError(
            f"its table of all pairs of the {nodes:,} nodes would take {format_size(8 * nodes**2)}, and max_nodes is "
            f"{most:,}. Leave the site out (sites=), capture some of its nodes (reduce=slice(0, {most})), "
            f"or ask for '{name}:max_nodes={nodes}'"
        )


def _over_pairs(table: Tensor) -> Tensor:
    """The mean over the pairs of different nodes, without those that are NaN."""
    apart = ~torch.eye(len(table), dtype=torch.bool, device=table.device)
    return table[apart].nanmean()


@dataclass(frozen=True)
class Coactivation(Sums):
    """How often two nodes of a site are on together, among the samples for which one of them is.

    A node is on where its value is above `threshold`. Float64 in [0, 1]:

    - `coactivation` (node, node_b): the index of Jaccard (1912), n_ab / (n_a + n_b − n_ab), where n_ab counts the
      samples for which both are on: 1 for nodes that are always on together, 0 for nodes that never are. NaN if neither
      is ever on;
    - `coactivation_site` (): its mean over the pairs of different nodes;
    - `coactivation_chance` (): that mean for nodes that are on as often as these, and independent of each other:
      p_a p_b / (p_a + p_b − p_a p_b). Nodes that are on for most samples are so together, whatever they mean.

    NaN without samples; the classes don't matter (``where={"label": 3}`` asks for one). For feature maps each position
    is a sample of its own, also where other metrics see the mean over positions. The counts take 8 bytes for each pair
    of nodes, twice that during an update, and so do the results; a site with more than `max_nodes` nodes is refused.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[2.0, 1], [4, 0], [0, 4], [0, 0]]))})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, "relu": relu}), "coactivation")["relu"]
    >>> m["coactivation"].values.round(2)
    array([[1.  , 0.33],
           [0.33, 1.  ]])
    """

    threshold: float = 0.0
    max_nodes: int = 2048
    limits: ClassVar[Limits] = {"max_nodes": at_least(1)}
    name: ClassVar[str] = "coactivation"
    ranges: ClassVar[Ranges] = {"coactivation": SHARE, "coactivation_site": SHARE, "coactivation_chance": SHARE}
    scope: ClassVar[str] = "site"
    positions: ClassVar[str] = "each"
    headline: ClassVar[Headline] = Headline(
        "coactivation_site",
        None,
        "nodes are on for the same samples",
        beside="coactivation_chance",
        missing="no node is on for any sample, or the site has one node",
    )

    def memory(self, spec: Spec, samples: int) -> int:
        _check_number(self.name, spec.nodes, self.max_nodes)
        tables, batch = 8 * spec.nodes**2, 2 * 8 * min(BATCH, samples) * spec.nodes
        return max(4 * tables + batch, 12 * tables)  # the counts and new ones; all of which the results are made

    def init(self, spec: Spec) -> State:
        _check_number(self.name, spec.nodes, self.max_nodes)
        both = torch.zeros(spec.nodes, spec.nodes, dtype=torch.int64, device=spec.device)
        return {"count": torch.zeros((), dtype=torch.int64, device=spec.device), "both": both}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        on = torch.gt(x, self.threshold).to(torch.float32 if len(x) < _EXACT else torch.float64)
        return self.merge(state, {"count": state["count"].new_tensor(len(x)), "both": (on.T @ on).long()})

    def finalize(self, state: State) -> Variables:
        both = state["both"].double()
        each = both.diagonal()
        either = each[:, None] + each - both
        rate = each / state["count"]
        together = rate[:, None] * rate
        jaccard, chance = both / either, together / (rate[:, None] + rate - together)
        return {
            "coactivation": (("node", "node_b"), jaccard.cpu().numpy()),
            "coactivation_site": ((), _over_pairs(jaccard).cpu().numpy()),
            "coactivation_chance": ((), _over_pairs(chance).cpu().numpy()),
        }


@dataclass(frozen=True)
class NodeCorrelation(Parameters):
    """Correlation of two nodes of a site within the classes, and of their class means.

    Float64 in [−1, 1]:

    - `node_correlation` (node, node_b): Pearson's r of the deviations from the class means, S_ab / √(S_aa S_bb) with
      S_ab = Σ_c Σ (x_a − μ_ca)(x_b − μ_cb): what two nodes share beside the class, which neuroscience calls the noise
      correlation (Cohen and Kohn 2011). With one class, or ``by=None``, it is numpy's ``corrcoef``;
    - `node_correlation_signal` (node, node_b): Pearson's r of the class means, each class weighing the same: whether
      two nodes prefer the same classes, the signal correlation;
    - `node_correlation_site` (): the mean of ``|node_correlation|`` over the pairs of different nodes.

    NaN at nodes that are constant within every class (or whose class means are all equal), with one sample a class, and
    where a value is infinite; the signal correlation also with fewer than two classes, and with two it is 1 or −1, and
    has no interval. At n samples in C classes, ``|r|`` of independent nodes is √(2 / (π (n − C))) on average: 0.08 of
    100 samples.

    The table takes 8 bytes for each pair of nodes, twice that during an update, and so do the results; a site with more
    than `max_nodes` nodes is refused.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[2.0, 1], [4, 0], [7, 8], [9, 6]]))})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, "relu": relu}), "node_correlation")["relu"]
    >>> m["node_correlation"].values.round(2)[0], m["node_correlation_signal"].values[0]
    (array([ 1.  , -0.95]), array([1., 1.]))
    """

    max_nodes: int = 2048
    limits: ClassVar[Limits] = {"max_nodes": at_least(1)}
    name: ClassVar[str] = "node_correlation"
    ranges: ClassVar[Ranges] = {
        "node_correlation": CORRELATION,
        "node_correlation_signal": CORRELATION,
        "node_correlation_site": SHARE,
    }
    interval: ClassVar[str] = "jackknife"
    scope: ClassVar[str] = "site"
    interval_classes: ClassVar[Mapping[str, int]] = {"node_correlation_signal": 3}
    headline: ClassVar[Headline] = Headline(
        "node_correlation_site",
        None,
        "nodes share much beside the class",
        neutral=0.0,
        missing="nodes are constant within every class, or the site has one node",
    )

    def memory(self, spec: Spec, samples: int) -> int:
        _check_number(self.name, spec.nodes, self.max_nodes)
        tables, batch = 8 * spec.nodes**2, 4 * 8 * min(BATCH, samples) * spec.nodes
        return max(4 * tables + batch, 9 * tables) + 12 * 8 * spec.classes * spec.nodes

    def init(self, spec: Spec) -> State:
        _check_number(self.name, spec.nodes, self.max_nodes)
        return {
            "count": torch.zeros(spec.classes, dtype=torch.int64, device=spec.device),
            "mean": torch.zeros(spec.classes, spec.nodes, dtype=torch.float64, device=spec.device),
            "scatter": torch.zeros(spec.nodes, spec.nodes, dtype=torch.float64, device=spec.device),
        }

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        if not len(x):
            return dict(state)
        count = class_counts(y, len(state["count"]))
        first = x.index_select(0, first_of_each(y, len(count))).double()  # exactly the mean where a class is constant
        rows = x.double().sub(first.index_select(0, y))
        shift = class_sums(rows, y, len(count)) / count[:, None].clamp(min=1)
        rows.sub_(shift.index_select(0, y))
        mean = torch.where(count[:, None] > 0, first + shift, 0.0)
        return self.merge(state, {"count": count, "mean": mean, "scatter": rows.T @ rows})

    def merge(self, a: State, b: State) -> State:
        here, there = a["count"][:, None].double(), b["count"][:, None].double()
        share = there / (here + there).clamp(min=1)
        gap = torch.where((here > 0) & (there > 0), b["mean"] - a["mean"], 0.0)
        apart = gap * (share * here).sqrt()  # Chan, Golub and LeVeque (1983), class by class
        scatter = torch.addmm(a["scatter"] + b["scatter"], apart.T, apart)
        mean = torch.where(here > 0, a["mean"] + gap * share, b["mean"])
        return {"count": a["count"] + b["count"], "mean": mean, "scatter": scatter}

    def finalize(self, state: State) -> Variables:
        means = state["mean"][state["count"] > 0]
        means = means - means[:1]  # exactly 0 where all means are equal
        apart = means - means.mean(0)
        within = _correlation(state["scatter"])
        return {
            "node_correlation": (("node", "node_b"), within.cpu().numpy()),
            "node_correlation_signal": (("node", "node_b"), _correlation(apart.T @ apart).cpu().numpy()),
            "node_correlation_site": ((), _over_pairs(within.abs()).cpu().numpy()),
        }


def _correlation(products: Tensor) -> Tensor:
    """Pearson's r from the sums of products; NaN where a sum of squares is 0 or infinite."""
    size = products.diagonal().sqrt()  # the root of each, since the product of the squares may be too large
    r = (products / size[:, None] / size).clamp(-1, 1)
    known = (size > 0) & size.isfinite()
    return r.where(known[:, None] & known, torch.nan)
