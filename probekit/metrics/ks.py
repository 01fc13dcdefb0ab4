"""The Kolmogorov–Smirnov distance between classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import numpy as np

from probekit.metrics._kernels.chance import beyond_chance, expected_ks, ks_share, ks_shares
from probekit.metrics._kernels.class_leads import leads_bytes, leads_of
from probekit.metrics._kernels.class_pairs import (
    distances,
    keeps_pairs,
    kept_classes,
    pair_blocks,
    table_bytes,
)
from probekit.metrics._kernels.node_blocks import join_nodes
from probekit.metrics._kernels.relabelled_leads import SortedNode
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, at_least
from probekit.metrics.protocol import Parameters, Spec, Variables
from probekit.metrics.ranges import SHARE, Ranges
from probekit.metrics.resolution import Resolution

__all__ = ["KS"]

_FEW = 24  # classes up to which shuffled labels are sooner compared in chunks
_ENTRIES = 2**15  # pairs and nodes handled together: what is computed of them stays in the cache


@dataclass(frozen=True)
class KS(Parameters):
    """Largest difference between the distribution functions of two classes: 0 for identical, 1 for separate classes.

    ``sup_v |F_a(v) − F_b(v)|``, the two-sample statistic of Kolmogorov (1933) and Smirnov (1939), where
    F_c(v) is the share of the samples of class c that are at most v. Exact, including ties and infinities; float64, at
    most 1, without unit:

    - `ks` (label, label_b, node): symmetric, 0 on the diagonal; kept up to 64 classes, or as `pairs` says;
    - `ks_mean` and `ks_max` (node): the mean and the largest over the pairs of classes;
    - `ks_constant` (node), bool: all samples are equal (a dead node, say), so that the distance is 0.

    For the distributions that samples are drawn from, the distance is at most 1 − overlap, and equal to it where the
    densities cross once. A class with fewer than `min_count` samples is NaN in its pairs and left out of the mean and
    the maximum. With fewer than two classes left both are NaN.

    Few samples raise the statistic D. By default it is corrected, with E, its expected value for identical classes
    (Kolmogorov 1933, with terms for few samples and for ties): √((D² − E²) / (1 − E²)), with the sign of D² − E². The
    result is 1 where D is, and 0 on average for identical classes, of which about half are below 0. Means over
    400 repeats of 10 identical normal classes, and the standard deviation of the corrected value:

    ===============  ======  ======  ======  ======  ======
    samples a class  10      20      50      180     1,000
    ===============  ======  ======  ======  ======  ======
    plain            0.345   0.250   0.163   0.089   0.039
    corrected        0.001   -0.006  -0.004  0.000   0.000
    deviation        0.083   0.057   0.036   0.019   0.008
    ===============  ======  ======  ======  ======  ======

    Args:
        corrected: False for the statistic D itself, scipy's `ks_2samp`. For identical classes of n samples it is about
            0.87 √(2 / n) − 1 / 2n: 0.34 at 10 and 0.011 at 12,000.

    The distance says neither which class has the larger values nor how far apart the classes are. `ks_max` is the
    largest of many estimates, and so too large where classes are alike. It isn't corrected, since what chance adds
    depends on how the pairs hang together; ``null="permute"`` finds it for the data at hand (`ks_max_null`). For ten
    classes that are alike:

    ===============  ======  ======  ======  ======  ======
    samples a class  10      20      50      180     1,000
    ===============  ======  ======  ======  ======  ======
    ks_max           0.522   0.347   0.232   0.121   0.051
    ===============  ======  ======  ======  ======  ======
    """

    min_count: int = 10
    pairs: bool | None = None
    corrected: bool = True
    limits: ClassVar[Limits] = {"min_count": at_least(1)}
    name: ClassVar[str] = "ks"
    interval: ClassVar[str] = "jackknife"
    headline: ClassVar[Headline] = Headline(
        "ks_mean",
        "mean",
        "classes have different distributions at single nodes",
        neutral=0.0,
        classes=2,
        missing="it needs two classes of at least min_count samples (10 unless told otherwise)",
        otherwise="fisher",
    )
    version: ClassVar[int] = 2  # version 1 wasn't corrected

    @property
    def ranges(self) -> Ranges:
        return {} if self.corrected else dict.fromkeys(("ks", "ks_mean", "ks_max"), SHARE)

    def memory(self, spec: Spec, samples: int) -> int:
        pairs = keeps_pairs(spec.classes, self.pairs)
        return table_bytes(spec, 8, pairs) + leads_bytes(spec, samples)

    def compute(self, block: Block) -> Variables:
        kept = kept_classes(block, self.min_count)
        columns, samples = (
            [each[kept][those][:, None] for those in np.triu_indices(len(kept), 1)]
            for each in (block.counts, block.measured)
        )
        size, expected, leads = columns[0] * columns[1], expected_ks(*samples), leads_of(block, kept)
        return join_nodes(self._compute(few, leads(few), kept, size, expected) for few in pair_blocks(block))

    def relabelling(self, values: Array, classes: int) -> Callable[[Codes], Variables]:
        """Those of `compute` but for the pairs: the samples of a node are sorted once."""
        nodes = [SortedNode(row, classes) for row in values] if classes <= _FEW else []
        constant, shape = values.min(axis=1) == values.max(axis=1), (classes, len(values))
        with_ties: dict[bytes, list[float]] = {}

        def compute(codes: Codes) -> Variables:
            counts = np.bincount(codes, minlength=classes)
            kept = np.flatnonzero(counts >= self.min_count)
            if not nodes or len(kept) < 2 or counts[kept].sum() < len(codes):  # ties are those of the classes kept
                return self.compute(Block.from_samples(values.T, codes, classes))
            first, second = (kept[each] for each in np.triu_indices(len(kept), 1))
            in_order = [node.in_order(codes) for node in nodes]
            leads = [node.leads(its, first, second, counts) for node, its in zip(nodes, in_order, strict=True)]
            found = np.stack(leads, axis=1) / (counts[first] * counts[second])[:, None]
            if self.corrected:
                if counts.tobytes() not in with_ties:
                    with_ties[counts.tobytes()] = [ks_share(node.ends, counts[kept]) for node in nodes]
                tied = [node.tied(its) for node, its in zip(nodes, in_order, strict=True)]
                shares = np.where(tied, with_ties[counts.tobytes()], 1.0)
                expected = expected_ks(counts[first], counts[second])[:, None]
                found = beyond_chance(found, expected * shares, 1.0)
            of_all: Variables = {"ks_constant": (("node",), constant)}
            return distances(self.name, [found], kept, shape, pairs=False) | of_all

        return compute

    def error_bound(self, resolution: Resolution) -> Array:
        plain, kept = resolution.compared(self.min_count), resolution.kept(self.min_count)
        if not self.corrected or len(kept) < 2:
            return plain
        # What is expected is at most e: ties lower it by an unknown factor, and other samples would. The corrected
        # value of D is at most D, and at least the one with e, which is below D by e √((2 − e²) / (1 − e²)) at most.
        few = np.sort(resolution.counts[kept])[:2]
        e = float(expected_ks(few[0], few[1]))
        left = sqrt(1 - e**2)  # 0 for single samples, of which nothing is known
        bound = np.minimum(1 + e / left, plain + e * sqrt(2 - e**2) / left) if left else plain + np.inf
        return np.where(resolution.same(self.min_count), 0.0, bound)

    def _compute(self, block: Block, lead: Codes, kept: Codes, size: Codes, expected: Array) -> Variables:
        shape = block.classes, block.nodes
        shares = ks_shares(block, kept) if self.corrected else None

        def found(few: slice) -> Array:
            plain = lead[few] / size[few]
            return plain if shares is None else beyond_chance(plain, expected[few] * shares, 1.0)

        few = max(1, _ENTRIES // block.nodes)
        parts = (found(slice(start, start + few)) for start in range(0, len(lead), few))
        constant: Variables = {"ks_constant": (("node",), block.constant)}
        return distances(self.name, parts, kept, shape, keeps_pairs(block.classes, self.pairs)) | constant
