"""The Kolmogorov–Smirnov distance between classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from probekit.metrics._kernels.class_leads import leads, leads_bytes
from probekit.metrics._kernels.class_pairs import (
    check_min_count,
    distances,
    keeps_pairs,
    kept_classes,
    pair_blocks,
    table_bytes,
)
from probekit.metrics._kernels.node_blocks import join_nodes
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Parameters, Spec, Variables
from probekit.metrics.resolution import Resolution

__all__ = ["KS"]


@dataclass(frozen=True)
class KS(Parameters):
    """Largest difference between the distribution functions of two classes: 0 for identical, 1 for separate classes.

    ``sup_v |F_a(v) − F_b(v)|``, the two-sample statistic of Kolmogorov (1933) and Smirnov (1939), where
    F_c(v) is the share of the samples of class c that are at most v. Exact, including ties and infinities; float64 in
    [0, 1], without unit:

    - `ks` (label, label_b, node): symmetric, 0 on the diagonal; kept up to 64 classes, or as `pairs` says;
    - `ks_mean` and `ks_max` (node): the mean and the largest over the pairs of classes;
    - `ks_constant` (node), bool: all samples are equal (a dead node, say), so that the distance is 0.

    For the distributions that samples are drawn from, the distance is at most 1 − overlap, and equal to it where the
    densities cross once. A class with fewer than `min_count` samples is NaN in its pairs and left out of the mean and
    the maximum. With fewer than two classes left both are NaN.

    The distance says neither which class has the larger values nor how far apart the classes are. Few samples raise it:
    for identical classes it is about 0.87 √(2 / n) at n samples per class, 0.39 at 10 and 0.011 at 12,000.
    """

    min_count: int = 10
    pairs: bool | None = None
    name: ClassVar[str] = "ks"
    headline: ClassVar[Headline] = Headline(
        "ks_mean",
        "mean",
        "classes have different distributions at single nodes",
        neutral=0.0,
        missing="it needs two classes of at least min_count samples (10 unless told otherwise)",
    )

    def __post_init__(self) -> None:
        check_min_count(self, self.min_count)

    def memory(self, spec: Spec, samples: int) -> int:
        pairs = keeps_pairs(spec.classes, self.pairs)
        return table_bytes(spec, 4, 2 * pairs) + leads_bytes(spec, samples)

    def compute(self, block: Block) -> Variables:
        kept = kept_classes(block, self.min_count)
        above, samples = ~np.tri(len(kept), dtype=bool), block.counts[kept]
        size = np.multiply.outer(samples, samples)[above][:, None]
        return join_nodes(self._compute(few, kept, above, size) for few in pair_blocks(block))

    def error_bound(self, resolution: Resolution) -> Array:
        return resolution.compared(self.min_count)

    def _compute(self, block: Block, kept: Codes, above: Array, size: Codes) -> Variables:
        lead = leads(block)[np.ix_(kept, kept)]
        found = np.maximum(lead, lead.swapaxes(0, 1))[above] / size
        shape, pairs = (block.classes, block.nodes), keeps_pairs(block.classes, self.pairs)
        constant: Variables = {"ks_constant": (("node",), block.constant)}
        return distances(self.name, [found] if len(found) else [], kept, shape, pairs) | constant
