"""How far the distribution function of each class is ahead of that of each other class, from which KS follows.

At one node, let R_b(x) be the number of samples of class b that are at most x. All classes are sorted together once.
Running counts over that order, of all classes side by side, have R_b(x) for every b in the row of the last sample that
equals x. Rows of thousands of samples are made at a time, and the samples of one class are compared with all classes
at once. Where classes are few, `cross_ranks` takes half as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, isqrt

import numpy as np

from probekit.metrics._kernels.class_pairs import MOST_CLASSES
from probekit.metrics._kernels.cross_ranks import cross_ranks, last_equal
from probekit.metrics._kernels.pooled_sort import pooled
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.protocol import Spec

__all__ = ["leads", "leads_bytes"]

_RUNNING = 32 * 2**20  # bytes of running counts that are in memory at a time
_SHARE = 16  # of them that is compared at a time


def leads(block: Block) -> Codes:
    """The largest n_a n_b (F_a − F_b) over the samples of class a, (class a, class b, node); an integer, at least 0.

    0 where a class has no samples.
    """
    if block.classes <= MOST_CLASSES:
        return cross_ranks(block).lead
    counting, table = _Counting.of(block), np.zeros((block.nodes, block.classes, block.classes), np.int64)
    for node, row in enumerate(block.values):
        table[node][np.ix_(counting.present, counting.present)] = counting.leads(row)
    return np.moveaxis(table, 0, 2)


def leads_bytes(spec: Spec, samples: int) -> int:
    """The bytes that `leads` takes beside its table: running counts, two shares of them, and one sort."""
    if spec.classes <= MOST_CLASSES:
        return 0
    running = min(_RUNNING, 8 * (samples + 1) * spec.classes)
    return running + 2 * running // _SHARE + 8 * spec.classes**2 + 64 * samples


@dataclass(frozen=True)
class _Counting:
    """What is the same at every node: the `present` classes, their `counts`, and the `first` sample of each.

    `codes` has the place of each sample's class among them, `rank` its rank in the class, and `counts` the dtype of
    n_a n_b (F_a − F_b).
    """

    present: Codes
    counts: Array
    first: Codes
    codes: Codes
    rank: Array

    @classmethod
    def of(cls, block: Block) -> _Counting:
        present = np.flatnonzero(block.counts)
        counts, first = block.counts[present], block.offsets[:-1][present]
        largest = int(counts.max(initial=0)) ** 2
        kind = next(each for each in (np.int16, np.int32, np.int64) if largest <= np.iinfo(each).max)
        codes = np.repeat(np.arange(len(present)), counts)
        rank = np.arange(1, len(codes) + 1) - first[codes]
        return cls(present, counts.astype(kind), first, codes, rank.astype(kind))

    def leads(self, row: Array) -> Array:
        """The leads (class, class) of the present classes at a node, whose samples are `row`."""
        found = np.zeros((len(self.present), len(self.present)), self.counts.dtype)
        for running, at, spans in self._running(row):
            for code, start, stop in spans:
                for few in range(start, stop, max(1, len(running) // _SHARE)):
                    those = slice(few, min(few + max(1, len(running) // _SHARE), stop))
                    behind = running.take(at[those], axis=0)  # the ranks of samples of the class in every class
                    behind *= self.counts[code]
                    ahead = np.multiply.outer(self.rank[those], self.counts)
                    ahead -= behind
                    np.maximum(found[code], ahead.max(axis=0), out=found[code])
        return found

    def _running(self, row: Array) -> Iterator[tuple[Array, Codes, list[list[int]]]]:
        """The running counts (row, class) over the samples of a node in ascending order, some samples at a time.

        With the row of each sample, as they are grouped by class, and the classes of these samples: the place of the
        class, the first of its samples and the one after the last.
        """
        keys, order = pooled(row, np.arange(len(row)))
        last, codes, classes = np.empty(len(row), np.int64), self.codes[order], np.arange(len(self.present))
        last[order] = last_equal(keys)
        # Ascending over all samples, as they are grouped by class.
        places, before = self.codes * len(row) + last, np.zeros(len(classes), self.counts.dtype)
        length = max(1, min(_RUNNING // before.nbytes, len(row)))
        memory = np.empty((_rows(length), len(classes)), before.dtype)
        for start in range(0, len(row), length):
            part = codes[start : start + length]
            at = _running_counts(part, before, memory)
            before = memory[at[-1]].copy()
            ends = classes[:, None] * len(row) + [start, start + len(part)]
            spans = np.column_stack([classes, places.searchsorted(ends)])
            # Samples that aren't among these have no row; none is asked for.
            yield memory, at.take(last - start, mode="clip"), spans[spans[:, 2] > spans[:, 1]].tolist()


def _rows(length: int) -> int:
    return ceil(length / isqrt(length)) * isqrt(length)


def _running_counts(codes: Codes, before: Array, into: Array) -> Codes:
    """Count how many of the `codes` up to each one are of each class, beyond those `before` (class,), `into` rows.

    The result is the row of each of the codes. The sums are made in two levels, of which every step adds many numbers
    that lie side by side; numpy's cumsum along this axis takes 20 times as long.
    """
    height = isqrt(len(codes))
    groups = ceil(len(codes) / height)
    at = np.arange(len(codes)) % height * groups + np.arange(len(codes)) // height
    counts = into[: height * groups]
    counts.fill(0)
    counts[at, codes] = 1
    grid = counts.reshape(height, groups, -1)
    for step in range(1, height):
        grid[step] += grid[step - 1]
    starts = np.empty_like(grid[-1])
    starts[0] = before
    for group in range(1, groups):
        np.add(starts[group - 1], grid[-1, group - 1], out=starts[group])
    grid += starts
    return at
