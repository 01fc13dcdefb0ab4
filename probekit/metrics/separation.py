"""The separation of classes: the distances of their means relative to the spread within them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import pi
from typing import ClassVar

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor

from probekit._beats import in_turn
from probekit.metrics._kernels.class_means import class_moments, own_mean_share, unit_bytes
from probekit.metrics._kernels.class_moments import ClassMoments
from probekit.metrics._kernels.class_pairs import distances, keeps_pairs, nodes_at_once, table_bytes
from probekit.metrics._kernels.node_blocks import join_nodes
from probekit.metrics.block import NODES, Array, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, at_least
from probekit.metrics.protocol import Samples, Spec, State, Variables
from probekit.metrics.ranges import SHARE, SIZE, Ranges

__all__ = ["DPrime", "Fisher", "Separability"]

_SECONDS = 1.2e-8  # that a class and another one take at a node, on one core


@dataclass(frozen=True)
class DPrime(ClassMoments):
    """Distance between the means of two classes at a node, in standard deviations: d′.

    ``|μ_a − μ_b| / √((σ_a² + σ_b²) / 2)``. Float64, up to infinity (no spread in either class):

    - `dprime` (label, label_b, node): symmetric, 0 on the diagonal; kept up to 64 classes, or as `pairs` says;
    - `dprime_mean` and `dprime_max` (node): the mean and the largest over the pairs of classes;
    - `dprime_constant` (node), bool: all samples are equal (a dead node, say), so that d′ is 0.

    Few samples raise it. By default it is corrected: √(g² − E²), with the sign of g² − E². g is Hedges' (1981), which
    has the variances of ddof 1 and a factor for few degrees of freedom, those of Bonett (2008) for two variances. E is
    the expected value of g for equal means, √(2/π (σ_a²/n_a + σ_b²/n_b)) in standard deviations. The result is 0 on
    average for normal classes of equal means, of which about half are below 0. Means over 400
    repeats of 10 such classes, and the standard deviation of the corrected value:

    ===============  ======  ======  ======  ======  ======
    samples a class  10      20      50      180     1,000
    ===============  ======  ======  ======  ======  ======
    plain            0.397   0.262   0.161   0.084   0.036
    corrected        0.037   0.021   0.011   0.007   0.004
    deviation        0.137   0.088   0.060   0.031   0.013
    ===============  ======  ======  ======  ======  ======

    Args:
        corrected: False for d′ of the samples, with σ² the mean square deviation (ddof 0). For two classes of n samples
            each, that is Cohen's d times √(n / (n − 1)), and for equal means about 0.8 √(2 / n).

    A class with fewer than `min_count` samples is NaN in its pairs and left out of the mean and the maximum; a class
    with an infinite value makes its pairs, the mean and the maximum NaN. With fewer than two classes the mean and the
    maximum are NaN. Corrected, a class needs two samples. `dprime_max` is the largest of many estimates, and so too
    large where classes are alike. It isn't corrected, since what chance adds depends on how the pairs hang together;
    ``null="permute"`` finds it for the data at hand (`dprime_max_null`). For ten classes that are alike:

    ===============  ======  ======  ======  ======  ======
    samples a class  10      20      50      180     1,000
    ===============  ======  ======  ======  ======  ======
    dprime_max       0.937   0.631   0.396   0.212   0.087
    ===============  ======  ======  ======  ======  ======

    d′ sees means only: classes that differ in spread alone have d′ 0. Where values are far from normal, such as those
    of a ReLU, it says little about how much two classes overlap; `overlap` and `auroc` measure that. E is that of
    normal means, and those of a few active samples aren't: at a ReLU that is on for 5 % of all samples, ten classes
    that are alike come to more than 0 where the samples of a class are few. `ks`, `overlap` and `auroc` say nothing
    there, as they should.

    ===============  ======  ======  ======  ======  ======
    samples a class  10      20      50      180     1,000
    ===============  ======  ======  ======  ======  ======
    corrected        0.118   0.095   0.033   0.008   0.004
    deviation        0.048   0.060   0.056   0.030   0.013
    ===============  ======  ======  ======  ======  ======
    """

    pairs: bool | None = None
    min_count: int = 10
    corrected: bool = True
    limits: ClassVar[Limits] = {"min_count": at_least(1)}
    name: ClassVar[str] = "dprime"
    headline: ClassVar[Headline] = Headline(
        "dprime_mean",
        "median",
        "class means are many standard deviations apart at single nodes",
        neutral=0.0,
        classes=2,
        missing="it needs two classes of at least min_count samples (10 unless told otherwise)",
        otherwise="fisher",
    )
    version: ClassVar[int] = 2  # version 1 wasn't corrected, and took classes of any size

    @property
    def ranges(self) -> Ranges:
        return {} if self.corrected else dict.fromkeys(("dprime", "dprime_mean", "dprime_max"), SIZE)

    def memory(self, spec: Spec, samples: int) -> int:
        pairs = keeps_pairs(spec.classes, self.pairs)
        scratch = 8 * 12 * spec.classes * min(spec.nodes, NODES)
        hedges = 8 * 8 * spec.classes**2 * self.corrected  # where all classes differ in size
        tables = table_bytes(spec, 2 * pairs, pairs)
        return super().memory(spec, samples) + scratch + hedges + tables

    def seconds(self, spec: Spec, samples: int) -> tuple[float, float]:
        return 0.0, _SECONDS * spec.classes**2 * spec.nodes

    @np.errstate(invalid="ignore")  # infinite values
    def finalize(self, state: State) -> Variables:
        count, nodes = state["count"].cpu().numpy(), state["mean"].shape[1]
        mean, squares = state["mean"].cpu(), state["m2"].cpu()
        kept = np.flatnonzero(count >= max(self.min_count, 1 + self.corrected))
        keep = keeps_pairs(len(count), self.pairs)
        with_later = partial(_corrected, _hedges(count[kept])) if self.corrected else _plain
        width = nodes_at_once(len(count)) if keep else NODES
        found = []
        for start in in_turn(range(0, nodes, width)):
            means, of_class = (each[kept, start : start + width].numpy() for each in (mean, squares))
            shape, own = (len(count), means.shape[1]), means - means  # NaN where a value is infinite
            found.append(distances("dprime", with_later(means, of_class, count[kept]), kept, shape, keep, own))
        between, within = _squares(state)
        constant = ((between == 0) & (within == 0)).cpu().numpy()
        return join_nodes(found) | {"dprime_constant": (("node",), constant)}


def _plain(mean: Array, squares: Array, count: Codes) -> Iterator[Array]:
    """d′ of each class with each later one, (later, node), from the means and sums of squares of all (class, node)."""
    variance = squares / count[:, None]
    for place in range(len(count) - 1):
        apart = mean[place + 1 :] - mean[place]
        spread = variance[place + 1 :] + variance[place]
        spread /= 2
        yield _in_deviations(np.abs(apart, out=apart), np.sqrt(spread, out=spread))


def _hedges(count: Codes) -> Array:
    """Hedges' factor for every two classes of so many samples, (class, class)."""
    sizes, places = np.unique(count, return_inverse=True)
    freedom = sizes - 1.0
    both = 4 / (1 / freedom[:, None] + 1 / freedom)  # degrees of freedom of the mean of two variances
    factor = np.exp(gammaln(both / 2) - gammaln((both - 1) / 2)) / np.sqrt(both / 2)
    table: Array = factor[np.ix_(places, places)]
    return table


def _corrected(hedges: Array, mean: Array, squares: Array, count: Codes) -> Iterator[Array]:
    """The same without what chance adds to it."""
    variance = squares / (count[:, None] - 1)
    by_chance = 2 / pi * variance / count[:, None]
    for place in range(len(count) - 1):
        apart = mean[place + 1 :] - mean[place]
        apart *= hedges[place, place + 1 :, None]
        apart *= apart
        apart -= by_chance[place]
        apart -= by_chance[place + 1 :]
        spread = variance[place + 1 :] + variance[place]
        spread /= 2
        square = _in_deviations(apart, spread)
        root = np.abs(square)
        yield np.copysign(np.sqrt(root, out=root), square, out=root)


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def _in_deviations(apart: Array, spread: Array) -> Array:
    """The quotient, 0 where both are 0; in the memory of `apart`."""
    alike = (spread == 0) & (apart == 0)
    np.divide(apart, spread, out=apart)
    apart[alike] = 0
    return apart


@dataclass(frozen=True)
class Fisher(ClassMoments):
    """Ratio of the between-class to the within-class variance at a node: what the classes explain of it.

    `fisher` (node), float64, up to infinity (no spread within the classes): Σ n_c (μ_c − μ)² / Σ_c Σ (x − μ_c)², with μ
    the mean of all samples (Fisher 1936). If the classes explain the share η² of the variance, it is η² / (1 − η²),
    also called f² (Cohen 1988). 0 for a constant node. NaN with fewer than two classes that have samples, and where a
    value is infinite.

    Few samples raise the ratio R of the samples: n samples of C independent classes have (C − 1) / (n − C − 2) on
    average. By default it is corrected: ((n − C − 2) R − (C − 1)) / n, which follows from the mean of the noncentral F
    distribution and is f² on average for normal classes of one variance. For independent classes that is 0, and more
    than half are below. NaN where n is at most C + 2. It needs few samples of each class, as long as all together are
    many: 3 of each of 1,000 will do. Means over 400 repeats of 10 identical normal classes, and the standard deviation
    of the corrected value:

    ===============  ======  ======  ======  ======  ======
    samples a class  10      20      50      180     1,000
    ===============  ======  ======  ======  ======  ======
    plain            0.104   0.047   0.018   0.005   0.001
    corrected        0.002   -0.001  0.000   0.000   0.000
    deviation        0.045   0.020   0.009   0.002   0.000
    ===============  ======  ======  ======  ======  ======

    Args:
        corrected: False for the ratio R. Multiplied by (n − C) / (C − 1), it is the F of an analysis of variance.

    Large classes weigh more. The ratio sees means only, of all classes at once: one class far from the others looks
    like several classes a little apart; `dprime` has the pairs.
    """

    corrected: bool = True
    name: ClassVar[str] = "fisher"
    headline: ClassVar[Headline] = Headline(
        "fisher",
        "median",
        "the class explains much of a node's variance",
        neutral=0.0,
        classes=2,
        missing="it needs two classes with samples, more samples than classes by 3, and finite values",
    )
    version: ClassVar[int] = 2  # version 1 wasn't corrected

    @property
    def ranges(self) -> Ranges:
        return {} if self.corrected else {"fisher": SIZE}

    def finalize(self, state: State) -> Variables:
        (between, within), number = _squares(state), _number(state)
        ratio = _ratio(between, within) if number > 1 else torch.full_like(between, torch.nan)
        if self.corrected:
            samples = int(state["count"].sum())
            free = samples - number - 2
            corrected = (
                (free * ratio - (number - 1)) / max(samples, 1) if free > 0 else torch.full_like(ratio, torch.nan)
            )
            ratio = corrected.where((between != 0) | (within != 0) | ratio.isnan(), 0.0)
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
      tr S_W / (n − C) (Aoshima and Yata 2014). Means that are equally near count in equal parts; a sample that is
      alone in its class counts as wrong. Rows of a sample that follow each other, such as tokens, are left out of the
      mean together. It needs a second pass over a store, and isn't available while a model runs.

    NaN with fewer than two classes, without a class of two samples, and where a value is infinite. Where rows are
    tokens, those of a sample aren't independent, so that `separability` is above 0 for classes that mean nothing.

    Where nothing tells the classes, `separability_nearest_mean` is about 1 / C from 20 samples a class on. Of fewer it
    is larger: the mean of a sample less varies more than the others, and so is more often the nearest, the more so
    the more classes there are and the fewer nodes. Means for normal values, ± 0.008 for 10 classes (± 0.017 of 2
    samples):

    =======  =====  ======  ======  ======  ======  ======
    classes  nodes  n = 2   5       10      20      50
    =======  =====  ======  ======  ======  ======  ======
    10       3      0.26    0.12    0.12    0.11    0.11
    10       200    0.19    0.13    0.11    0.11    0.10
    100      3      0.162   0.034   0.016   0.013   0.010
    100      200    0.067   0.016   0.013   0.011   0.009
    =======  =====  ======  ======  ======  ======  ======

    None of them changes when the nodes are rotated or all scaled alike, but nodes with large values outweigh the
    others. They see distances of means only. Unlike a linear probe, they can't see whether classes are separable along
    a direction of little variance.

    In version 2 the ratio wasn't corrected, and the nearest means were those of the samples themselves.
    """

    name: ClassVar[str] = "separability"
    ranges: ClassVar[Ranges] = {"separability_calinski_harabasz": SIZE, "separability_nearest_mean": SHARE}
    split_by: ClassVar[None] = None
    corrected: ClassVar[bool] = True
    headline: ClassVar[Headline] = Headline(
        "separability",
        None,
        "class means are far apart beside the spread within classes",
        neutral=0.0,
        classes=2,
        missing="it needs two classes, one of them of two samples, and finite values",
    )
    version: ClassVar[int] = 3

    def memory(self, spec: Spec, samples: int) -> int:
        return unit_bytes(spec, samples)

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
