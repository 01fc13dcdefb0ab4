"""Counts of each class over cells that all classes of a node share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from probekit.metrics._kernels.cells import Edges, cells_bytes, count_cells
from probekit.metrics.block import Block
from probekit.metrics.limits import Limits, at_least
from probekit.metrics.protocol import Parameters, Spec, Variables

__all__ = ["Histogram"]


@dataclass(frozen=True)
class Histogram(Parameters):
    """Histogram of each class at each node, over bins and atoms that all classes of the node share.

    `histogram` (label, node, bin) counts the samples between the edges `histogram_edges` (node, edge); bins are
    left-closed, and the last one is closed on both sides. `histogram_atoms` (label, node, atom) counts the samples that
    equal one of the values `histogram_atom` (node, atom). At least 1 % of the node's samples share such a value, and no
    bin counts them again. All counts of a class and node add up to the number of samples of the class.

    ``edges="mass"``: `bins` bins of equal mass under the class-balanced mixture, the cells of the metric `overlap`.
    Where several quantiles fall on one tied value, edges coincide and the bin between them is empty. ``edges="width"``:
    bins of equal width between the smallest and the largest finite value that isn't an atom; infinities count in the
    outermost bins. A node whose samples are all on atoms has NaN edges and empty bins.
    """

    bins: int = 32
    edges: Edges = "mass"
    limits: ClassVar[Limits] = {"bins": at_least(1)}
    name: ClassVar[str] = "histogram"
    interval: ClassVar[None] = None

    def memory(self, spec: Spec, samples: int) -> int:
        return cells_bytes(spec, self.bins, spec.nodes)

    def compute(self, block: Block) -> Variables:
        cells = count_cells(block, self.bins, self.edges)
        return {
            "histogram": (("label", "node", "bin"), cells.in_bins),
            "histogram_edges": (("node", "edge"), cells.edges),
            "histogram_atoms": (("label", "node", "atom"), cells.on_atoms),
            "histogram_atom": (("node", "atom"), cells.atoms),
        }
