"""How far the distribution functions of two classes are apart, for many labellings of the same samples.

The samples of a node are sorted once. For a labelling, they are counted by class in chunks of the sorted samples, which
gives n_a n_b (F_a − F_b) at the end of each chunk, and, from the counts in the chunk, how large it can be within. Only
the few chunks where that exceeds what is known already are gone through sample by sample, so the result is exact.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from probekit.metrics._kernels.pooled_sort import pooled
from probekit.metrics.block import Array, Codes

__all__ = ["SortedNode"]

_CHUNK = 64
_ENTRIES = 2**17  # samples of chunks that are gone through at a time


@lru_cache(maxsize=4)
def _begins(chunks: int, classes: int) -> Codes:
    """Where the counts of the chunk of each sample begin, which have a place for samples of no class."""
    return np.repeat(np.arange(chunks) * (classes + 1), _CHUNK)


class SortedNode:
    """The sorted samples of a node, `row` (sample,), for labellings of at most 255 classes."""

    def __init__(self, row: Array, classes: int) -> None:
        self.keys, order = pooled(row, np.arange(len(row)))
        chunks = -(-len(row) // _CHUNK)
        # After the last sample come some of no class.
        self._order = np.full(chunks * _CHUNK, len(row))
        self._order[: len(row)] = order
        self._classes = classes
        # Distribution functions are compared only after the last of equal values.
        ends = np.zeros(chunks * _CHUNK, bool)
        ends[: len(row)] = np.append(self.keys[1:] != self.keys[:-1], True)
        self._ends = ends.reshape(chunks, _CHUNK)
        # Of more equal samples than there are classes, some are of one class.
        self._most_equal = min(int(np.diff(self.ends, prepend=0).max(initial=0)), classes + 1)

    @property
    def ends(self) -> Codes:
        """The number of samples up to each value, that value included."""
        return np.flatnonzero(self._ends) + 1

    def tied(self, in_order: npt.NDArray[np.uint8]) -> bool:
        """Whether any class has equal samples."""
        keys, codes = self.keys, in_order[: len(self.keys)]
        return any(((keys[by:] == keys[:-by]) & (codes[by:] == codes[:-by])).any() for by in range(1, self._most_equal))

    def in_order(self, codes: Codes) -> npt.NDArray[np.uint8]:
        """The classes of the samples in ascending order, and beyond the last of them a class more for no sample."""
        return np.append(codes, self._classes).astype(np.uint8).take(self._order)

    def leads(self, in_order: npt.NDArray[np.uint8], first: Codes, second: Codes, sizes: Codes) -> Codes:
        """The largest n_a n_b |F_a − F_b| of each pair of the classes `first` and `second`, (pair,).

        `sizes` (class,) are the samples of each class, of which those of the pairs have some.
        """
        counts = np.bincount(
            _begins(len(self._ends), self._classes) + in_order, minlength=len(self._ends) * (self._classes + 1)
        )
        factor, largest = int(np.gcd.reduce(sizes)), int(sizes.max())
        kind = next(each for each in (np.int16, np.int32, np.int64) if 2 * largest**2 // factor <= np.iinfo(each).max)
        weights: Array = (sizes // factor).astype(kind)
        inside: Array = counts.reshape(len(self._ends), -1).T.astype(kind)
        up_to: Array = np.cumsum(inside, axis=1, dtype=kind)
        ours: Array = weights[first][:, None]
        theirs: Array = weights[second][:, None]
        rise, fall = inside[first] * theirs, inside[second] * ours  # what the chunk adds, and what it takes away
        at_end = up_to[first] * theirs - up_to[second] * ours
        known = np.abs(np.where(self._ends[:, -1], at_end, 0)).max(axis=1)
        possible = np.maximum(at_end + fall, rise - at_end)
        pairs, chunks = np.nonzero((possible > known[:, None]) & self._ends.any(axis=1))
        labels = in_order.reshape(self._ends.shape)
        for start in range(0, len(pairs), _ENTRIES // _CHUNK):
            few = slice(start, start + _ENTRIES // _CHUNK)
            pair, chunk = pairs[few], chunks[few]
            those = labels[chunk]
            steps = (those == first[pair, None]) * theirs[pair] - (those == second[pair, None]) * ours[pair]
            before = at_end[pair, chunk] - rise[pair, chunk] + fall[pair, chunk]
            apart = np.abs(np.cumsum(steps, axis=1, dtype=kind) + before[:, None])
            np.maximum.at(known, pair, np.where(self._ends[chunk], apart, 0).max(axis=1))
        found: Codes = known.astype(np.int64) * factor
        return found
