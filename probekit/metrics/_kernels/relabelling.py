"""What a node's samples are prepared for, so that metrics are soon known for many labels of them.

The values of a node are sorted once; each labelling is then a count or a sum over that order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.sparse import csr_array

from probekit.metrics._kernels.cells import atoms_of, weights_of
from probekit.metrics._kernels.pooled_sort import pooled
from probekit.metrics.block import Array, Codes

__all__ = ["cell_counts", "class_sums", "twice_ranks"]

_TABLE = 2**16  # counts that stay in the cache


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
    others = width if classes * width**2 <= _TABLE else 1  # cells of a second node that are counted along
    of_equal: list[Array] = []  # the cells of each sample where all weigh the same, for which no sample is looked up

    def count(codes: Codes) -> Codes:
        in_class = np.bincount(codes, minlength=classes)
        if len(np.unique(in_class[in_class > 0])) == 1:
            if not of_equal:
                of_equal.extend(_together(nodes, len(codes), others))
            counts = _of_equal(of_equal, codes, (classes, width, others))[: len(nodes)]
        else:
            small, weights = codes.astype(np.min_scalar_type(classes)), weights_of(in_class)
            counts = np.empty((len(nodes), classes, width), np.int64)
            for number, node in enumerate(nodes):
                in_order = small.take(node.order)
                places = in_order * np.int64(width) + node.cells(weights.take(in_order))
                counts[number] = np.bincount(places, minlength=classes * width).reshape(classes, width)
        return np.ascontiguousarray(counts.transpose(2, 1, 0))

    return count


def _together(nodes: Sequence[_Node], samples: int, others: int) -> Iterator[Array]:
    """The cell of each sample (sample,) at a node, or at two nodes as one number where there are `others`."""
    step = 1 if others == 1 else 2
    for first in range(0, len(nodes), step):
        cells = [node.in_samples(node.cells(np.ones(samples, np.int64))) for node in nodes[first : first + step]]
        yield cells[0] * others + (cells[1] if len(cells) > 1 else 0)


def _of_equal(cells: Sequence[Array], codes: Codes, shape: tuple[int, int, int]) -> Codes:
    """The samples (node, class, cell) from the `cells` of one node or two; `shape` is (class, cell, cell of another).

    To count the pairs of the cells of two nodes takes as long as to count those of one.
    """
    classes, width, others = shape
    shifted, found = codes * (width * others), []
    for places in cells:
        table = np.bincount(shifted + places, minlength=classes * width * others).reshape(shape)
        found += [table.sum(axis=2), table.sum(axis=1)] if others > 1 else [table[..., 0]]
    return np.stack(found)


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

    def in_samples(self, in_order: Codes) -> Codes:
        """What is known of the samples in order, by sample."""
        found = np.empty_like(in_order)
        found[self.order] = in_order
        return found
