"""The cells in which the distributions of classes are compared: atoms, and bins for the other values.

An atom is a value that at least 1 % of a node's samples share, and at least two: the 0 of a ReLU, the 1 of a saturated
sigmoid. The other values fall into bins between shared edges, left-closed (the last closed on both sides). Edges of
equal mass are quantiles of the class-balanced mixture, in which every class weighs the same: edge j of B is the
smallest value v with F(v) > j / B. A tied value then never splits. Where several quantiles fall on one value, edges
coincide and the bins between them are empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil, lcm, sqrt
from typing import Literal, TypeAlias

import numpy as np

from probekit.metrics._kernels.pooled_sort import CARRIED, pooled, values_of
from probekit.metrics.block import NODES, Array, Block, Codes
from probekit.metrics.protocol import Spec

__all__ = [
    "MOST_ATOMS",
    "MOST_BINS",
    "Cells",
    "Edges",
    "atoms_of",
    "bins_for",
    "cells_bytes",
    "count_cells",
    "weights_of",
]

Edges: TypeAlias = Literal["mass", "width"]

MOST_ATOMS = 100  # of a node: an atom has at least one in this many samples
MOST_BINS = 32  # that a metric makes unless told otherwise
_TABLES = 10  # like those of the counts, that a metric has at a time


@dataclass(frozen=True)
class Cells:
    """The cells of each node, and the samples of each class in them.

    `edges` (node, bin + 1) are NaN where all samples are on atoms, `atoms` (node, atom) NaN after a node's last atom.
    `in_bins` (class, node, bin) and `on_atoms` (class, node, atom) together count every sample once. Where a block has
    only some of the samples, they count the samples that these stand for, `Block.measured` of each class.
    """

    edges: Array
    atoms: Array
    in_bins: Codes
    on_atoms: Codes

    @property
    def counts(self) -> Codes:
        """The samples in all cells, (cell, class, node).

        Atoms come last: their number differs between blocks, and zeros at the end of a sum don't change it.
        """
        return np.concatenate([np.moveaxis(self.in_bins, 2, 0), np.moveaxis(self.on_atoms, 2, 0)])


def bins_for(samples: Codes, least: int = 1) -> int:
    """The number of bins for classes of so many `samples` (class): 2 ⌈√(2n) / 2⌉, the root of two classes' samples.

    n is the harmonic mean of the samples. They are 6 at n = 10, 10 at 50, and 32, the most, from 451 on; an even
    number, so that one edge halves the samples. They are no fewer than `least`, as far as that is no more than 32.
    """
    size = len(samples) / (1 / samples).sum() if len(samples) else 1
    return min(MOST_BINS, max(2 * ceil(sqrt(2 * size) / 2), least))


def cells_bytes(spec: Spec, bins: int | None, nodes: int = NODES) -> int:
    """The most bytes that counts of all classes in the cells of `nodes` nodes take, with what is computed of them."""
    return 8 * _TABLES * spec.classes * ((bins or MOST_BINS) + MOST_ATOMS) * min(spec.nodes, nodes)


def count_cells(block: Block, bins: int, kind: Edges = "mass") -> Cells:
    """The atoms of each node, `bins` bins of equal mass or width for its other values, and the counts in both.

    All metrics that use the same cells of the same block share the positions of these cells.
    """
    # Stored at the blocks of the split, so that metrics that split the block share with those that don't.
    cuts = [few.shared(("cuts", bins, kind), partial(_cuts, few, bins, kind)) for few in block.split()]
    edges = np.array([edges for cut in cuts for edges, _ in cut], block.values.dtype).reshape(block.nodes, bins + 1)
    atoms = _padded([atoms for cut in cuts for _, atoms in cut], block.values.dtype)
    in_bins, on_atoms = _count(block, edges, atoms)
    return Cells(edges, atoms, in_bins, on_atoms)


def _cuts(block: Block, bins: int, kind: Edges) -> list[tuple[Array, Array]]:
    """The edges and the atoms of each node."""
    weights = np.repeat(weights_of(block.counts), block.counts)
    return [_cut(row, weights, bins, kind) for row in block.values]


def weights_of(counts: Codes) -> Codes:
    """The weight of a sample of each class, in proportion to 1 / n_c, as integers of 32 bits.

    Sums of integers are exact, so that no edge depends on the order of equal values. The weights themselves are exact
    if the least common multiple of the counts is small enough; otherwise they are rounded at the 32nd bit of the
    largest.
    """
    there = [int(count) for count in counts if count]
    scale = min(lcm(*there), CARRIED * min(there, default=1))
    return np.array([(2 * scale + n) // (2 * n) if n else 0 for n in map(int, counts)], np.int64)


def _cut(row: Array, weights: Codes, bins: int, kind: Edges) -> tuple[Array, Array]:
    """The edges and the atoms of one node."""
    keys, mass = pooled(row, weights)
    starts = atoms_of(keys)
    for start, stop in zip(starts, np.searchsorted(keys, keys[starts], "right"), strict=True):
        mass[start:stop] = 0
    if kind == "width":
        mass[np.isinf(values_of(keys))] = 0
    edges = _quantiles(keys, np.cumsum(mass), bins)
    return (_even(edges) if kind == "width" else edges), values_of(keys[starts])


def atoms_of(keys: Array) -> Codes:
    """The indices in the sorted `keys` at which a key begins that at least 1 % of them equal."""
    fewest = max(2, -(-len(keys) // MOST_ATOMS))
    ahead = keys[fewest - 1 :]
    equal = ahead == keys[: len(ahead)]
    return np.flatnonzero(np.diff(equal, prepend=False) & equal)


def _quantiles(keys: Array, cumulative: Codes, bins: int) -> Array:
    """The edges of bins of equal mass, among sorted `keys` with the `cumulative` mass; NaN where there is none."""
    total = int(cumulative[-1]) if len(cumulative) else 0
    if total == 0:
        return np.full(bins + 1, np.nan, values_of(keys[:0]).dtype)
    inner = np.searchsorted(cumulative, [edge * total // bins for edge in range(bins)], side="right")
    return values_of(keys[np.append(inner, np.searchsorted(cumulative, total))])


def _even(edges: Array) -> Array:
    """Equally spaced edges between the first and the last of `edges`, the same number of them."""
    first, last = edges[[0, -1]].astype(np.float64)
    even: Array = 2 * np.linspace(first / 2, last / 2, len(edges))  # the difference of halves can't overflow
    return even.clip(first, last).astype(edges.dtype)


def _padded(rows: list[Array], dtype: np.dtype[np.generic]) -> Array:
    padded = np.full((len(rows), max(map(len, rows), default=0)), np.nan, dtype)
    for row, into in zip(rows, padded, strict=True):
        into[: len(row)] = row
    return padded


def _count(block: Block, edges: Array, atoms: Array) -> tuple[Codes, Codes]:
    """Samples of each class in each bin and on each atom of each node: (class, node, bin) and (class, node, atom)."""
    inner = edges[:, 1:-1]
    below = np.empty((block.classes, *inner.shape), np.int64)
    from_atoms, past_atoms = np.empty((2, block.classes, *atoms.shape), np.int64)
    for code in range(block.classes):
        for node, values in enumerate(block[code]):
            below[code, node] = values.searchsorted(inner[node])
            from_atoms[code, node] = values.searchsorted(atoms[node])
            past_atoms[code, node] = values.searchsorted(atoms[node], "right")
    below, from_atoms, past_atoms = (_of_measured(block, each) for each in (below, from_atoms, past_atoms))
    on_atoms = past_atoms - from_atoms
    # NaN stands for an absent edge or atom and sorts after every value: all samples are below it, and none equal it.
    ends = np.broadcast_to(block.measured[:, None, None], (block.classes, block.nodes, 1))
    in_bins = np.diff(below, prepend=0, append=ends)
    home = (inner[:, None] <= atoms[..., None]).sum(axis=-1)  # the bin that an atom would fall into
    for atom in range(atoms.shape[1]):
        in_bins[:, np.arange(block.nodes), home[:, atom]] -= on_atoms[:, :, atom]
    return in_bins, on_atoms


def _of_measured(block: Block, columns: Codes) -> Codes:
    """How many samples so many first `columns` (class, …) of each class stand for."""
    if block.of is None:
        return columns
    counts, of = (each.reshape(-1, *[1] * (columns.ndim - 1)) for each in (block.counts, block.of))
    return (2 * columns * of + counts) // np.maximum(1, 2 * counts)
