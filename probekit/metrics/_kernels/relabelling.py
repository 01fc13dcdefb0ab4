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
    nodes = [_Node(row, bins) for row in values]
    width = bins + max((len(node.atoms) for node in nodes), default=0)
    of_equal: list[Array] = []  # the cell of each sample where all weigh the same, for which no sample is looked up

    def count(codes: Codes) -> Codes:
        in_class = np.bincount(codes, minlength=classes)
        counts = np.empty((len(nodes), classes * width), np.int64)
        equal = len(np.unique(in_class[in_class > 0])) == 1
        if equal and not of_equal:
            of_equal.extend(node.in_samples(node.cells(np.ones(len(codes), np.int64))) for node in nodes)
        shifted, weights = codes * width, weights_of(in_class)
        small = codes.astype(np.min_scalar_type(classes))
        for number, node in enumerate(nodes):
            if equal:
                places = shifted + of_equal[number]
            else:
                in_order = small.take(node.order)
                places = in_order * np.int64(width) + node.cells(weights.take(in_order))
            counts[number] = np.bincount(places, minlength=classes * width)
        return np.ascontiguousarray(counts.reshape(-1, classes, width).transpose(2, 1, 0))

    return count


class _Node:
    """The sorted samples of a node: their `order`, and the numbers of those at which `atoms` begin."""

    def __init__(self, row: Array, bins: int) -> None:
        self._keys, self.order = pooled(row, np.arange(len(row)))
        self._bins, self.atoms = bins, atoms_of(self._keys)
        self._stops = np.searchsorted(self._keys, self._keys[self.atoms], "right")

    def cells(self, mass: Codes) -> Codes:
        """The cell of each sample in order; the samples weigh as `mass`, in order, says, which is changed."""
        for start, stop in zip(self.atoms, self._stops, strict=True):
            mass[start:stop] = 0
        cumulative = np.cumsum(mass)
        total = int(cumulative[-1]) if len(cumulative) else 0
        cells = np.zeros(len(mass), np.int64)
        if total:
            edges = np.searchsorted(cumulative, [edge * total // self._bins for edge in range(1, self._bins)], "right")
            firsts = np.searchsorted(self._keys, self._keys[edges])  # a tied value doesn't split
            lengths = np.diff(np.concatenate([[0], firsts, [len(mass)]]))
            cells = np.repeat(np.arange(self._bins), lengths)
        for number, (start, stop) in enumerate(zip(self.atoms, self._stops, strict=True)):
            cells[start:stop] = self._bins + number
        return cells

    def in_samples(self, in_order: Codes) -> Array:
        """What is known of the samples in order, by sample."""
        found = np.empty(len(in_order), np.int32)
        found[self.order] = in_order
        return found
