"""The classes that a node responds to, and how selectively."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit._beats import in_turn
from probekit.metrics._kernels.chance import grassberger
from probekit.metrics._kernels.class_moments import ClassMoments
from probekit.metrics._kernels.class_sums import class_minima, no_minima
from probekit.metrics._kernels.inactive_counts import InactiveCounts
from probekit.metrics._kernels.node_blocks import join_nodes
from probekit.metrics._kernels.relabelled_sums import RelabelledMoments
from probekit.metrics.block import NODES, Array, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, above
from probekit.metrics.protocol import BATCH, Spec, State, Variables
from probekit.metrics.ranges import SHARE, SIZE, UP_TO_ONE, Ranges

__all__ = ["Perplexity", "Selectivity"]

_ROUNDING = 1e-12  # relative to the largest mean: a smaller difference may come from the order of summation
_PLACES = 128  # at which the distribution of the largest mean is computed
_LEAST = 1e-300
_SECONDS = 4.5e-8  # that one of them takes for a class, on one core
_BEYOND = 6.0  # standard errors that it reaches beyond the means


@dataclass(frozen=True)
class Selectivity(ClassMoments):
    """How far the mean of a node's preferred class exceeds the other means: 0 not at all, 1 where the others are 0.

    `selectivity` (node), float64, at most 1: (μ_max − μ_rest) / (μ_max + μ_rest + ε), where μ_max is the largest of the
    class means, and μ_rest the mean of the other class means, each class weighing the same (Morcos et al. 2018). ε
    makes the selectivity 0 for a dead node; it also lowers it for a node whose means are as small as ε.
    `selectivity_preferred` (label, node), bool, is True for the class with the largest mean: for several classes where
    they tie, for none where all classes tie. Its ``.sum("node")`` counts the nodes that prefer each class.

    The largest of the samples' means is too large, the more so the fewer samples. By default it is cross-fitted: the
    preferred class is chosen on one half of the samples, and its mean and those of the others are taken from the other
    half, on average over all halves. Of means with normal errors this has a closed form (Gaussian fission: Leiner et
    al. 2023, Rasines and Young 2023), in which the error has the standard deviation of the samples within classes. For
    independent classes the result is 0 on average, and may be below. NaN where no class has two samples. Means over
    400 repeats of 10 identical classes, normal values after a ReLU, and the standard deviation of the corrected value:

    ===============  ======  ======  ======  ======  ======
    samples a class  10      20      50      180     1,000
    ===============  ======  ======  ======  ======  ======
    plain            0.315   0.239   0.155   0.087   0.038
    corrected        0.019   0.015   0.000   0.000   0.000
    deviation        0.199   0.131   0.088   0.042   0.017
    ===============  ======  ======  ======  ======  ======

    Args:
        corrected: False for the selectivity of the samples' own means, in [0, 1].

    The metric is for activations that are never negative (ReLU, sigmoid). The selectivity is NaN and no class is
    preferred at a node with a value below 0, with fewer than two classes that have samples, and where a class mean is
    infinite; classes without samples don't count. It sees means only: a few large values of a class look like many
    small ones, and a node that is selective for two classes looks less selective than a node that is for one.
    """

    epsilon: float = 1e-6
    corrected: bool = True
    limits: ClassVar[Limits] = {"epsilon": above(0)}
    name: ClassVar[str] = "selectivity"
    state_key: ClassVar[str] = "class moments and minima"
    headline: ClassVar[Headline] = Headline(
        "selectivity",
        "mean",
        "nodes respond to one class only",
        neutral=0.0,
        classes=2,
        missing="nodes go below 0 (it needs x ≥ 0; use auroc or dprime), or there are no two classes",
    )
    version: ClassVar[int] = 2  # version 1 wasn't corrected

    @property
    def ranges(self) -> Ranges:
        return {"selectivity": UP_TO_ONE if self.corrected else SHARE}

    def init(self, spec: Spec) -> State:
        return super().init(spec) | {"min": no_minima(spec)}

    def memory(self, spec: Spec, samples: int) -> int:
        least = 3 * 8 * spec.classes * spec.nodes + 8 * min(BATCH, samples) * spec.nodes  # with the class of each value
        return super().memory(spec, samples) + least

    def seconds(self, spec: Spec, samples: int) -> tuple[float, float]:
        return 0.0, _SECONDS * _PLACES * spec.classes * spec.nodes if self.corrected else 0.0

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        least = class_minima(x, y, len(state["count"]))
        return super().update(state, x, y) | {"min": torch.minimum(state["min"], least)}

    def relabelled(self, spec: Spec, labellings: int) -> RelabelledMoments:
        return _MomentsAndMinimum(spec, labellings)

    def merge(self, a: State, b: State) -> State:
        return super().merge(a, b) | {"min": torch.minimum(a["min"], b["min"])}

    def finalize(self, state: State) -> Variables:
        """Of few nodes at a time, for which tables of the classes stay small beside the state."""
        nodes = {key: each.split(NODES, -1) for key, each in state.items() if key != "count"}
        parts = ({key: each[at] for key, each in nodes.items()} for at in in_turn(range(len(nodes["mean"]))))
        return join_nodes(self._finalize({"count": state["count"], **part}) for part in parts)

    def _finalize(self, state: State) -> Variables:
        there = state["count"] > 0
        mean = state["mean"].where(there[:, None], 0.0)
        highest = mean.amax(dim=0)
        preferred = _cross_fitted(state) if self.corrected else highest
        rest = (_in_order(mean) - preferred) / (there.sum() - 1)
        apart = preferred - rest
        apart = apart.where(apart.abs() > _ROUNDING * highest, 0.0)  # a difference of rounding
        value = apart / (preferred + rest + self.epsilon)
        value = value if self.corrected else value.clamp(min=0)
        value = value.where((state["min"].amin(0) >= 0) & (there.sum() > 1), torch.nan)
        largest = mean >= highest * (1 - _ROUNDING)
        known = value.isfinite() & (largest.sum(0) < there.sum())
        return {
            "selectivity": (("node",), value.cpu().numpy()),
            "selectivity_preferred": (("label", "node"), (largest & known).cpu().numpy()),
        }


class _MomentsAndMinimum(RelabelledMoments):
    """Class moments, and in the place of each class's minimum that of all samples: only the least of them counts."""

    def __init__(self, spec: Spec, labellings: int) -> None:
        super().__init__(spec, labellings, 2)
        self._least = no_minima(spec)

    def add(self, x: Tensor, codes: Codes) -> None:
        super().add(x, codes)
        self._least = torch.minimum(self._least, x.amin(dim=0))

    def _state(self, count: Codes, sums: Array) -> State:
        return super()._state(count, sums) | {"min": self._least}


def _cross_fitted(state: State) -> Tensor:
    """The mean, in one half of the samples, of the class whose mean is the largest in the other half: (node,).

    Let m be a mean of all samples, and e an independent error of the same variance. m + e and m − e are then
    independent, as the means of two halves are. The mean of m − e of the class with the largest m + e is summed up over
    the values z = m + e, where m − e is 2 m − z.
    """
    there = state["count"] > 0
    count, mean = state["count"][there], state["mean"][there]
    free = int(count.sum()) - len(count)
    if not len(count) or free < 1:
        return mean.new_full(mean.shape[1:], torch.nan)
    error = (_in_order(state["m2"][there]) / free / count[:, None]).sqrt()
    sure = error.amax(0) <= _ROUNDING * mean.amax(0)
    error = error.where(~sure, 1.0)
    return torch.where(sure, mean.amax(0), _largest_of_half(mean, error))


def _largest_of_half(mean: Tensor, error: Tensor) -> Tensor:
    low, high = (mean - _BEYOND * error).amax(0), (mean + _BEYOND * error).amax(0)
    edges = low + (high - low) * torch.linspace(0, 1, _PLACES + 1, dtype=mean.dtype, device=mean.device)[:, None]
    middle = (edges[1:] + edges[:-1]) / 2
    below = sum((_logarithms((edges - m) / e)[1] for m, e in zip(mean, error, strict=True)), torch.zeros_like(middle))
    total, weights = torch.zeros_like(low), torch.zeros_like(low)
    for m, e in zip(mean, error, strict=True):
        share, logarithm = _logarithms((edges - m) / e)
        weight = share.diff(dim=0) * (below - logarithm).exp()  # that this class is at z, and all others below
        total, weights = total + _in_order(weight * (2 * m - middle)), weights + _in_order(weight)
    return total / weights


def _in_order(terms: Tensor) -> Tensor:
    """The sum along the first axis, whose last bits don't depend on the number of nodes."""
    return terms.cumsum(0)[-1]


def _logarithms(edges: Tensor) -> tuple[Tensor, Tensor]:
    """The normal distribution function at edges, and its logarithm between them."""
    share = torch.special.ndtr(edges)
    logarithm = share.clamp(min=_LEAST).log()
    return share, (logarithm[1:] + logarithm[:-1]) / 2


@dataclass(frozen=True)
class Perplexity(InactiveCounts):
    """Effective number of classes for which a node is on, each weighted by its share of the samples.

    `perplexity` (node), float64: the exponential of the entropy of P(class | on), H = −Σ p_c ln p_c, where p_c is the
    share of class c among the samples for which the node is above `threshold`. It is 1 for a node that is on for a
    single class, and the number of classes for one that is on equally for all. NaN for a dead node, which is on for no
    sample.

    Few samples for which the node is on lower it. By default H is corrected by Grassberger's estimate (2003). Since the
    samples of each class are given, the numbers that are on vary less than his do, and the correction counts by the
    share of samples for which the node is off. The result may exceed the number of classes, and is NaN for a node that
    is on for one sample. Means over 400 repeats of 10 classes, for a node that is on for half of all samples, and the
    standard deviation of the corrected value:

    ===============  ======  ======  ======  ======  ======
    samples a class  10      20      50      180     1,000
    ===============  ======  ======  ======  ======  ======
    plain            9.508   9.777   9.911   9.974   9.996
    corrected        10.04   10.02   10.01   10.00   10.00
    deviation        0.291   0.136   0.055   0.015   0.003
    ===============  ======  ======  ======  ======  ======

    Args:
        corrected: False for the perplexity of the samples, from 1 to the number of classes.

    Classes weigh by their number of samples: in a data set with more samples of one class, a node that is always on has
    the perplexity of the data set itself, not the number of classes. The size of the activation doesn't matter. The
    default threshold 0 is for ReLU; a sigmoid needs a threshold between its bounds. For feature maps each position is a
    sample of its own. `feature_entropy` weighs the samples by how active the node is.
    """

    corrected: bool = True
    name: ClassVar[str] = "perplexity"
    ranges: ClassVar[Ranges] = {"perplexity": SIZE}
    headline: ClassVar[Headline] = Headline(
        "perplexity",
        "mean",
        "nodes are on for many classes",
        missing="nodes are on for no sample, or for one, which tells nothing",
    )
    version: ClassVar[int] = 2  # version 1 wasn't corrected

    def finalize(self, state: State) -> Variables:
        on = (state["count"][:, None] - state["inactive"]).cpu()
        number = on.sum(0)
        entropy = torch.special.entr(on / number.double()).sum(0).numpy()
        if self.corrected:
            off = 1 - (number / state["count"].sum().cpu()).numpy()
            entropy = np.where(number.numpy() > 1, entropy + off * (grassberger(on.numpy()) - entropy), np.nan)
        return {"perplexity": (("node",), np.exp(entropy))}
