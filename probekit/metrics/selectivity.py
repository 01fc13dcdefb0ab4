"""The classes that a node responds to, and how selectively."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit.errors import PluginError
from probekit.metrics._kernels.class_sums import class_counts, class_minima, class_sums, no_minima
from probekit.metrics._kernels.inactive_counts import InactiveCounts
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Parameters, Spec, State, Variables

__all__ = ["Perplexity", "Selectivity"]

_ROUNDING = 1e-12  # relative to the largest mean: a smaller difference may come from the order of summation


@dataclass(frozen=True)
class Selectivity(Parameters):
    """How far the mean of a node's preferred class exceeds the other means: 0 not at all, 1 where the others are 0.

    `selectivity` (node), float64 in [0, 1]: (μ_max − μ_rest) / (μ_max + μ_rest + ε), where μ_max is the largest of the
    class means, and μ_rest the mean of the other class means, each class weighing the same (Morcos et al. 2018). ε
    makes the selectivity 0 for a dead node; it also lowers it for a node whose means are as small as ε.
    `selectivity_preferred` (label, node), bool, is True for the class with the largest mean: for several classes where
    they tie, for none where all classes tie. Its ``.sum("node")`` counts the nodes that prefer each class.

    The metric is for activations that are never negative (ReLU, sigmoid). The selectivity is NaN and no class is
    preferred at a node with a value below 0, with fewer than two classes that have samples, and where a class mean is
    infinite; classes without samples don't count. It sees means only: a few large values of a class look like many
    small ones, and a node that is selective for two classes looks less selective than a node that is for one.
    """

    epsilon: float = 1e-6
    name: ClassVar[str] = "selectivity"
    headline: ClassVar[Headline] = Headline(
        "selectivity",
        "mean",
        "nodes respond to one class only",
        neutral=0.0,
        missing="nodes go below 0 (it needs x ≥ 0; use auroc or dprime), or there are no two classes",
    )

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise PluginError(
                f"Selectivity(epsilon={self.epsilon!r}): epsilon must be above 0: a dead node needs it to have a value."
            )

    def init(self, spec: Spec) -> State:
        count = torch.zeros(spec.classes, dtype=torch.int64, device=spec.device)
        return {"count": count, "sum": count[:, None].double().repeat(1, spec.nodes), "min": no_minima(spec)}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        classes = len(state["count"])
        sums, least = class_sums(x, y, classes), class_minima(x, y, classes)
        return self.merge(state, {"count": class_counts(y, classes), "sum": sums, "min": least})

    def merge(self, a: State, b: State) -> State:
        return {"count": a["count"] + b["count"], "sum": a["sum"] + b["sum"], "min": torch.minimum(a["min"], b["min"])}

    def finalize(self, state: State) -> Variables:
        there = state["count"] > 0
        mean = state["sum"] / state["count"].clamp(min=1)[:, None]  # 0 for a class without samples
        highest, preferred = mean.max(dim=0)
        rest = mean.scatter(0, preferred[None], 0.0).sum(0) / (there.sum() - 1)
        value = ((highest - rest) / (highest + rest + self.epsilon)).clamp(min=0)
        value = value.where((state["min"].amin(0) >= 0) & (there.sum() > 1), torch.nan)
        largest = mean >= highest * (1 - _ROUNDING)
        known = value.isfinite() & (largest.sum(0) < there.sum())
        return {
            "selectivity": (("node",), value.cpu().numpy()),
            "selectivity_preferred": (("label", "node"), (largest & known).cpu().numpy()),
        }


@dataclass(frozen=True)
class Perplexity(InactiveCounts):
    """Effective number of classes for which a node is on, each weighted by its share of the samples.

    `perplexity` (node), float64, from 1 (on for a single class) to the number of classes (on equally for all): the
    exponential of the entropy of P(class | on), exp(−Σ p_c ln p_c), where p_c is the share of class c among the samples
    for which the node is above `threshold`. NaN for a dead node, which is on for no sample.

    Classes weigh by their number of samples: in a data set with more samples of one class, a node that is always on has
    the perplexity of the data set itself, not the number of classes. The size of the activation doesn't matter. The
    default threshold 0 is for ReLU; a sigmoid needs a threshold between its bounds. For feature maps each position is a
    sample of its own. `feature_entropy` weighs the samples by how active the node is.
    """

    name: ClassVar[str] = "perplexity"
    headline: ClassVar[Headline] = Headline(
        "perplexity", "mean", "nodes are on for many classes", missing="nodes are on for no sample"
    )

    def finalize(self, state: State) -> Variables:
        on = (state["count"][:, None] - state["inactive"]).double()
        entropy = torch.special.entr(on / on.sum(0)).sum(0)
        return {"perplexity": (("node",), entropy.exp().cpu().numpy())}
