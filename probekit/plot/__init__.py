"""Figures of measured results: class medians, activation distributions, a quantity over the layers.

Every function takes the tree that `probekit.measure` returns (one group per site), and returns a `Drawing`, which shows
itself in a notebook and has `figure`, `axes` and ``save("medians.png")``. A function that draws one panel draws on
``ax=`` if it is given. No function shows or saves anything, or uses pyplot.
"""

from __future__ import annotations

from probekit.plot.densities import distribution_grid, distributions
from probekit.plot.drawing import Drawing
from probekit.plot.layers import profile
from probekit.plot.nodes import heatmap, medians, medians_grid
from probekit.plot.style import palette

__all__ = ["Drawing", "distribution_grid", "distributions", "heatmap", "medians", "medians_grid", "palette", "profile"]
