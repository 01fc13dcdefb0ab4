"""What a sketch can't tell of the samples that it has counted, and what follows for results."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from probekit.metrics.block import Array, Codes

__all__ = ["Counted", "Resolution", "reweighted"]

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class Counted:
    """Counts of samples in the cells of a sketch, in the order of the values.

    `counts` is (class, node, cell). `several` says which cells may hold several values, and `atoms` which hold a single
    one that is an atom, (node, cell).
    """

    counts: Codes
    several: npt.NDArray[np.bool_]
    atoms: npt.NDArray[np.bool_]


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
        counted: gives the counts themselves, of a few nodes at a time; nothing where the samples were kept.
        value_error: the largest distance of a sample from the value that stands for it, relative to the value.
    """

    counts: Codes
    represented: Codes
    largest: Array
    squares: Array
    atoms: Codes
    ambiguous: npt.NDArray[np.bool_]
    value_error: float
    counted: Callable[[], Iterator[Counted]] = lambda: iter(())
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def exact(self) -> bool:
        """Whether the block is that of the real samples."""
        return bool((self.counts == self.represented).all()) and not self.value_error and not self.largest.any()

    @property
    def rank_error(self) -> float:
        """By how much the distribution function of a class is off at most, since samples are left out."""
        left_out = self.represented[self.represented < self.counts]
        return float((0.5 / left_out).max(initial=0))

    @property
    def count_error(self) -> float:
        """By how much the share of a class below a value is off at most, where it is rounded to a number of samples."""
        left_out = self.represented < self.counts
        return float((0.5 / self.represented[left_out] + 0.5 / self.counts[left_out]).max(initial=0))

    @property
    def mixture_error(self) -> float:
        """By how much the distribution function of a mixture is off at most, in which each class weighs the same."""
        there = self.represented[self.counts > 0]
        return float((0.5 / there * (there < self.counts[self.counts > 0])).mean()) if len(there) else 0.0

    def shared(self, key: Hashable, make: Callable[[], Shared]) -> Shared:
        """The result of `make`, which is called once for each `key`, as `probekit.metrics.Block.shared` is."""
        if key not in self._made:
            self._made[key] = make()
        made: Shared = self._made[key]
        return made

    def kept(self, min_count: int) -> Codes:
        """The codes of the classes that have enough samples."""
        return np.flatnonzero(self.counts >= max(1, min_count))

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


def reweighted(counts: Codes, represented: Codes) -> float:
    """By how much the shares of classes are off, among all or all but one, where so many samples represent them."""
    others = int(represented.sum() - represented.max(initial=0))
    apart = np.abs(represented - represented.sum() / max(1, counts.sum()) * counts).sum()
    return float(apart / (2 * others)) if others else 0.0
