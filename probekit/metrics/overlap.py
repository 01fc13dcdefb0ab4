"""The overlap of the classes' distributions at each node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import sqrt
from typing import ClassVar, Literal

import numpy as np

from probekit.metrics._kernels.cell_bounds import moved_among
from probekit.metrics._kernels.cells import bins_for, cells_bytes, count_cells
from probekit.metrics._kernels.chance import beyond_chance, expected_variation, most_variation
from probekit.metrics._kernels.class_pairs import in_order, keeps_pairs, kept_classes
from probekit.metrics._kernels.node_blocks import join_nodes
from probekit.metrics._kernels.relabelling import cell_counts
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, at_least
from probekit.metrics.protocol import Parameters, Spec, Variables
from probekit.metrics.ranges import SHARE, Ranges
from probekit.metrics.resolution import Resolution

__all__ = ["Overlap"]

_NEIGHBOURS = 8  # bins that are corrected together
_ROUNDING = 1e-6
_DIGITS = 6  # of numbers of samples


@dataclass(frozen=True)
class Overlap(Parameters):
    """Share of probability mass that two classes have in common: 1 for identical, 0 for separate classes.

    overlap(a, b) = Σ min(p_a, p_b) over the cells of a node, which is 1 − total variation; also called the overlapping
    coefficient (Weitzman 1970; Inman and Bradley 1989). The cells are its atoms (values that at least 1 % of its
    samples share) and bins of equal mass under the class-balanced mixture of all classes. Float64:

    - `overlap` (node): the mean over pairs of classes; `overlap_max` (node): the largest over pairs of classes;
    - `overlap_pairs` (label, label_b, node): symmetric, 1 on the diagonal; kept up to 64 classes, or as `pairs` says;
    - `overlap_rest` (label, node): each class against the mixture of the others, in which each class weighs the same;
    - `overlap_constant` (node), bool: all samples are equal (a dead node, say), so that the overlap is 1;
    - `overlap_null` (node), with ``null="permute"``: the `overlap` after one shuffle of the labels, which the engine
      makes (the mean of ten where a sample has several rows); it makes many, for p-values, by
      ``probekit.measure(store, "overlap", null="permute")``.

    Few samples raise the total variation T of the cells. By default it is corrected, with E, its expected value if the
    two classes' labels are shuffled (the closed form of a hypergeometric variable's mean deviation, Diaconis and Zabell
    1991): √(T² − E²), with the sign of T² − E², for every eight neighbouring bins and for the atoms together; divided
    by the same for classes that never meet. The result is 0 for classes that never meet, and 1 on average for identical
    ones, of which about half exceed 1. Means over 400 repeats of 10 identical normal classes (plain: 32 bins), and the
    standard deviation of the corrected value:

    ===============  ======  ======  ======  ======  ======
    samples a class  10      20      50      180     1,000
    ===============  ======  ======  ======  ======  ======
    plain            0.194   0.361   0.570   0.768   0.901
    corrected        0.979   0.985   0.992   0.996   0.997
    deviation        0.098   0.074   0.046   0.023   0.010
    ===============  ======  ======  ======  ======  ======

    Args:
        bins: how many; by default 2 ⌈√(2n) / 2⌉ for classes of n samples (the harmonic mean), 32 at most.
        corrected: False for the plain sum over the cells, in [0, 1]. Identical classes then miss 1 by about
            √(bins / (π n)), 0.04 at n = 6,000 samples per class and 0.27 at 125 (32 bins).

    Bins raise it, by 0.003 for two normal distributions of standard deviations 1 and 2. A class with fewer than
    `min_count` samples is NaN in its pairs and left out of the means. With fewer than two classes left, everything but
    the diagonal is NaN. `overlap_max` is the largest of many estimates, and so too large where classes are alike. It
    isn't corrected, since what chance adds depends on how the pairs hang together; ``null="permute"`` finds it for the
    data at hand (`overlap_max_null`). For ten classes that are alike:

    ===============  ======  ======  ======  ======  ======
    samples a class  10      20      50      180     1,000
    ===============  ======  ======  ======  ======  ======
    overlap_max      1.387   1.311   1.201   1.130   1.065
    ===============  ======  ======  ======  ======  ======

    The overlap doesn't say in which direction two classes differ, and it sees one node at a time: classes that overlap
    at every node may be separable by several nodes together.
    """

    bins: int | None = None
    null: Literal["permute"] | None = None
    min_count: int = 10
    pairs: bool | None = None
    corrected: bool = True
    limits: ClassVar[Limits] = {"bins": at_least(1), "min_count": at_least(1)}
    name: ClassVar[str] = "overlap"
    interval: ClassVar[str] = "jackknife"
    headline: ClassVar[Headline] = Headline(
        "overlap",
        "mean",
        "classes look alike at single nodes",
        neutral=1.0,
        beside="overlap_null",
        classes=2,
        missing="it needs two classes of at least min_count samples (10 unless told otherwise)",
        otherwise="fisher",
        smallest=True,
    )
    version: ClassVar[int] = 3  # version 2 wasn't corrected and had 32 bins; version 1 had a shuffle for each node

    @property
    def ranges(self) -> Ranges:
        found = dict.fromkeys(("overlap", "overlap_max", "overlap_rest", "overlap_pairs"), SHARE)
        return {} if self.corrected else found

    @property
    def null_repeats(self) -> int:
        """Shuffles of the labels, where no null is asked for."""
        return int(self.null == "permute")

    def memory(self, spec: Spec, samples: int) -> int:
        pairs = 8 * spec.classes**2 * spec.nodes if keeps_pairs(spec.classes, self.pairs) else 0
        return cells_bytes(spec, self.bins) + 2 * pairs

    def bins_of(self, samples: Codes) -> int:
        """The number of bins for classes of so many samples."""
        return self.bins or bins_for(samples[samples >= self.min_count])

    def compute(self, block: Block) -> Variables:
        return join_nodes(map(self._compute, block.split()))

    def error_bound(self, resolution: Resolution) -> Array:
        # At an edge both classes move together, so that their difference moves by no more than one of them does. What
        # is left out of each may add up.
        moved = moved_among(resolution, self.bins, self.min_count)
        plain: Array = np.minimum(1.0, moved.of_two + 2 * moved.left_out)
        few = np.sort(resolution.counts[resolution.kept(self.min_count)])[:2]
        if not self.corrected or len(few) < 2:
            return plain
        # Chance adds at most c to the total variation T of all cells. What is found is then from T − √2 c to T, and
        # what is reached from 1 − c to 1.
        a, b = few.tolist()
        c = most_variation(a, b, moved.cells)
        left = np.where(c < 1, 1 - c, np.nan)
        bound = np.minimum(1 / left, np.maximum(plain + (1 + sqrt(2)) * c, (plain + sqrt(2) * c) / left))
        return np.where(resolution.same(self.min_count), 0.0, np.where(c < 1, bound, np.inf))

    def _compute(self, block: Block) -> Variables:
        kept = kept_classes(block, self.min_count)
        samples = block.measured[kept]
        bins = self.bins_of(samples)
        pairs = self._pairs(count_cells(block, bins).counts[:, kept], samples, kept, block.classes, bins)
        found = pairs.variables(block.constant)
        if keeps_pairs(block.classes, self.pairs):
            found["overlap_pairs"] = (("label", "label_b", "node"), pairs.all())
        return found

    def relabelling(self, values: Array, classes: int) -> Callable[[Codes], Variables]:
        """Those of `compute` but for the pairs, from the samples of each class in cells that are found once."""
        constant = values.min(axis=1) == values.max(axis=1)
        count = cache(lambda bins: cell_counts(values, bins, classes))

        def compute(codes: Codes) -> Variables:
            samples = np.bincount(codes, minlength=classes)
            kept = np.flatnonzero(samples >= self.min_count)
            bins = self.bins_of(samples)
            counts = count(bins)(codes)[:, kept]
            return self._pairs(counts, samples[kept], kept, classes, bins).variables(constant)

        return compute

    def _pairs(self, counts: Codes, samples: Codes, kept: Codes, classes: int, bins: int) -> _Pairs:
        return _Pairs(counts, samples, kept, classes, bins if self.corrected else None)


@dataclass(frozen=True)
class _Pairs:
    """The classes to compare: `counts` (cell, class, node), `samples` (class), and their codes `kept` among `classes`.

    They are the classes that have enough samples. The first `bins` cells are bins; it is None where the overlap isn't
    corrected.
    """

    counts: Codes
    samples: Codes
    kept: Codes
    classes: int
    bins: int | None

    def _with_later(self, index: int) -> Array:
        """Overlap of class number `index` with each later class, (later, node)."""
        ours, theirs = self.samples[index], self.samples[index + 1 :]
        here, there = self.counts[:, index, None], self.counts[:, index + 1 :]
        if self.bins is None:  # exact except for the last division
            shared = np.minimum(here * theirs[:, None], there * ours)
            overlap: Array = shared.sum(axis=0) / (ours * theirs)[:, None]
            return overlap
        apart = np.abs(here * theirs[:, None] - there * ours) / (2 * ours * theirs)[:, None]
        most = (here * theirs[:, None] + there * ours) / (2 * ours * theirs)[:, None]
        return _corrected(apart, most, expected_variation(here + there, int(ours), theirs), self.bins)

    def variables(self, constant: Array) -> Variables:
        """Those of all pairs together, and of each class and the others; `constant` (node) is one of them."""
        mean, highest = self.summary()
        return {
            "overlap": (("node",), mean),
            "overlap_max": (("node",), highest),
            "overlap_rest": (("label", "node"), self.rest()),
            "overlap_constant": (("node",), constant),
        }

    def summary(self) -> tuple[Array, Array]:
        """The mean and the largest over all pairs, (node,) each; NaN without pairs."""
        nodes, number = self.counts.shape[2], len(self.kept)
        if number < 2:
            return np.full(nodes, np.nan), np.full(nodes, np.nan)
        total, highest = np.zeros(nodes), np.full(nodes, -np.inf)
        for index in range(number - 1):
            overlaps = self._with_later(index)
            total += in_order(overlaps)
            highest = np.maximum(highest, overlaps.max(axis=0))
        return total / (number * (number - 1) / 2), highest

    def all(self) -> Array:
        """Every pair, (label, label_b, node)."""
        pairs = np.full((self.classes, self.classes, self.counts.shape[2]), np.nan)
        pairs[self.kept, self.kept] = 1.0
        for index, code in enumerate(self.kept[:-1]):
            later = self.kept[index + 1 :]
            pairs[code, later] = pairs[later, code] = self._with_later(index)
        return pairs

    def rest(self) -> Array:
        """Each class against the class-balanced mixture of the others, (label, node)."""
        rest = np.full((self.classes, self.counts.shape[2]), np.nan)
        shares = self.counts / self.samples[:, None]
        total = in_order(np.moveaxis(shares, 1, 0))
        for index, code in enumerate(self.kept if len(self.kept) > 1 else []):
            others = (total - shares[:, index]) / (len(self.kept) - 1)
            if self.bins is None:
                rest[code] = in_order(np.minimum(shares[:, index], others)).clip(0, 1)
                continue
            # A mixture varies as a sample of this size does.
            size = _nearest((len(self.kept) - 1) ** 2 / (1 / np.delete(self.samples, index)).sum())
            together = self.counts[:, index] + _nearest(others * size).clip(0, size)
            expected = expected_variation(together[:, None], int(self.samples[index]), size[None])
            apart, most = np.abs(shares[:, index] - others) / 2, (shares[:, index] + others) / 2
            rest[code] = _corrected(apart[:, None], most[:, None], expected, self.bins)[0]
        return rest


def _nearest(numbers: Array) -> Codes:
    """The nearest integers, of numbers of which the last digits depend on the order of the classes."""
    found: Codes = np.rint(np.round(numbers, _DIGITS)).astype(np.int64)
    return found


def _corrected(apart: Array, most: Array, expected: Array, bins: int) -> Array:
    """The overlap of a class with each of others, (class, node), without what chance takes from it.

    For each cell, (cell, class, node): the half difference `apart` of the shares, the `most` that it could be with so
    many samples of each, and what is `expected` of independent classes.
    """
    found, reached = np.zeros(apart.shape[1:]), np.zeros(apart.shape[1:])
    neighbours = [slice(start, min(start + _NEIGHBOURS, bins)) for start in range(0, bins, _NEIGHBOURS)]
    for part in (*neighbours, slice(bins, None)):
        chance = in_order(expected[part])
        found += beyond_chance(in_order(apart[part]), chance)
        reached += np.maximum(beyond_chance(in_order(most[part]), chance), 0)
    alone = reached < _ROUNDING  # no cell has two samples, which tells nothing
    overlap: Array = 1 - np.where(alone, np.nan, found) / np.where(alone, 1.0, reached)
    return overlap
