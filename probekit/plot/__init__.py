"""Figures of measured results: class medians, activation distributions, a quantity over the layers.

Every function takes the tree that `probekit.measure` returns (one group per site). It returns a matplotlib ``Axes`` if
it drew one panel, a ``Figure`` if it drew several. No function shows or saves anything, or uses pyplot. Save with
``axes.figure.savefig("medians.png", dpi=150)``.
"""

from __future__ import annotations

from probekit.plot.densities import distribution_grid, distributions
from probekit.plot.layers import profile
from probekit.plot.nodes import heatmap, medians, medians_grid
from probekit.plot.style import palette

__all__ = ["distribution_grid", "distributions", "heatmap", "medians", "medians_grid", "palette", "profile"]
