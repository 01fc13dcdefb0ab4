"""A quantity of every site along the steps of a training, or along the positions of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from probekit.errors import DataError
from probekit.plot.drawing import Drawing
from probekit.plot.layers import label_of
from probekit.plot.lookup import measured, neutral_of, site_values
from probekit.plot.style import RULE, colour_key, new_axes, palette, tidy

__all__ = ["by_position", "by_step"]

Floats = npt.NDArray[np.floating[Any]]

_MANY_MARKERS = 40
_WIDE = 100  # times the least step: what is this far apart is drawn on a logarithmic scale


def by_step(tree: xr.DataTree, variable: str, *, sites: Sequence[str] | None = None, ax: Axes | None = None) -> Drawing:
    """A quantity of every site over the steps of a training, which `probekit.Watch` measured: a line for each site.

    The value at a step is the one that `profile` draws. Steps such as 0, 10, 100, 1000 stand on a logarithmic scale. A
    dotted line shows the metric's neutral value, if it has one. Raises DataError for results without steps.

    >>> import xarray as xr
    >>> site = xr.Dataset({"sparsity_site": ("step", [0.5, 0.75])})
    >>> tree = xr.DataTree.from_dict({"/": xr.Dataset(coords={"step": [0, 100]}), "relu1": site})
    >>> [line.get_xydata().tolist() for line in by_step(tree, "sparsity_site").axes[0].lines]
    [[[0.0, 0.5], [100.0, 0.75]]]
    """
    chosen = measured(tree, sites, variable)
    if "step" not in tree.coords:
        raise DataError("The results have no steps, as those of probekit.Watch have. Draw them with pk.plot.profile.")
    lines = {site: line.values for site, line in site_values(tree, chosen, variable, ("step",)).items()}
    steps = tree.coords["step"].values
    ax = _draw(ax, steps, lines, tree, variable)
    if _is_logarithmic(steps):
        least = float(steps[steps > 0].min())
        ax.set_xscale("symlog", linthresh=least)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlim(-0.15 * least if (steps == 0).any() else 0.8 * least, 1.25 * steps.max())
    ax.set_xlabel("step")
    return Drawing.of(ax)


def by_position(
    tree: xr.DataTree, variable: str, *, sites: Sequence[str] | None = None, ax: Axes | None = None
) -> Drawing:
    """A quantity of every site over the positions of tokens in their samples: a line for each site.

    `tree` was measured with ``by="position"`` at sites with a row for each token. The value at a position is the mean
    over the nodes, or what the metric's headline says of nodes; `variable` has the dim label. Raises DataError for
    results that weren't grouped by position.

    >>> import xarray as xr
    >>> site = xr.Dataset({"mean": (("label", "node"), [[1.0, 3.0], [2.0, 4.0]])}, {"label": [0, 1]})
    >>> tree = xr.DataTree.from_dict({"/": xr.Dataset(attrs={"by": "position"}), "encoder.0": site})
    >>> by_position(tree, "mean").axes[0].lines[0].get_ydata().tolist()
    [2.0, 3.0]
    """
    chosen = measured(tree, sites, variable)
    if tree.attrs.get("by") != "position":
        raise DataError(
            f"The results are grouped by {tree.attrs.get('by', 'none')}, not by position. Measure a store of tokens "
            'with by="position" (--by position).'
        )
    lines = site_values(tree, chosen, variable, ("label",))
    positions = next(iter(lines.values()))["label"].values
    ax = _draw(ax, positions, {site: line.values for site, line in lines.items()}, tree, variable)
    ax.set_xlabel("position")
    return Drawing.of(ax)


def _draw(ax: Axes | None, at: npt.NDArray[Any], lines: Mapping[str, Floats], tree: xr.DataTree, variable: str) -> Axes:
    ax = new_axes(ax, 6.4, 3.6)
    marker = "o" if len(at) <= _MANY_MARKERS else ""
    for colour, values in zip(palette(len(lines)), lines.values(), strict=True):
        ax.plot(at, values, color=colour, marker=marker, markersize=3.5, linewidth=1.4)
    if (neutral := neutral_of(tree, variable)) is not None:
        ax.axhline(neutral, linestyle=":", color=RULE, linewidth=1.2, zorder=1.5)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_ylabel(label_of(tree, variable))
    tidy(ax)
    colour_key([ax], list(lines), "site")
    return ax


def _is_logarithmic(steps: npt.NDArray[Any]) -> bool:
    """Whether steps lie so far apart, most of them near the start, that a linear scale would hide them."""
    positive = steps[steps > 0]
    if len(positive) < 3:
        return False
    return bool(positive.max() >= _WIDE * positive.min() and np.median(positive) < positive.max() / 5)
