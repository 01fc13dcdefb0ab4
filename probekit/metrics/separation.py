"""The separation of classes: the distances of their means relative to the spread within them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.metrics._kernels.class_means import class_moments, own_mean_share
from probekit.metrics._kernels.class_moments import ClassMoments
from probekit.metrics._kernels.class_pairs import distances, keeps_pairs, nodes_at_once, table_bytes
from probekit.metrics._kernels.node_blocks import join_nodes
from probekit.metrics.block import NODES, Array
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Samples, Spec, State, Variables

__all__ = ["DPrime", "Fisher", "Separability"]


@dataclass(frozen=True)
class DPrime(ClassMoments):
    """Distance between the means of two classes at a node, in standard deviations: d′.

    ``|μ_a − μ_b| / √((σ_a² + σ_b²) / 2)``, with σ² the mean square deviation (ddof 0). For two classes of n samples
    each, this is Cohen's d times √(n / (n − 1)). Float64, from 0 (equal means) to infinity (no spread in either class):

    - `dprime` (label, label_b, node): symmetric, 0 on the diagonal; kept up to 64 classes, or as `pairs` says;
    - `dprime_mean` and `dprime_max` (node): the mean and the largest over the pairs of classes;
    - `dprime_constant` (node), bool: all samples are equal (a dead node, say), so that d′ is 0.

    A class without samples is NaN in its pairs and left out of the mean and the maximum; a class with an infinite value
    makes its pairs, the mean and the maximum NaN. With fewer than two classes the mean and the maximum are NaN. A class
    of one sample has no spread, which makes d′ too large.

    d′ sees means only: classes that differ in spread alone have d′ 0. Where values are far from normal, such as those
    of a ReLU, it says little about how much two classes overlap; `overlap` and `auroc` measure that.
    """

    pairs: bool | None = None
    name: ClassVar[str] = "dprime"
    headline: ClassVar[Headline] = Headline(
        "dprime_mean",
        "median",
        "class means are many standard deviations apart at single nodes",
        neutral=0.0,
        missing="it needs two classes with samples, and finite values",
    )

    def memory(self, spec: Spec, samples: int) -> int:
        pairs = keeps_pairs(spec.classes, self.pairs)
        scratch = 8 * 8 * spec.classes * min(spec.nodes, NODES)
        return 32 * spec.classes * spec.nodes + scratch + table_bytes(spec, 2 * pairs, 2 * pairs)

    @np.errstate(invalid="ignore")  # infinite values
    def finalize(self, state: State) -> Variables:
        count, nodes = state["count"].cpu(), state["mean"].shape[1]
        mean, variance = state["mean"].cpu(), (state["m2"] / state["count"].clamp(min=1)[:, None]).cpu()
        kept, keep = np.flatnonzero(count), keeps_pairs(len(count), self.pairs)
        width = nodes_at_once(len(count)) if keep else NODES
        found = []
        for start in range(0, nodes, width):
            means, variances = (each[kept, start : start + width].numpy() for each in (mean, variance))
            each_class = (_with_later(means, variances, place) for place in range(len(kept) - 1))
            shape, own = (len(count), means.shape[1]), means - means  # NaN where a value is infinite
            found.append(distances("dprime", each_class, kept, shape, keep, own))
        between, within = _squares(state)
        constant = ((between == 0) & (within == 0)).cpu().numpy()
        return join_nodes(found) | {"dprime_constant": (("node",), constant)}


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def _with_later(mean: Array, variance: Array, place: int) -> Array:
    """d′ of the class at a place with each later class, (later, node), from the `mean` and `variance` of all."""
    spread = np.add(variance[place], variance[place + 1 :])
    spread /= 2
    np.sqrt(spread, out=spread)
    apart: Array = np.subtract(mean[place], mean[place + 1 :])
    np.abs(apart, out=apart)
    alike = (apart == 0) & (spread == 0)
    apart /= spread
    apart[alike] = 0
    return apart


@dataclass(frozen=True)
class Fisher(ClassMoments):
    """Ratio of the between-class to the within-class sum of squares at a node: the variance that the classes explain.

    `fisher` (node), float64, from 0 (equal means, or a constant node) to infinity (no spread within the classes):
    Σ n_c (μ_c − μ)² / Σ_c Σ (x − μ_c)², with μ the mean of all samples (Fisher 1936). Multiplied by (n − C) / (C − 1),
    where C classes have samples, it is the F of an analysis of variance. If the classes explain the share η² of the
    variance, it is η² / (1 − η²). NaN with fewer than two classes that have samples, and where a value is infinite.

    Large classes weigh more. The ratio sees means only, of all classes at once: one class far from the others looks
    like several classes a little apart; `dprime` has the pairs.
    """

    name: ClassVar[str] = "fisher"
    headline: ClassVar[Headline] = Headline(
        "fisher",
        "median",
        "the class explains much of a node's variance",
        neutral=0.0,
        missing="it needs two classes with samples, and finite values",
    )

    def finalize(self, state: State) -> Variables:
        between, within = _squares(state)
        ratio = _ratio(between, within) if _number(state) > 1 else torch.full_like(between, torch.nan)
        return {"fisher": (("node",), ratio.cpu().numpy())}


@dataclass(frozen=True)
class Separability(ClassMoments):
    """Ratio of the between-class to the within-class scatter of a whole site: how far apart its classes lie.

    - `separability` (), float64: tr S_B / tr S_W − (C − 1) / (n − C), with S_B = Σ n_c (μ_c − μ)(μ_c − μ)ᵀ and S_W =
      Σ_c Σ (x − μ_c)(x − μ_c)ᵀ. The second term is what the ratio comes to where the classes have equal means and n
      samples show C different ones (Kelley's ε² is corrected alike), so that 0 says nothing whatever n; it may be a
      little below. 0 where both are 0, infinity where only S_W is;
    - `separability_calinski_harabasz` (), float64: tr S_B / tr S_W · (n − C) / (C − 1), where C classes have samples
      (Caliński and Harabasz 1974). 1 says nothing; it grows with the number of samples;
    - `separability_nearest_mean` (), float64 in [0, 1]: the share of samples whose nearest class mean, by Euclidean
      distance, is that of their own class. A sample's own class has the mean of its other samples (leave-one-out), and
      from each squared distance s² / n_c is taken, the part that comes from the few samples of a mean, with s² =
      tr S_W / (n − C) (Aoshima and Yata 2014). Where nothing tells the classes it is about 1 / C. Means that are
      equally near count in equal parts; a sample that is alone in its class counts as wrong. Rows of a sample that
      follow each other, such as tokens, are left out of the mean together. It needs a second pass over a store, and
      isn't available while a model runs.

    NaN with fewer than two classes, without a class of two samples, and where a value is infinite. Where rows are
    tokens, those of a sample aren't independent, so that `separability` is above 0 for classes that mean nothing.

    None of them changes when the nodes are rotated or all scaled alike, but nodes with large values outweigh the
    others. They see distances of means only. Unlike a linear probe, they can't see whether classes are separable along
    a direction of little variance.

    In version 2 the ratio wasn't corrected, and the nearest means were those of the samples themselves.
    """

    name: ClassVar[str] = "separability"
    split_by: ClassVar[None] = None
    headline: ClassVar[Headline] = Headline(
        "separability",
        None,
        "class means are far apart beside the spread within classes",
        neutral=0.0,
        missing="it needs two classes, one of them of two samples, and finite values",
    )
    version: ClassVar[int] = 3

    def memory(self, spec: Spec, samples: int) -> int:
        # Two states, and twice the means; the rows of a batch, their means and scores.
        return 48 * spec.classes * spec.nodes + 32 * samples

    def compute_samples(self, samples: Samples) -> Variables:
        state = class_moments(samples)
        return self.finalize(state) | {"separability_nearest_mean": ((), np.asarray(own_mean_share(samples, state)))}

    def finalize(self, state: State) -> Variables:
        number, between, within = _number(state), *(squares.sum() for squares in _squares(state))
        spare = state["count"].sum().double() - number
        ratio = _ratio(between, within) if number > 1 and spare > 0 else between.new_tensor(torch.nan)
        corrected = ratio - ((number - 1) / spare).where(within > 0, 0.0)
        return {
            "separability": ((), corrected.cpu().numpy()),
            "separability_calinski_harabasz": ((), (ratio * spare / max(1, number - 1)).cpu().numpy()),
        }


def _number(state: State) -> int:
    """The number of classes that have samples."""
    return int((state["count"] > 0).sum())


def _squares(state: State) -> tuple[Tensor, Tensor]:
    """The sums of squares between and within the classes, (node,) each."""
    count = state["count"].double()[:, None]
    # Relative to the mean of one class, so that the sum is exactly 0 where all means are equal.
    apart = state["mean"] - state["mean"][state["count"].argmax()]
    apart = apart - (count * apart).sum(0) / count.sum()
    return (count * apart.square()).sum(0), state["m2"].sum(0)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """The ratio, 0 where both are 0."""
    return (above / below).where((above != 0) | (below != 0), 0.0)
