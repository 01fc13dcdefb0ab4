"""Entropy of a node's activation, and its mutual information with the class, in bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import ClassVar

import numpy as np

from probekit.errors import PluginError
from probekit.metrics._kernels.cells import MOST_ATOMS, cells_bytes, count_cells
from probekit.metrics._kernels.class_pairs import check_min_count, in_order, kept_classes
from probekit.metrics._kernels.node_blocks import join_nodes
from probekit.metrics._kernels.relabelling import cell_counts
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Parameters, Spec, Variables
from probekit.metrics.resolution import Resolution

__all__ = ["Entropy", "MutualInformation"]


@dataclass(frozen=True)
class MutualInformation(Parameters):
    """Information in bits that a node's activation gives about the class of a sample.

    I = Σ p(cell, class) log₂(p(cell, class) / (p(cell) p(class))) over the cells of the metric `overlap`: atoms (values
    that at least 1 % of the node's samples share) and `bins` bins of equal mass. p are shares of the samples, so that
    large classes weigh more. The correction of Miller and Madow (Miller 1955) is added:
    (m_cell + m_class − m_both − 1) / (2 n ln 2), where m are the numbers of cells, of classes, and of pairs of both
    that contain samples.

    `mutual_information` (node), float64, is at most H(class), which is log₂ C for equal classes; 0 for a dead or
    constant node. It is close to 0, possibly a little below, where activation and class are independent. Classes with
    fewer than `min_count` samples are left out; NaN where fewer than two are left.

    Bins lower it: differences within a cell aren't seen. It doesn't say which classes can be distinguished (`auroc`
    does), and two nodes may give the same information. With few samples in a cell the correction removes most of the
    bias, not all.
    """

    bins: int = 32
    min_count: int = 10
    name: ClassVar[str] = "mutual_information"
    headline: ClassVar[Headline] = Headline(
        "mutual_information",
        "mean",
        "single nodes tell much about the class, in bits",
        neutral=0.0,
        missing="it needs two classes of at least min_count samples (10 unless told otherwise)",
    )

    def __post_init__(self) -> None:
        _check(self, self.bins, self.min_count)

    def memory(self, spec: Spec, samples: int) -> int:
        return cells_bytes(spec, self.bins)

    def compute(self, block: Block) -> Variables:
        return join_nodes(map(self._compute, block.split()))

    def relabelling(self, values: Array, classes: int) -> Callable[[Codes], Variables]:
        """Those of `compute`, from the samples of each class in cells that are found once."""
        count = cell_counts(values, self.bins, classes)

        def compute(codes: Codes) -> Variables:
            kept = np.flatnonzero(np.bincount(codes, minlength=classes) >= self.min_count)
            found = _information(count(codes)[:, kept]) if len(kept) > 1 else np.full(len(values), np.nan)
            return {"mutual_information": (("node",), found)}

        return compute

    def _compute(self, block: Block) -> Variables:
        kept = kept_classes(block, self.min_count)
        found = np.full(block.nodes, np.nan)
        if len(kept) > 1:
            found = _information(count_cells(block, self.bins).counts[:, kept])
        return {"mutual_information": (("node",), found)}

    def error_bound(self, resolution: Resolution) -> Array:
        # I(X; class) <= I(X'; class) + H(X | X') for any cells X and X', and Fano's inequality bounds the last. Weights
        # of classes that are off by w change H(class) and H(class | X) (Winter 2016). The correction counts samples.
        cells, kept = _most_cells(self.bins, resolution), resolution.kept(self.min_count)
        classes, w = max(1, len(kept)), min(0.5, resolution.weight_error(self.min_count))
        weights = (2 + w) * _entropy(np.array(w)) + 2 * w * np.log2(classes)
        left_out = (resolution.represented < resolution.counts).any()
        correction = left_out * cells * classes / (2 * log(2) * max(1, resolution.represented[kept].sum()))
        differ = _bits(resolution.moved(self.bins - 1, self.min_count), cells)
        bound: Array = np.minimum(differ + weights, np.log2(classes)) + correction
        return bound


@dataclass(frozen=True)
class Entropy(Parameters):
    """Entropy in bits of each class at each node, over the cells that the metric `overlap` uses.

    H = −Σ p log₂ p, where p are the shares of the class's samples in the cells of the metric `overlap`: atoms (values
    that at least 1 % of the node's samples share) and `bins` bins of equal mass under the mixture of all classes
    (Shannon 1948; plug-in, uncorrected).

    `entropy` (label, node), float64, goes from 0, where all samples of the class are in one cell (a dead node, say), to
    log₂ of the number of cells, where they are spread over them evenly. NaN for a class with fewer than `min_count`
    samples.

    The cells depend on the samples of all classes, so the entropy of a class is relative to the other classes: it isn't
    the entropy of the values, and can't be compared between data sets. Few samples lower it, by about
    (cells − 1) / (2 n ln 2).
    """

    bins: int = 32
    min_count: int = 10
    name: ClassVar[str] = "entropy"
    headline: ClassVar[Headline] = Headline(
        "entropy",
        "mean",
        "the values of a class spread over the whole range",
        missing="a class of fewer than min_count samples (10 unless told otherwise) has none",
    )

    def __post_init__(self) -> None:
        _check(self, self.bins, self.min_count)

    def memory(self, spec: Spec, samples: int) -> int:
        return cells_bytes(spec, self.bins)

    def compute(self, block: Block) -> Variables:
        return join_nodes(map(self._compute, block.split()))

    def _compute(self, block: Block) -> Variables:
        kept = kept_classes(block, self.min_count)
        share = count_cells(block, self.bins).counts[:, kept] / block.counts[kept, None]
        found = np.full((block.classes, block.nodes), np.nan)
        found[kept] = in_order(-share * np.log2(share, where=share > 0, out=np.zeros_like(share))) + 0.0  # no -0
        return {"entropy": (("label", "node"), found)}

    def error_bound(self, resolution: Resolution) -> Array:
        return _bits(resolution.moved(self.bins - 1, self.min_count), _most_cells(self.bins, resolution))


def _most_cells(bins: int, resolution: Resolution) -> Array:
    """The most cells with samples in a block or in the real samples, (node,); two where there are fewer."""
    atoms = np.where(resolution.ambiguous, MOST_ATOMS, resolution.atoms)
    most: Array = np.maximum(2, bins + atoms)
    return most


def _bits(moved: Array, cells: Array) -> Array:
    """How far entropies are apart at most where so much of a class moved among so many cells (Audenaert 2007)."""
    moved = np.minimum(moved, 1 - 1 / cells)
    bits: Array = _entropy(moved) + moved * np.log2(cells - 1)
    return bits


def _entropy(share: Array) -> Array:
    """The entropy in bits of two cells, one of which has such a share."""
    shares = np.stack([share, 1 - share])
    entropy: Array = -(shares * np.log2(shares, where=shares > 0, out=np.zeros_like(shares))).sum(axis=0)
    return entropy


def _information(counts: Codes) -> Array:
    """Mutual information of cell and class, (node), from the samples in each: `counts` (cell, class, node)."""
    in_cell, in_class, total = counts.sum(1, keepdims=True), counts.sum(0, keepdims=True), counts.sum((0, 1))
    # Quotients of integers, so that the result is exactly 0 where cell and class are independent.
    ratio = np.divide(counts * total, in_cell * in_class, where=counts > 0, out=np.ones(counts.shape))
    terms = counts * np.log2(ratio)
    filled = np.count_nonzero(in_cell, (0, 1)) + np.count_nonzero(in_class, (0, 1)) - np.count_nonzero(counts, (0, 1))
    information: Array = (in_order(terms.reshape(-1, terms.shape[2])) + (filled - 1) / (2 * log(2))) / total
    return information


def _check(metric: object, bins: int, min_count: int) -> None:
    check_min_count(metric, min_count)
    if bins < 1:
        raise PluginError(f"{type(metric).__name__}(bins={bins!r}): bins is at least 1.")
