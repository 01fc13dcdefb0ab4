"""What a node's activation tells of the class, and how spread out it is, in bits."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import ClassVar

import numpy as np

from probekit.errors import PluginError
from probekit.metrics._kernels.cells import count_cells
from probekit.metrics._kernels.class_pairs import check_min_count, in_order, kept_classes
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.protocol import Parameters, Variables, in_pieces

__all__ = ["Entropy", "MutualInformation"]


@dataclass(frozen=True)
class MutualInformation(Parameters):
    """Bits that a node's activation tells of a sample's class.

    I = Σ p(cell, class) log₂(p(cell, class) / (p(cell) p(class))) over the cells of the metric `overlap`: atoms (values
    that at least 1 % of the node's samples share) and `bins` bins of equal mass. p are shares of the samples, so that
    large classes weigh more. Added to it is the correction of Miller and Madow (Miller 1955),
    (m_cell + m_class − m_both − 1) / (2 n ln 2), with m the numbers of cells, classes and pairs of both that hold
    samples.

    `mutual_information` (node), float64, at most H(class), log₂ C for equal classes; 0 for a dead or constant node.
    Around 0, and also a little below, where activation and class are independent. Classes with fewer than `min_count`
    samples are left out; NaN where fewer than two are left.

    Bins lower it: what differs within a cell isn't seen. It can't tell which classes are told apart (`auroc` can), and
    what two nodes tell may be the same. With few samples in a cell the correction takes off most of the bias, not all.
    """

    bins: int = 32
    min_count: int = 10
    name: ClassVar[str] = "mutual_information"

    def __post_init__(self) -> None:
        _check(self, self.bins, self.min_count)

    def compute(self, block: Block) -> Variables:
        return in_pieces(block.split(), self._compute)

    def _compute(self, block: Block) -> Variables:
        kept = kept_classes(block, self.min_count)
        found = np.full(block.nodes, np.nan)
        if len(kept) > 1:
            found = _information(count_cells(block, self.bins).counts[:, kept])
        return {"mutual_information": (("node",), found)}


@dataclass(frozen=True)
class Entropy(Parameters):
    """Bits that it takes to say in which cell of a node's activation a sample of a class is.

    H = −Σ p log₂ p with p the shares of the class's samples in the cells of the metric `overlap`: atoms (values that at
    least 1 % of the node's samples share) and `bins` bins of equal mass under the mixture of all classes (Shannon 1948;
    plug-in, uncorrected).

    `entropy` (label, node), float64, from 0, where the class is on one cell (a dead node, say), to log₂ of the number
    of cells, where it is spread over them evenly. NaN for a class with fewer than `min_count` samples.

    It is relative to the other classes, whose samples the cells are cut by too, and so neither the entropy of the
    values nor comparable between data sets. Few samples lower it, by about (cells − 1) / (2 n ln 2).
    """

    bins: int = 32
    min_count: int = 10
    name: ClassVar[str] = "entropy"

    def __post_init__(self) -> None:
        _check(self, self.bins, self.min_count)

    def compute(self, block: Block) -> Variables:
        return in_pieces(block.split(), self._compute)

    def _compute(self, block: Block) -> Variables:
        kept = kept_classes(block, self.min_count)
        share = count_cells(block, self.bins).counts[:, kept] / block.counts[kept, None]
        found = np.full((block.classes, block.nodes), np.nan)
        found[kept] = in_order(-share * np.log2(share, where=share > 0, out=np.zeros_like(share))) + 0.0  # no -0
        return {"entropy": (("label", "node"), found)}


def _information(counts: Codes) -> Array:
    """Mutual information of cell and class, (node), from the samples in each: `counts` (cell, class, node)."""
    in_cell, in_class, total = counts.sum(1, keepdims=True), counts.sum(0, keepdims=True), counts.sum((0, 1))
    # Quotients of integers, so that it is 0 in every bit where cell and class are independent.
    ratio = np.divide(counts * total, in_cell * in_class, where=counts > 0, out=np.ones(counts.shape))
    terms = counts * np.log2(ratio)
    filled = np.count_nonzero(in_cell, (0, 1)) + np.count_nonzero(in_class, (0, 1)) - np.count_nonzero(counts, (0, 1))
    information: Array = (in_order(terms.reshape(-1, terms.shape[2])) + (filled - 1) / (2 * log(2))) / total
    return information


def _check(metric: object, bins: int, min_count: int) -> None:
    check_min_count(metric, min_count)
    if bins < 1:
        raise PluginError(f"{type(metric).__name__}(bins={bins!r}): bins is at least 1.")
