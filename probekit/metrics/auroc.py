"""How well a threshold on one node tells classes apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from probekit.metrics._kernels.class_pairs import keeps_pairs, kept_classes, pair_blocks, table_bytes
from probekit.metrics._kernels.cross_ranks import cross_ranks, twice_above_others
from probekit.metrics._kernels.node_blocks import join_nodes
from probekit.metrics._kernels.relabelling import class_sums, twice_ranks
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, at_least
from probekit.metrics.protocol import Parameters, Spec, Variables
from probekit.metrics.ranges import SHARE, Ranges
from probekit.metrics.resolution import Resolution

__all__ = ["AUROC"]


@dataclass(frozen=True)
class AUROC(Parameters):
    """Probability that a sample of one class exceeds a sample of another: ½ for identical, 0 or 1 for separate classes.

    auroc(a, b) = P(b > a) + ½ P(b = a), over all pairs of a sample of class a and a sample of class b. This is the area
    under the receiver operating characteristic of the node as a detector of b, and Mann and Whitney's U / (n_a n_b)
    (1947). Exact, including ties and infinities; float64 in [0, 1], without unit:

    - `auroc` (label, label_b, node): auroc(b, a) = 1 − auroc(a, b), ½ on the diagonal; kept up to 64 classes, or as
      `pairs` says;
    - `auroc_rest` (label, node): each class against all samples of the others together, above ½ where the class has the
      larger values;
    - `auroc_constant` (node), bool: all samples are equal (a dead node, say), so that the AUROC is ½.

    A class with fewer than `min_count` samples is NaN and isn't compared with any other. With fewer than two classes
    left, `auroc_rest` is NaN.

    The AUROC can't distinguish classes that have the same middle and different widths: they give ½, as identical
    classes do.

    Few samples don't bias it: classes that are alike have ½ on average. The best of N nodes is above that by chance:
    about ½ + Φ⁻¹((N − ⅜) / (N + ¼)) √((n_a + n_b + 1) / (12 n_a n_b)) for independent nodes (Blom 1958), with Φ the
    normal distribution; 0.75 for 10 samples a class of ten and 128 nodes. ``null="permute"`` finds it for the data at
    hand (`auroc_rest_null_site`).
    """

    min_count: int = 10
    pairs: bool | None = None
    limits: ClassVar[Limits] = {"min_count": at_least(1)}
    name: ClassVar[str] = "auroc"
    ranges: ClassVar[Ranges] = {"auroc": SHARE, "auroc_rest": SHARE}
    headline: ClassVar[Headline] = Headline(
        "auroc_rest",
        "max",
        "for every class, some node is higher for its samples than for others",
        neutral=0.5,
        classes=2,
        missing="it needs two classes of at least min_count samples (10 unless told otherwise)",
        otherwise="fisher",
    )

    def memory(self, spec: Spec, samples: int) -> int:
        return table_bytes(spec, 4, 1) if keeps_pairs(spec.classes, self.pairs) else 0

    def relabelling(self, values: Array, classes: int) -> Callable[[Codes], Variables]:
        """Those of `compute` but for the pairs: the sums of the samples' ranks over the classes."""
        constant, ranks = values.min(axis=1) == values.max(axis=1), twice_ranks(values)

        def compute(codes: Codes) -> Variables:
            counts = np.bincount(codes, minlength=classes)
            kept = np.flatnonzero(counts >= self.min_count)
            among, of = ranks, codes
            if counts[kept].sum() < len(codes):  # the others aren't compared with any
                chosen = counts[codes] >= self.min_count
                among, of = twice_ranks(values[:, chosen]), codes[chosen]
            above = class_sums(among, of, classes)[kept] - counts[kept, None] ** 2
            return self._variables(constant, classes, counts[kept], kept, above)

        return compute

    def compute(self, block: Block) -> Variables:
        if keeps_pairs(block.classes, self.pairs):
            return join_nodes(map(self._of_pairs, pair_blocks(block)))
        kept = kept_classes(block, self.min_count)
        above = twice_above_others(block, kept)
        return self._variables(block.constant, block.classes, block.counts[kept], kept, above)

    def error_bound(self, resolution: Resolution) -> Array:
        # Pairs of which the order is unknown count half. To leave samples out is as for KS, but for classes' weights.
        left_out = 2 * resolution.rank_error + resolution.weight_error(self.min_count)
        return np.minimum(1.0, resolution.tied(self.min_count) / 2 + left_out)

    def _of_pairs(self, block: Block) -> Variables:
        kept = kept_classes(block, self.min_count)
        among, samples = np.ix_(kept, kept), block.counts[kept]
        at_most = cross_ranks(block).at_most[among]
        size = np.multiply.outer(samples, samples)[..., None]
        # Pairs in which b is larger count twice, pairs of equal values once.
        twice = at_most.swapaxes(0, 1) + size - at_most
        every = np.full((block.classes, block.classes, block.nodes), np.nan)
        every[among] = twice / (2 * size)
        above = twice.sum(axis=0) - samples[:, None] ** 2  # less the diagonal, a class against itself
        of_rest = self._variables(block.constant, block.classes, samples, kept, above)
        return {"auroc": (("label", "label_b", "node"), every)} | of_rest

    def _variables(self, constant: Array, classes: int, samples: Codes, kept: Codes, above: Array) -> Variables:
        """Those of each class against the others, from twice the number of pairs in which it is `above` one of them."""
        rest = np.full((classes, len(constant)), np.nan)
        if len(kept) > 1:
            rest[kept] = above / (2 * samples * (samples.sum() - samples))[:, None]
        return {"auroc_rest": (("label", "node"), rest), "auroc_constant": (("node",), constant)}
