"""What a node's samples are prepared for, so that metrics are soon known for many labels of them.

The values of a node are sorted once; each labelling is then a count or a sum over that order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array

from probekit.metrics._kernels.cells import atoms_of, weights_of
from probekit.metrics._kernels.pooled_sort import pooled
from probekit.metrics.block import Array, Codes

__all__ = ["cell_counts", "class_sums", "twice_ranks"]


def twice_ranks(values: Array) -> Array:
    """The samples below each, and those up to it, counted together, (sample, node): twice its rank, less one.

    `values` are (node, sample). As float64, in which their sums are exact.
    """
    ranks = np.empty(values.shape[::-1])
    for node, row in enumerate(values):
        keys, order = pooled(row, np.arange(len(row)))
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        stops = np.append(starts[1:], len(keys))
        ranks[order, node] = np.repeat(starts + stops, stops - starts)
    return ranks


def class_sums(table: Array, codes: Codes, classes: int) -> Array:
    """The sums of a `table` (sample, node) over the samples of each class, (class, node)."""
    order = np.argsort(codes.astype(np.min_scalar_type(classes)), kind="stable")
    offsets = np.append(0, np.cumsum(np.bincount(codes, minlength=classes)))
    sums: Array = csr_array((np.ones(len(codes)), order, offsets), shape=(classes, len(codes))) @ table
    return sums


def cell_counts(values: Array, bins: int, classes: int) -> Callable[[Codes], Codes]:
    """A function that counts the samples of `values` (node, sample) in cells, (cell, class, node), for their classes.

    The cells are those of `count_cells` with bins of equal mass, but for atoms that lie in an order of their own. Their
    edges depend on the labels only where the classes differ in size: then every sample weighs as its class says.
    """
    prepared = [_Cells.of(row, bins) for row in values]
    width = bins + max((len(cells.starts) for cells in prepared), default=0)
    fixed: dict[tuple[int, ...], list[Array]] = {}

    def count(codes: Codes) -> Codes:
        in_class = np.bincount(codes, minlength=classes)
        weights = weights_of(in_class)
        counts = np.empty((len(prepared), classes * width), np.int64)
        if len(np.unique(in_class[in_class > 0])) == 1:  # so that all samples weigh the same
            if not fixed:
                fixed[()] = [cells.of_samples(np.ones(values.shape[1], np.int64)) for cells in prepared]
            cell_of = fixed[()]
        else:
            cell_of = [cells.of_samples(weights[codes]) for cells in prepared]
        shifted = codes * width
        for node, of_samples in enumerate(cell_of):
            counts[node] = np.bincount(shifted + of_samples, minlength=classes * width)
        return np.ascontiguousarray(counts.reshape(-1, classes, width).transpose(2, 1, 0))

    return count


class _Cells:
    """The sorted samples of a node, with its atoms from `starts` to `stops`."""

    def __init__(self, keys: Array, order: Codes, bins: int) -> None:
        self.starts, self._keys, self._order, self._bins = atoms_of(keys), keys, order, bins
        self._stops = np.searchsorted(keys, keys[self.starts], "right")

    @classmethod
    def of(cls, row: Array, bins: int) -> _Cells:
        return cls(*pooled(row, np.arange(len(row))), bins)

    def of_samples(self, weights: Codes) -> Array:
        """The cell of each sample, (sample,), when they weigh so much."""
        mass = weights[self._order]
        for start, stop in zip(self.starts, self._stops, strict=True):
            mass[start:stop] = 0
        cumulative = np.cumsum(mass)
        total = int(cumulative[-1]) if len(cumulative) else 0
        cell = np.zeros(len(mass), np.int32)
        if total:
            edges = np.searchsorted(cumulative, [edge * total // self._bins for edge in range(1, self._bins)], "right")
            firsts = np.searchsorted(self._keys, self._keys[edges])  # a tied value doesn't split
            cell = np.searchsorted(firsts, np.arange(len(mass)), "right").astype(np.int32)
        for number, (start, stop) in enumerate(zip(self.starts, self._stops, strict=True)):
            cell[start:stop] = self._bins + number
        found = np.empty_like(cell)
        found[self._order] = cell
        return found
