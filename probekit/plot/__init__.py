"""Figures of measured results: class medians, activation distributions, a quantity over the layers.

Every function takes the tree that `probekit.measure` returns (one group a site) and gives back a matplotlib ``Axes``
where it drew one panel, a ``Figure`` where it drew several. None of them shows or saves anything, and none touches
pyplot: save with ``axes.figure.savefig("medians.png", dpi=150)``.
"""

from __future__ import annotations

from probekit.plot.densities import distribution_grid, distributions
from probekit.plot.layers import profile
from probekit.plot.nodes import heatmap, medians, medians_grid
from probekit.plot.style import palette

__all__ = ["distribution_grid", "distributions", "heatmap", "medians", "medians_grid", "palette", "profile"]
