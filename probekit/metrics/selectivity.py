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
from probekit.metrics.ranges import CORRELATION, SHARE, SIZE, Ranges

__all__ = ["Perplexity", "Selectivity"]

_ROUNDING = 1e-12  # relative to the largest mean: a smaller difference may come from the order of summation
_PLACES = 64  # at which the distribution of the largest mean is computed
_LEAST = 1e-300
_SECONDS = 2e-7  # that one of them takes for a class, on one core
_BEYOND = 6.0  # standard errors that it reaches beyond the means


@dataclass(frozen=True)
class Selectivity(ClassMoments):
    """How far the mean of a node's preferred class exceeds the other means: 0 not at all, 1 where the others are 0.

    `selectivity` (node), float64, at most 1: (μ_max − μ_rest) / (μ_max + μ_rest + ε), where μ_max is the largest of the
    class means, and μ_rest the mean of the other class means, each class weighing the same (Morcos et al. 2018). ε
    makes the selectivity 0 for a dead node; it also lowers it for a node whose means are as small as ε.
    `selectivity_preferred` (label, node), bool, is True for the class with the largest mean: for several classes where
    they tie, for none where all classes tie. Its ``.sum("node")`` counts the nodes that prefer each class.

    The largest of the samples' means is too large, the more so the fewer samples. By default the difference μ_max −
    μ_rest is cross-fitted: the preferred class is chosen on one half of each class's samples, and its mean and those of
    the others are taken from the other half, on average over all halves. It is still divided by the sum of the means of
    all samples. The moments of the classes tell how far the means of halves vary; they are taken to be distributed
    within their bounds, 0 and twice the class's mean, as the normal distribution function of normal values. The result
    is in [−1, 1]; for classes that are alike and of equal size it is about 0, and below for about half of the nodes.
    NaN where no class has two samples. Means over 400 repeats of 10 identical classes, normal values after a ReLU, and
    the standard deviation of the corrected value:

    ===============  ======  ======  ======  ======  ======
    samples a class  10      20      50      180     1,000
    ===============  ======  ======  ======  ======  ======
    plain            0.315   0.239   0.155   0.087   0.038
    corrected        -0.014  -0.005  -0.007  -0.002  0.000
    deviation        0.133   0.095   0.073   0.037   0.016
    ===============  ======  ======  ======  ======  ======

    The same of a ReLU that is on for 2 % of all samples:

    ===============  ======  ======  ======  ======  ======
    samples a class  10      20      50      180     1,000
    ===============  ======  ======  ======  ======  ======
    plain            0.762   0.813   0.660   0.443   0.223
    corrected        0.007   -0.004  -0.038  -0.020  -0.003
    deviation        0.193   0.209   0.215   0.166   0.095
    ===============  ======  ======  ======  ======  ======

    A node that few samples of its class show to be selective comes out too low, since a half of them may show another
    class: 0.25 in place of 0.82 for one that is on for 20 % of the 10 samples of a class and 2 % of those of nine
    others, and 0.55 where they are 50. So does one whose classes lie close to each other, as ReLUs of ten normal
    classes evenly within a deviation: 0.13, 0.18 and 0.22 for 12, 50 and 300 samples a class, and 0.23 is true.

    A class that is much smaller than the others leaves the selectivity of sparse nodes too large, since all of its
    samples may be 0. Take `ks` or `auroc` there, or compare it with that of shuffled labels,
    ``null="permute"``. Means for two classes that are alike:

    ==================  ==========  ============
    on for … of all     190 and 10  950 and 50
    ==================  ==========  ============
    50 %                0.01        0.00
    10 %                0.25        0.04
    2 %                 0.56        0.25
    exp(2 × normal)     0.13        0.05
    ==================  ==========  ============

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
    # Version 1 wasn't corrected. Version 2 took means to have normal errors, of one variance for all classes, and
    # divided by the cross-fitted means: sparse nodes came out far above 0, or below −1.
    version: ClassVar[int] = 3

    @property
    def ranges(self) -> Ranges:
        return {"selectivity": CORRELATION if self.corrected else SHARE}

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
        rest = (_in_order(mean) - highest) / (there.sum() - 1)
        preferred = _cross_fitted(state) if self.corrected else highest
        apart = preferred - (_in_order(mean) - preferred) / (there.sum() - 1)
        apart = apart.masked_fill(apart.abs() <= _ROUNDING * highest, 0.0)  # a difference of rounding
        value = apart / (highest + rest + self.epsilon)
        value = value.clamp(min=-1 if self.corrected else 0)
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

    The mean of a half of a class lies around the class's mean m by as much as its samples vary, and within 0 and 2 m,
    where one sample has all. Its share of both halves is taken to be Φ(s Z) of a normal Z, whose variance is
    arcsin(s² / (1 + s²)) / 2π. The other half then has the mean 2 m less that one's.
    """
    there = state["count"] > 1
    if not there.any():
        return state["mean"].new_full(state["mean"].shape[1:], torch.nan)
    there = state["count"] > 0
    count, mean = state["count"][there, None].double(), state["mean"][there]
    # A class of one sample is in one of the halves, as one is that has a single value above 0.
    error = (state["m2"][there] / count / (count - 1)).sqrt().where(count > 1, mean).clamp(max=mean)
    sure = error.amax(0) <= _ROUNDING * mean.amax(0)
    return torch.where(sure, mean.amax(0), _largest_of_half(mean, error))


def _largest_of_half(mean: Tensor, error: Tensor) -> Tensor:
    """Summed up over the values that the largest mean of a half may have."""
    low = (mean - _BEYOND * error).clamp(min=0).amax(0)
    high = (mean + _BEYOND * error).clamp(max=2 * mean).amax(0)
    edges = low + (high - low) * torch.linspace(0, 1, _PLACES + 1, dtype=mean.dtype, device=mean.device)[:, None]
    middle = (edges[1:] + edges[:-1]) / 2
    below, total, weights = torch.ones_like(edges), torch.zeros_like(middle), torch.zeros_like(middle)
    for m, e in zip(mean, error, strict=True):
        share = _below(edges, m, e)
        weight = share.diff(dim=0) / (share[1:] + share[:-1]).clamp(min=_LEAST)  # that this class is the largest one
        other = torch.minimum((2 * m - middle).clamp(min=0), 2 * m)
        total, weights = total + weight * other, weights + weight
        below = below * share
    return _in_order(below.diff(dim=0) * total / weights.clamp(min=_LEAST))


def _below(edges: Tensor, mean: Tensor, error: Tensor) -> Tensor:
    """The probability that the mean of a half of a class is below each edge, (edge, node)."""
    variance = (error / (2 * mean.clamp(min=_LEAST))).square()
    sine = (2 * torch.pi * variance).sin()
    spread = (sine / (1 - sine).clamp(min=_ROUNDING)).sqrt().clamp(min=_ROUNDING)
    at = (edges / mean.clamp(min=_LEAST) - 1).clamp(-1, 1)
    return (1 + (at.erfinv() / spread).erf()) / 2


def _in_order(terms: Tensor) -> Tensor:
    """The sum along the first axis, whose last bits don't depend on the number of nodes."""
    return terms.cumsum(0)[-1]


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
