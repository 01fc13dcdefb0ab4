"""The overlap of the classes' distributions at each node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from probekit.errors import PluginError
from probekit.metrics._kernels.cells import cells_bytes, count_cells
from probekit.metrics._kernels.class_pairs import in_order, keeps_pairs, kept_classes
from probekit.metrics._kernels.node_blocks import join_nodes
from probekit.metrics._kernels.relabelling import cell_counts
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Parameters, Spec, Variables
from probekit.metrics.resolution import Resolution

__all__ = ["Overlap"]


@dataclass(frozen=True)
class Overlap(Parameters):
    """Share of probability mass that two classes have in common: 1 for identical, 0 for separate classes.

    overlap(a, b) = Σ min(p_a, p_b) over the cells of a node, which is 1 − total variation. The cells are its atoms
    (values that at least 1 % of its samples share) and `bins` bins of equal mass under the class-balanced mixture of
    all classes. Float64 in [0, 1]:

    - `overlap` (node): the mean over pairs of classes; `overlap_max` (node): the largest over pairs of classes;
    - `overlap_pairs` (label, label_b, node): symmetric, 1 on the diagonal; kept up to 64 classes, or as `pairs` says;
    - `overlap_rest` (label, node): each class against the mixture of the others, in which each class weighs the same;
    - `overlap_constant` (node), bool: all samples are equal (a dead node, say), so that the overlap is 1;
    - `overlap_null` (node), with ``null="permute"``: the `overlap` after one shuffle of the labels, which the engine
      makes; it makes many, for p-values, by ``probekit.measure(store, "overlap", null="permute")``.

    Few samples lower the overlap: identical classes miss 1 by about √(bins / (π n)), 0.04 at n = 6,000 samples per
    class and 0.27 at 125. With small data, compare it with `overlap_null`. Bins raise it, by 0.003 for two normal
    distributions of standard deviations 1 and 2. A class with fewer than `min_count` samples is NaN in its pairs and
    left out of the means; at the default 10 the bias of 32 bins reaches 1. With fewer than two classes left, everything
    but the diagonal is NaN.

    The overlap doesn't say in which direction two classes differ, and it sees one node at a time: classes that overlap
    at every node may be separable by several nodes together.
    """

    bins: int = 32
    null: Literal["permute"] | None = None
    min_count: int = 10
    pairs: bool | None = None
    name: ClassVar[str] = "overlap"
    version: ClassVar[int] = 2  # in version 1 the null had a shuffle for each node
    headline: ClassVar[Headline] = Headline(
        "overlap",
        "mean",
        "classes look alike at single nodes",
        neutral=1.0,
        beside="overlap_null",
        missing="it needs two classes of at least min_count samples (10 unless told otherwise)",
    )

    def __post_init__(self) -> None:
        if self.bins < 1 or self.min_count < 1 or self.null not in (None, "permute"):
            raise PluginError(
                f"Overlap(bins={self.bins!r}, min_count={self.min_count!r}, null={self.null!r}): bins and min_count "
                "must be at least 1, and null None or 'permute'."
            )

    @property
    def null_repeats(self) -> int:
        """Shuffles of the labels, where no null is asked for."""
        return int(self.null == "permute")

    def memory(self, spec: Spec, samples: int) -> int:
        pairs = 8 * spec.classes**2 * spec.nodes if keeps_pairs(spec.classes, self.pairs) else 0
        return cells_bytes(spec, self.bins) + 2 * pairs

    def compute(self, block: Block) -> Variables:
        return join_nodes(map(self._compute, block.split()))

    def error_bound(self, resolution: Resolution) -> Array:
        # Both classes move past an edge together, but samples are left out of each.
        more = (self.bins - 1 + 2 * resolution.atoms) * resolution.rank_error
        bound: Array = np.minimum(1.0, resolution.moved(self.bins - 1, self.min_count) + more)
        return bound

    def _compute(self, block: Block) -> Variables:
        kept = kept_classes(block, self.min_count)
        counts = count_cells(block, self.bins).counts[:, kept]
        pairs = _Pairs(counts, block.counts[kept], kept, block.classes)
        found = pairs.variables(block.constant)
        if keeps_pairs(block.classes, self.pairs):
            found["overlap_pairs"] = (("label", "label_b", "node"), pairs.all())
        return found

    def relabelling(self, values: Array, classes: int) -> Callable[[Codes], Variables]:
        """Those of `compute` but for the pairs, from the samples of each class in cells that are found once."""
        constant, count = values.min(axis=1) == values.max(axis=1), cell_counts(values, self.bins, classes)

        def compute(codes: Codes) -> Variables:
            samples = np.bincount(codes, minlength=classes)
            kept = np.flatnonzero(samples >= self.min_count)
            return _Pairs(count(codes)[:, kept], samples[kept], kept, classes).variables(constant)

        return compute


@dataclass(frozen=True)
class _Pairs:
    """The classes to compare: `counts` (cell, class, node), `samples` (class), and their codes `kept` among `classes`.

    They are the classes that have enough samples.
    """

    counts: Codes
    samples: Codes
    kept: Codes
    classes: int

    def _with_later(self, index: int) -> Array:
        """Overlap of class number `index` with each later class, (later, node); exact except for the last division."""
        ours, theirs = self.samples[index], self.samples[index + 1 :, None]
        shared = np.minimum(self.counts[:, index, None] * theirs, self.counts[:, index + 1 :] * ours)
        overlap: Array = shared.sum(axis=0) / (ours * theirs)
        return overlap

    def variables(self, constant: Array) -> Variables:
        """Those of all pairs together, and of each class and the others; `constant` (node) is one of them."""
        mean, highest = self.summary()
        return {
            "overlap": (("node",), mean),
            "overlap_max": (("node",), highest),
            "overlap_rest": (("label", "node"), self.rest()),
            "overlap_constant": (("node",), constant),
        }

    def summary(self) -> tuple[Array, Array]:
        """The mean and the largest over all pairs, (node,) each; NaN without pairs."""
        nodes, number = self.counts.shape[2], len(self.kept)
        if number < 2:
            return np.full(nodes, np.nan), np.full(nodes, np.nan)
        total, highest = np.zeros(nodes), np.zeros(nodes)
        for index in range(number - 1):
            overlaps = self._with_later(index)
            total += in_order(overlaps)
            highest = np.maximum(highest, overlaps.max(axis=0))
        return total / (number * (number - 1) / 2), highest

    def all(self) -> Array:
        """Every pair, (label, label_b, node)."""
        pairs = np.full((self.classes, self.classes, self.counts.shape[2]), np.nan)
        pairs[self.kept, self.kept] = 1.0
        for index, code in enumerate(self.kept[:-1]):
            later = self.kept[index + 1 :]
            pairs[code, later] = pairs[later, code] = self._with_later(index)
        return pairs

    def rest(self) -> Array:
        """Each class against the class-balanced mixture of the others, (label, node)."""
        rest = np.full((self.classes, self.counts.shape[2]), np.nan)
        shares = self.counts / self.samples[:, None]
        total = in_order(np.moveaxis(shares, 1, 0))
        for index, code in enumerate(self.kept if len(self.kept) > 1 else []):
            others = (total - shares[:, index]) / (len(self.kept) - 1)
            rest[code] = in_order(np.minimum(shares[:, index], others)).clip(0, 1)
        return rest
