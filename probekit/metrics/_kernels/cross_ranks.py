"""The ranks of each class's samples among those of each other class, from which KS and AUROC follow.

At one node, let R_b(x) be the number of samples of class b that are at most x. All classes are sorted together once;
R_b is then a running count over that order, read at the last of the samples that equal x.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from probekit.metrics._kernels.class_pairs import MOST_CLASSES
from probekit.metrics._kernels.pooled_sort import pooled
from probekit.metrics.block import Array, Block, Codes

__all__ = ["Ranks", "cross_ranks", "last_equal", "twice_above_others"]


@dataclass(frozen=True)
class Ranks:
    """Integers for each pair of classes, (class a, class b, node), so that results from them are exact.

    `at_most` counts the pairs of a sample of a and a sample of b in which the sample of b is at most that of a. `lead`
    is the largest n_a n_b (F_a − F_b) over the samples of a. Both are 0 where a class has no samples.
    """

    at_most: Codes
    lead: Codes


def cross_ranks(block: Block) -> Ranks:
    """The ranks of a block; all metrics share them, unless there are too many classes to keep all their pairs."""
    make = partial(_cross_ranks, block)
    return block.shared("cross ranks", make) if block.classes <= MOST_CLASSES else make()


def twice_above_others(block: Block, kept: Codes) -> Codes:
    """Twice the pairs of a sample of a class and a smaller sample of another, (class, node), for the classes `kept`.

    A pair of equal values counts once. It follows from the ranks among the samples of all these classes together.
    """
    samples, counts = (
        np.flatnonzero(np.isin(np.repeat(np.arange(block.classes), block.counts), kept)),
        block.counts[kept],
    )
    found = np.zeros((len(kept), block.nodes), np.int64)
    if not len(kept):
        return found
    starts, twice = np.cumsum(counts) - counts, np.empty(len(samples), np.int64)
    for node, row in enumerate(block.values):
        keys, order = pooled(row[samples], np.arange(len(samples)))
        last = last_equal(keys)
        first = len(keys) - 1 - last_equal(keys[::-1])[::-1]
        twice[order] = first + last + 1  # the samples below it, and those up to it
        found[:, node] = np.add.reduceat(twice, starts) - counts**2  # less the pairs within the class
    return found


def _cross_ranks(block: Block) -> Ranks:
    shape = (block.nodes, block.classes, block.classes)
    at_most, lead = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    ranking = _Ranking.of(block)
    for node, row in enumerate(block.values):
        ranking.fill(row, at_most[node], lead[node])
    return Ranks(np.moveaxis(at_most, 0, 2), np.moveaxis(lead, 0, 2))


@dataclass(frozen=True)
class _Ranking:
    """The values that are the same at every node.

    For each sample, grouped by class: its index in `samples`, its class in `codes`, the `size` of that class, and its
    `rank` in it. `present` are the classes that have samples; those of class ``present[i]`` start at ``starts[i]``.
    """

    counts: Codes
    present: Codes
    starts: Codes
    samples: Codes
    codes: Array
    size: Array
    rank: Array

    @classmethod
    def of(cls, block: Block) -> _Ranking:
        counts, present = block.counts, np.flatnonzero(block.counts)
        samples = np.arange(counts.sum())
        # n_a n_b (F_a − F_b) is an integer and at most n_a n_b.
        dtype = np.int32 if int(counts.max(initial=0)) ** 2 <= np.iinfo(np.int32).max else np.int64
        codes = np.repeat(np.arange(block.classes, dtype=np.min_scalar_type(block.classes)), counts)
        rank = samples - np.repeat(block.offsets[:-1], counts) + 1
        size = np.repeat(counts, counts).astype(dtype)
        return cls(counts, present, block.offsets[:-1][present], samples, codes, size, rank.astype(dtype))

    def fill(self, row: Array, at_most: Codes, lead: Codes) -> None:
        """Compute `at_most` and `lead` (class a, class b) of one node, whose samples are `row`, in place."""
        keys, order = pooled(row, self.samples)
        last = np.empty(len(row), np.int64)
        last[order] = last_equal(keys)
        codes = self.codes.take(order)
        running, ranks, ahead = (np.empty_like(self.rank) for _ in range(3))
        for code in self.present:
            np.cumsum(codes == code, dtype=running.dtype, out=running)
            running.take(last, out=ranks, mode="clip")  # unlike the default mode, "clip" needs no copy of `out`
            at_most[self.present, code] = np.add.reduceat(ranks, self.starts, dtype=np.int64)
            np.multiply(self.rank, ranks.dtype.type(self.counts[code]), out=ahead)
            ahead -= np.multiply(ranks, self.size, out=ranks)
            lead[self.present, code] = np.maximum.reduceat(ahead, self.starts)


def last_equal(keys: Array) -> Codes:
    """For each of the sorted `keys`, the index of the last key that equals it."""
    ends = np.flatnonzero(keys[1:] != keys[:-1])
    if len(ends) == len(keys) - 1:
        return np.arange(len(keys))
    ends = np.append(ends, len(keys) - 1)
    return np.repeat(ends, np.diff(ends, prepend=-1))
