"""Figures of measured results.

Every function takes the tree that `probekit.measure` returns (one group per site), and returns a `Drawing`, which shows
itself in a notebook and has `figure`, `axes` and ``save("medians.png")``. A function that draws one panel draws on
``ax=`` if it is given. No function shows or saves anything, or uses pyplot.
"""

from __future__ import annotations

from probekit.plot.densities import distribution_grid, distributions
from probekit.plot.drawing import Drawing, Drawings
from probekit.plot.heatmaps import by_class, heatmap, heatmap_grid
from probekit.plot.layers import profile
from probekit.plot.matrices import confusion, matrix, pairs
from probekit.plot.nodes import medians, medians_grid
from probekit.plot.progressions import by_position, by_step
from probekit.plot.samples import images, samples, sentences
from probekit.plot.standard import standard
from probekit.plot.style import palette

__all__ = [
    "Drawing",
    "Drawings",
    "by_class",
    "by_position",
    "by_step",
    "confusion",
    "distribution_grid",
    "distributions",
    "heatmap",
    "heatmap_grid",
    "images",
    "matrix",
    "medians",
    "medians_grid",
    "pairs",
    "palette",
    "profile",
    "samples",
    "sentences",
    "standard",
]
