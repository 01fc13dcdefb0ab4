"""What a sketch can't tell of the samples that it has counted, and what follows for results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probekit.metrics.block import Array, Codes

__all__ = ["Resolution", "reweighted"]


@dataclass(frozen=True)
class Resolution:
    """How a block that a `probekit.metrics.sketch.Sketch` made differs at most from that of the real samples.

    Up to the ends of cells, a distribution function F_c of a class is known; within a cell, samples keep neither their
    values nor their order. The block then has only some of the samples, evenly spaced, so that F_c is off by at most
    half a sample of the block. A metric derives from both how far its result is from the exact one, in a method
    ``error_bound(resolution)`` → (node,): see `probekit.metrics.ColumnMetric`.

    Attributes:
        counts: the number of samples of each class, (class,).
        represented: the number of samples of each class in the block, (class,).
        largest: the largest share of a class in one cell that may hold several values, (class, node).
        squares: the sum of the squared shares of a class in all these cells, (class, node).
        atoms: the number of values that may be atoms, as at least 1 % of a node's samples share them, (node,).
        ambiguous: whether a cell may be an atom in the block and not among the real samples, or the reverse, (node,).
        value_error: the largest distance of a sample from the value that stands for it, relative to the value.
    """

    counts: Codes
    represented: Codes
    largest: Array
    squares: Array
    atoms: Codes
    ambiguous: npt.NDArray[np.bool_]
    value_error: float

    @property
    def exact(self) -> bool:
        """Whether the block is that of the real samples."""
        return bool((self.counts == self.represented).all()) and not self.value_error and not self.largest.any()

    @property
    def rank_error(self) -> float:
        """By how much the distribution function of a class is off at most, since samples are left out."""
        left_out = self.represented[self.represented < self.counts]
        return float((0.5 / left_out).max(initial=0))

    def kept(self, min_count: int) -> Codes:
        """The codes of the classes that have enough samples in the block."""
        return np.flatnonzero(self.represented >= max(1, min_count))

    def weight_error(self, min_count: int) -> float:
        """By how much the shares of classes are off, of those that count, or of all but one of these.

        It is half the sum of what each differs by, which is the total variation of the class.
        """
        kept = self.kept(min_count)
        return reweighted(self.counts[kept], self.represented[kept])

    def same(self, min_count: int) -> npt.NDArray[np.bool_]:
        """Where all samples of the classes that count are in the block, in their order and with their ties, (node,)."""
        crowded = self.largest[self.kept(min_count)].any(axis=0)
        same: npt.NDArray[np.bool_] = ~(crowded | self.ambiguous | (self.represented < self.counts).any())
        return same

    def cell_share(self, min_count: int = 1) -> Array:
        """The largest share that each of two classes has in cells, (node,): the second largest of all classes.

        Two classes differ by no more than the smaller of their shares in what such a cell hides. Where there is only
        one class it is the share of this one.
        """
        shares = np.sort(self.largest[self.kept(min_count)], axis=0)
        largest: Array = shares[-2:][0] if len(shares) else np.zeros(self.largest.shape[1])
        return largest

    def compared(self, min_count: int) -> Array:
        """The most by which the difference of two distribution functions is off anywhere, (node,).

        s + 2r, where s is `cell_share` and r `rank_error`. In a cell, F_a − F_b is between its values at the ends, less
        the smaller share of both classes and plus it.
        """
        return np.minimum(1.0, self.cell_share(min_count) + 2 * self.rank_error)

    def tied(self, min_count: int) -> Array:
        """The largest share of the pairs of samples of two classes that are in one cell, (node,).

        Σ s_a s_b over the cells is at most the root of Σ s_a² Σ s_b² (Cauchy and Schwarz). For a mixture of classes,
        the latter is at most that of one of them.
        """
        two = np.sort(self.squares[self.kept(min_count)], axis=0)[-2:]
        return np.sqrt(two[0] * two[1]) if len(two) > 1 else np.zeros(self.squares.shape[1])

    def moved(self, edges: int, min_count: int) -> Array:
        """The largest share of a class that may count in another bin or atom, of bins between so many edges, (node,).

        k (s + (C (1 + 4A) + 1) r) + 2Ar, where s is the largest share in a cell of any class that counts, r
        `rank_error`, C the number of classes, and A of `atoms`. With all samples in the block, an edge of equal mass is
        in the cell where it should be, and the samples of that cell may count on its wrong side. To leave samples out
        changes by at most 2r the share of each atom, and so by (1 + 4A) r the share of the classes' mixture that is
        below an edge: C times this of a class. It is 1 where a cell is `ambiguous`: edges may then be anywhere.
        """
        kept, r = self.kept(min_count), self.rank_error
        share = self.largest[kept].max(axis=0, initial=0)
        classes = np.count_nonzero(self.counts)
        moved = edges * (share + (classes * (1 + 4 * self.atoms) + 1) * r) + 2 * self.atoms * r
        return np.where(self.ambiguous, 1.0, np.minimum(1.0, moved))


def reweighted(counts: Codes, represented: Codes) -> float:
    """By how much the shares of classes are off, among all or all but one, where so many samples represent them."""
    others = int(represented.sum() - represented.max(initial=0))
    apart = np.abs(represented - represented.sum() / max(1, counts.sum()) * counts).sum()
    return float(apart / (2 * others)) if others else 0.0
