"""How far apart classes are: the distances of their means, beside the spread within them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.metrics._kernels.class_means import class_moments, own_mean_share
from probekit.metrics._kernels.class_pairs import MOST_CLASSES, distances
from probekit.metrics.block import Array
from probekit.metrics.moments import ClassMoments
from probekit.metrics.protocol import Samples, State, Variables

__all__ = ["DPrime", "Fisher", "Separability"]

_ENTRIES = 2**20  # of the table of all pairs that are made at a time


@dataclass(frozen=True)
class DPrime(ClassMoments):
    """Distance between the means of two classes at a node, in standard deviations: d′.

    ``|μ_a − μ_b| / √((σ_a² + σ_b²) / 2)``, with σ² the mean square deviation (ddof 0): for two classes of n samples
    each that is Cohen's d times √(n / (n − 1)). Float64, from 0 (equal means) to infinity (no spread in either class):

    - `dprime` (label, label_b, node): symmetric, 0 on the diagonal; kept up to 64 classes, or as `pairs` says;
    - `dprime_mean` and `dprime_max` (node): the mean and the largest over the pairs of classes;
    - `dprime_constant` (node), bool: all samples are equal (a dead node, say), so that d′ is 0.

    A class without samples is NaN in its pairs and in neither mean nor maximum; a class with an infinite value is NaN
    in all three. With fewer than two classes both are NaN. A class of one sample has no spread, which makes d′ too
    large.

    It tells means apart and nothing else: classes that differ in spread alone have d′ 0. Where values are far from
    normal, as those of a ReLU are, it says little of how much two classes overlap; `overlap` and `auroc` do.
    """

    pairs: bool | None = None
    name: ClassVar[str] = "dprime"

    def finalize(self, state: State) -> Variables:
        count, nodes, classes = state["count"].cpu(), state["mean"].shape[1], len(state["count"])
        mean, variance = state["mean"].cpu(), (state["m2"] / state["count"].clamp(min=1)[:, None]).cpu()
        keep = self.pairs if self.pairs is not None else classes <= MOST_CLASSES
        width = max(1, _ENTRIES // classes**2)
        pieces = [
            distances("dprime", _table(mean[:, n : n + width], variance[:, n : n + width]), np.flatnonzero(count), keep)
            for n in range(0, nodes, width)
        ]
        between, within = _squares(state)
        return {
            name: (dims, np.concatenate([piece[name][1] for piece in pieces], axis=-1))
            for name, (dims, _) in pieces[0].items()
        } | {"dprime_constant": (("node",), ((between == 0) & (within == 0)).cpu().numpy())}


def _table(mean: Tensor, variance: Tensor) -> Array:
    """d′ of all classes with each other, (class, class, node)."""
    table: Array = _ratio((mean[:, None] - mean).abs(), ((variance[:, None] + variance) / 2).sqrt()).numpy()
    return table


@dataclass(frozen=True)
class Fisher(ClassMoments):
    """Between-class over within-class sum of squares at a node: how much of its variance the classes explain.

    `fisher` (node), float64, from 0 (equal means, or a constant node) to infinity (no spread within the classes):
    Σ n_c (μ_c − μ)² / Σ_c Σ (x − μ_c)², with μ the mean of all samples (Fisher 1936). Times (n − C) / (C − 1) it is the
    F of an analysis of variance, with C the classes that have samples; as a share of the variance, it is η² / (1 − η²).
    NaN with fewer than two classes that have samples, and where a value is infinite.

    Large classes weigh more. It tells means apart and nothing else, all classes at once: one class far from the others
    looks as several a little apart, for which `dprime` has the pairs.
    """

    name: ClassVar[str] = "fisher"

    def finalize(self, state: State) -> Variables:
        between, within = _squares(state)
        ratio = _ratio(between, within) if _number(state) > 1 else torch.full_like(between, torch.nan)
        return {"fisher": (("node",), ratio.cpu().numpy())}


@dataclass(frozen=True)
class Separability(ClassMoments):
    """Between-class over within-class scatter of a whole site: how far apart its classes lie.

    - `separability` (), float64, from 0 to infinity: tr S_B / tr S_W, that is the sum over the nodes of
      Σ n_c (μ_c − μ)², over the sum of Σ_c Σ (x − μ_c)²; 0 where both are 0;
    - `separability_calinski_harabasz` (), float64: that times (n − C) / (C − 1), with C the classes that have samples
      (Caliński and Harabasz 1974), which makes up for the number of classes and grows with that of samples;
    - `separability_nearest_mean` (), float64 in [0, 1]: the share of samples whose nearest class mean, by Euclidean
      distance, is that of their own class; of equally near ones the first counts. As the means are of the same samples,
      it flatters, the more the fewer samples a class has. It takes a second pass over a store, and isn't there when a
      model is measured as it runs.

    NaN with fewer than two classes, and where a value is infinite.

    None of them changes when the nodes are rotated or all scaled alike, but nodes with large values outweigh the
    others. They see distances of means only, not whether classes can be told apart along some direction of little
    variance, as a linear probe does.
    """

    name: ClassVar[str] = "separability"

    def compute_samples(self, samples: Samples) -> Variables:
        state = class_moments(samples)
        return self.finalize(state) | {"separability_nearest_mean": ((), np.asarray(own_mean_share(samples, state)))}

    def finalize(self, state: State) -> Variables:
        number, between, within = _number(state), *(squares.sum() for squares in _squares(state))
        ratio = _ratio(between, within) if number > 1 else between.new_tensor(torch.nan)
        score = ratio * (state["count"].sum() - number) / max(1, number - 1)
        return {
            "separability": ((), ratio.cpu().numpy()),
            "separability_calinski_harabasz": ((), score.cpu().numpy()),
        }


def _number(state: State) -> int:
    """How many classes have samples."""
    return int((state["count"] > 0).sum())


def _squares(state: State) -> tuple[Tensor, Tensor]:
    """The sums of squares between and within the classes, (node,) each."""
    count = state["count"].double()[:, None]
    # From the mean of one of the classes, so that nothing at all is between classes whose means are equal.
    apart = state["mean"] - state["mean"][state["count"].argmax()]
    apart = apart - (count * apart).sum(0) / count.sum()
    return (count * apart.square()).sum(0), state["m2"].sum(0)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """The ratio, 0 where both are 0."""
    return (above / below).where((above != 0) | (below != 0), 0.0)
