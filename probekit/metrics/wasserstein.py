"""The earth mover's distance between classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import numpy as np

from probekit.metrics._kernels.chance import beyond_chance, spread_by_halves
from probekit.metrics._kernels.class_pairs import (
    distances,
    in_order,
    keeps_pairs,
    kept_classes,
    nodes_at_once,
    table_bytes,
)
from probekit.metrics._kernels.node_blocks import join_nodes
from probekit.metrics.block import NODES, Array, Block, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, at_least
from probekit.metrics.protocol import Parameters, Spec, Variables
from probekit.metrics.ranges import SIZE, Ranges

__all__ = ["Wasserstein"]

_VALUES = 2**21  # samples that are compared at a time, at several nodes
_APART = 2**16  # differences of samples that are summed at a time: they stay in the cache


@dataclass(frozen=True)
class Wasserstein(Parameters):
    """Mean distance that the samples of one class must move to match another class: 0 for identical classes.

    ``∫ |F_a(v) − F_b(v)| dv = ∫ |Q_a(u) − Q_b(u)| du``, with the distribution functions F and their
    inverses Q, the quantiles: the first Wasserstein distance at a node (Vallender 1973). Exact; float64, in units of
    the activation:

    - `wasserstein` (label, label_b, node): symmetric, 0 on the diagonal; kept up to 64 classes, or as `pairs` says;
    - `wasserstein_mean` and `wasserstein_max` (node): the mean and the largest over the pairs of classes;
    - `wasserstein_constant` (node), bool: all samples are equal (a dead node, say), so that the distance is 0.

    The distance is infinite where two classes have different shares of their samples at an infinity. A class with fewer
    than `min_count` samples is NaN in its pairs and left out of the mean and the maximum. With fewer than two classes
    left both are NaN.

    The distance can't be compared between nodes of different scales, and doesn't say which class has the larger values.
    Where one class lies wholly above the other, it is the difference of their means.

    Few samples raise the distance W of the samples. By default it is corrected, with E, its expected value for
    classes that are as alike as the halves of each class are if it is divided by chance: √(W² − E²), with the sign of
    W² − E². The result is about 0 on average for identical classes of like size, about half below 0. Means over 400
    repeats of 10 identical normal classes with σ = 1, and the standard deviation of the corrected value:

    ===============  ======  ======  ======  ======  ======
    samples a class  10      20      50      180     1,000
    ===============  ======  ======  ======  ======  ======
    plain            0.512   0.371   0.244   0.132   0.057
    corrected        0.050   0.018   0.005   0.001   0.000
    deviation        0.138   0.091   0.062   0.031   0.014
    ===============  ======  ======  ======  ======  ======

    Heavy tails, and small classes beside large ones, leave a part of the plain distance of classes that are alike,
    since a small class seldom shows rare values, which its halves then lack. `ks` knows ranks alone. What is left of
    the plain distance of two classes, on average over 600 nodes, ± 3 %:

    ===================  ==========  ==========  ===========  ==========  ==========
    samples              20 and 20   100, 100    150 and 50   950 and 50  190 and 10
    ===================  ==========  ==========  ===========  ==========  ==========
    normal               0 %         3 %         1 %          2 %         15 %
    Student's t, 3 free  8 %         9 %         14 %         28 %        34 %
    lognormal            11 %        3 %         19 %         25 %        34 %
    ===================  ==========  ==========  ===========  ==========  ==========

    Args:
        corrected: False for the distance of the samples, scipy's `wasserstein_distance`. For identical normal classes
            it is about 1.8 σ / √n.

    A class of one sample has no corrected distance. `wasserstein_max` is the largest of many estimates, and so too
    large where classes are alike. It isn't corrected, since what chance adds depends on how the pairs hang together;
    ``null="permute"`` finds it for the data at hand (`wasserstein_max_null`). For ten classes that are alike:

    ===============  ======  ======  ======  ======  ======
    samples a class  10      20      50      180     1,000
    ===============  ======  ======  ======  ======  ======
    wasserstein_max  0.891   0.605   0.377   0.208   0.084
    ===============  ======  ======  ======  ======  ======
    """

    min_count: int = 10
    pairs: bool | None = None
    corrected: bool = True
    limits: ClassVar[Limits] = {"min_count": at_least(1)}
    name: ClassVar[str] = "wasserstein"
    interval: ClassVar[str] = "jackknife"
    headline: ClassVar[Headline] = Headline(
        "wasserstein_mean",
        "median",
        "classes are far apart at single nodes, in units of the activation",
        neutral=0.0,
        classes=2,
        missing="it needs two classes of at least min_count samples (10 unless told otherwise)",
        otherwise="fisher",
    )
    version: ClassVar[int] = 2  # version 1 wasn't corrected

    @property
    def ranges(self) -> Ranges:
        return {} if self.corrected else dict.fromkeys(("wasserstein", "wasserstein_mean", "wasserstein_max"), SIZE)

    def memory(self, spec: Spec, samples: int) -> int:
        pairs = keeps_pairs(spec.classes, self.pairs)
        values = 8 * samples * min(spec.nodes, _nodes_at_once(samples, spec.classes, pairs))
        # Of the steps of two classes of all samples: the ends twice, two indices, the widths.
        return 2 * values + 40 * samples + 4 * 8 * _APART + table_bytes(spec, 2 * pairs, pairs)

    def compute(self, block: Block) -> Variables:
        pairs = keeps_pairs(block.classes, self.pairs)
        few = block.split(_nodes_at_once(block.values.shape[1], block.classes, pairs))
        return join_nodes(self._compute(each, pairs) for each in few)

    def _compute(self, block: Block, pairs: bool) -> Variables:
        kept = kept_classes(block, self.min_count)
        found: Iterable[Array] = _Classes.of(block, kept).with_later()
        if self.corrected:
            found = _corrected(found, block, kept)
        variables = distances(self.name, found, kept, (block.classes, block.nodes), pairs)
        return variables | {"wasserstein_constant": (("node",), block.constant)}


def _corrected(found: Iterable[Array], block: Block, kept: Codes) -> Iterator[Array]:
    """The distances of each class to each later one (later, node), without what chance adds to them."""
    shares = np.empty((len(kept), block.nodes))
    for place, code in enumerate(kept):
        shares[place] = spread_by_halves(block[code]) / sqrt(block.measured[code])
    for place, apart in enumerate(found):
        yield beyond_chance(apart, np.hypot(shares[place], shares[place + 1 :]))


def _nodes_at_once(samples: int, classes: int, pairs: bool) -> int:
    """The number of nodes whose samples take a few MB in float64, and whose table of pairs does where it is kept."""
    return max(1, min(NODES, _VALUES // max(1, samples), nodes_at_once(classes) if pairs else NODES))


@dataclass(frozen=True)
class _Classes:
    """The sorted samples of the classes to compare, in float64: those of one size side by side.

    `values` has for each size (sample, class, node); `counts` is the size of each class, and `places` its place among
    the classes of its size.
    """

    values: dict[int, Array]
    counts: Codes
    places: Codes

    @classmethod
    def of(cls, block: Block, kept: Codes) -> _Classes:
        counts, places = block.counts[kept], np.empty(len(kept), np.int64)
        values: dict[int, Array] = {}
        for count in np.unique(counts).tolist():
            alike = np.flatnonzero(counts == count)
            places[alike] = np.arange(len(alike))
            values[count] = np.empty((count, len(alike), block.nodes))
            for place, code in enumerate(kept[alike]):
                values[count][:, place] = block[code].T
        return cls(values, counts, places)

    def with_later(self) -> Iterator[Array]:
        """For each class the distances to each later one, (later, node)."""
        steps: dict[tuple[int, int], _Steps] = {}
        for index, (count, place) in enumerate(zip(self.counts.tolist(), self.places.tolist(), strict=True)):
            later = self.counts[index + 1 :]
            found = np.empty((len(later), self.values[count].shape[2]))
            for other in np.unique(later).tolist():
                those = np.flatnonzero(later == other)
                values = self.values[other][:, self.places[index + 1 + those[0]] :]
                between = steps.get((count, other)) or _Steps.of(count, other)
                if len(steps) * (count + other) < _APART:  # kept while they take little memory
                    steps[count, other] = between
                found[those] = between.distances(self.values[count][:, place], values)
            if len(later):
                yield found


@dataclass(frozen=True)
class _Steps:
    """The steps on which the quantiles of two classes are both constant.

    For each step: the index of its sample in one class, its index in the other, and its width as a share of 1.
    """

    of_one: Codes
    of_other: Codes
    width: Array

    @classmethod
    def of(cls, one: int, other: int) -> _Steps:
        """The steps of classes of so many samples."""
        ends = np.sort(np.concatenate([np.arange(1, one + 1) * other, np.arange(1, other + 1) * one]))
        ends = ends[np.append(ends[1:] != ends[:-1], True)]
        return cls((ends - 1) // other, (ends - 1) // one, np.diff(ends, prepend=0) / (one * other))

    def distances(self, one: Array, others: Array) -> Array:
        """The distances (class, node) of a class (sample, node) to `others` (sample, class, node)."""
        found = np.empty(others.shape[1:])
        classes = max(1, _APART // max(1, len(self.width) * one.shape[1]))
        for start in range(0, others.shape[1], classes):
            found[start : start + classes] = self._sum(one, others[:, start : start + classes])
        return found

    @np.errstate(invalid="ignore")  # equal infinities
    def _sum(self, one: Array, others: Array) -> Array:
        """The distances, summed over the steps in their order, so that a pair has the same bits among any others."""
        length = max(1, min(_APART // max(1, others[0].size), len(self.width)))
        terms = np.zeros((length + 1, *others.shape[1:]))
        for start in range(0, len(self.width), length):
            those = slice(start, start + length)
            apart = terms[1 : 1 + len(self.width[those])]
            others.take(self.of_other[those], axis=0, out=apart, mode="clip")  # the default mode copies `out`
            apart -= one.take(self.of_one[those], axis=0)[:, None]
            np.abs(apart, out=apart)
            apart *= self.width[those, None, None]
            total = in_order(terms[: 1 + len(apart)])
            if np.isnan(total).any():  # the samples have no NaN: this one is a difference of equal infinities
                apart[np.isnan(apart)] = 0
                total = in_order(terms[: 1 + len(apart)])
            terms[0] = total
        distances: Array = terms[0].copy()
        return distances
