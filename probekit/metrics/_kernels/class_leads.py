"""How far the distribution functions of two classes are apart, from which KS follows.

At one node, let R_c(x) be the number of samples of class c that are at most x. n_a n_b (F_a − F_b) grows only at
samples of a, so its largest and its least value stand at and just before one of them: i n_b − n_a R_b there, where i is
the rank of the sample in its class. All classes are sorted together once. A few classes b at a time have all their
counts R in a small table, with a row for each of their samples; the samples of all other classes look rows up in it.
The table and what is computed of it stay in the cache. Where classes are few, `cross_ranks` takes half as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import numpy as np

from probekit.metrics._kernels.class_pairs import MOST_CLASSES
from probekit.metrics._kernels.cross_ranks import cross_ranks, last_equal
from probekit.metrics._kernels.pooled_sort import pooled
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.protocol import Spec

__all__ = ["leads_bytes", "leads_of"]

_ROW = 32  # bytes of a row of counts: numpy takes rows of this size without a call for each
_TILE = 2**17  # bytes of rows that are compared at a time


def leads_of(block: Block, kept: Codes) -> Callable[[Block], Codes]:
    """A function that gives the largest n_a n_b |F_a − F_b| of each pair of classes, (pair, node), integers.

    It takes blocks of other nodes of the same samples. The pairs are those of the classes `kept`, of which every one
    has samples, in the order of ``np.triu_indices(len(kept), 1)``.
    """
    first, second = np.triu_indices(len(kept), 1)
    if block.classes <= MOST_CLASSES:
        return partial(_of_few, first=kept[first], second=kept[second])
    return _Counting.of(block, kept, first, second).leads


def _of_few(block: Block, first: Codes, second: Codes) -> Codes:
    lead = cross_ranks(block).lead
    return np.maximum(lead[first, second], lead[second, first])


def leads_bytes(spec: Spec, samples: int) -> int:
    """The bytes that `leads_of` takes beside its result: the samples' order, tables of counts and pairs, and tiles."""
    if spec.classes <= MOST_CLASSES:
        return 0
    return 24 * spec.classes**2 + (96 + _ROW) * samples + 6 * _ROW * spec.classes + 4 * _TILE


@dataclass(frozen=True)
class _Counting:
    """What is the same at every node.

    Classes stand in descending order of their `counts` (class,), which are in the dtype of what is compared: multiples
    of the `factor` that they share. Slots hold the samples: first the smallest of every class, then the second of each
    class that has one, and so on. `starts` (rank + 1) are where the samples of a rank begin. `samples` and `codes`
    (slot,) are the place of each in the block and its class, `at` (pair,) that of a pair in a table of all of them.
    """

    counts: Array
    factor: int
    starts: Codes
    samples: Codes
    codes: Codes
    at: Codes

    @classmethod
    def of(cls, block: Block, kept: Codes, first: Codes, second: Codes) -> _Counting:
        order = np.argsort(-block.counts[kept], kind="stable")
        counts, begin = block.counts[kept][order], block.offsets[:-1][kept][order]
        factor, most = int(np.gcd.reduce(counts, initial=0)) or 1, int(counts.max(initial=0))
        largest = most**2 // factor
        kind = next(each for each in (np.int8, np.int16, np.int32, np.int64) if largest <= np.iinfo(each).max)
        having = len(counts) - np.searchsorted(counts[::-1], np.arange(1, most + 1))  # classes with such a rank
        starts = np.append(0, np.cumsum(having))
        codes = np.arange(starts[-1]) - np.repeat(starts[:-1], having)
        samples = begin[codes] + np.repeat(np.arange(len(having)), having)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        one, other = place[first], place[second]
        at = np.minimum(one, other) * len(counts) + np.maximum(one, other)
        return cls((counts // factor).astype(kind), factor, starts, samples, codes, at)

    def leads(self, block: Block) -> Codes:
        return np.stack([self._of_node(row) for row in block.values], axis=1)

    def _of_node(self, row: Array) -> Codes:
        keys, order = pooled(row[self.samples], np.arange(len(self.samples)))
        up_to, below = np.empty_like(order), None
        up_to[order] = last_equal(keys) + 1
        if (keys[1:] == keys[:-1]).any():
            below = np.empty_like(order)
            below[order] = len(keys) - 1 - last_equal(keys[::-1])[::-1]
        codes, classes = self.codes[order], len(self.counts)
        found = np.empty((classes, classes), self.counts.dtype)
        width = _ROW // found.itemsize
        for start in range(0, classes, width):
            apart = self._apart(start, width, codes, up_to, below)
            found[start : start + width, start:] = apart.T[: classes - start]
        return found.reshape(-1).take(self.at).astype(np.int64) * self.factor

    def _apart(self, start: int, width: int, codes: Codes, up_to: Codes, below: Codes | None) -> Array:
        """The leads of every class from `start` on and each of `width` classes from there on, (class, width).

        `codes` are the classes of all samples in ascending order. Of these samples so many are `up_to` that of a slot,
        and `below` it, which is None where no two are equal.
        """
        inside = (codes >= start) & (codes < start + width)
        counts = np.zeros((np.count_nonzero(inside) + 1, width), self.counts.dtype)
        counts[np.arange(1, len(counts)), codes[inside] - start] = 1
        np.cumsum(counts, axis=0, out=counts)
        rows = np.append(0, np.cumsum(inside))  # the row of the counts after so many samples
        theirs = np.zeros((len(self.counts) - start, width), self.counts.dtype)
        theirs[:, : len(theirs)] = self.counts[start : start + width]
        ours = np.repeat(self.counts[start:, None], width, axis=1)
        most, least = np.zeros_like(ours), np.zeros_like(ours)
        for ranks, slots, those in self._tiles(start):
            at = rows.take(up_to[slots].reshape(len(ranks), -1)[:, start:])
            ahead = _ahead(ranks, counts.take(at, axis=0), ours[those], theirs[those])
            np.maximum(most[those], ahead.max(axis=0), out=most[those])
            if below is None:
                behind = ahead.min(axis=0) - theirs[those]
            else:
                at = rows.take(below[slots].reshape(len(ranks), -1)[:, start:])
                behind = _ahead(ranks - 1, counts.take(at, axis=0), ours[those], theirs[those]).min(axis=0)
            np.minimum(least[those], behind, out=least[those])
        found: Array = np.maximum(most, -least)
        return found

    def _tiles(self, start: int) -> Iterator[tuple[Array, slice, slice]]:
        """The samples of the classes from `start` on, some ranks of equally many classes at a time.

        The ranks (rank, 1, 1), the slots of all classes that have them, and those of the classes from `start` on.
        """
        for first, last in self._runs:
            having = int(self.starts[first + 1] - self.starts[first]) - start
            if having <= 0:
                return
            step = max(1, _TILE // (having * _ROW))
            for rank in range(first, last, step):
                until = min(rank + step, last)
                ranks = np.arange(rank + 1, until + 1, dtype=self.counts.dtype)[:, None, None]
                yield ranks, slice(self.starts[rank], self.starts[until]), slice(having)

    @cached_property
    def _runs(self) -> list[tuple[int, int]]:
        """The first of the ranks that the same classes have, and the one after the last."""
        having = np.diff(self.starts)
        return [*pairwise([0, *(np.flatnonzero(np.diff(having)) + 1).tolist(), len(having)])]


def _ahead(ranks: Array, behind: Array, ours: Array, theirs: Array) -> Array:
    """`ranks` × `theirs` − `behind` × `ours`; by an operation over thousands of numbers that lie side by side each."""
    if theirs[0, 0] != 1:  # of the largest of the classes; otherwise all are of this size
        behind *= ours
        ranks = ranks * theirs
    np.subtract(ranks, behind, out=behind)
    return behind
