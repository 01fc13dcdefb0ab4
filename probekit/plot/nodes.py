"""A quantity of every class at every node of all sites: a dot for each, or for many nodes an image of the dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.ticker import FixedLocator, MaxNLocator

from probekit.errors import DataError, check_kind
from probekit.plot.drawing import Drawing
from probekit.plot.lookup import class_names, common_classes, measured, read
from probekit.plot.style import (
    RULE,
    colour_key,
    label_sites,
    new_axes,
    new_figure,
    palette,
    plain,
    tidy,
    words,
)

__all__ = ["medians", "medians_grid"]

Floats = npt.NDArray[np.floating[Any]]

_MOST_DOTS = 30_000  # beyond, an image of them is as legible, and small
_PIXELS = (1200, 300)  # of that image
_MOST_RULES = 80  # between sites: more would grey the panel
_FAINTEST = 0.35  # opacity of a single dot in it
# Shares of a panel's height: the strip of medians of exactly 0, the gap between it and the dots, the gap on top.
_STRIP, _GAP, _TOP = 0.12, 0.05, 0.03


def medians(
    tree: xr.DataTree,
    *,
    sites: Sequence[str] | None = None,
    variable: str = "median",
    ax: Axes | None = None,
    legend: bool = True,
) -> Drawing:
    """A dot for the median of every class at every node; nodes are numbered from 1 over the sites in order.

    The nodes of a site lie between two vertical rules, under its name. Dots for medians of exactly 0 (a ReLU's atom)
    would hide each other: instead, a strip along the bottom shows for each node the share of classes whose median is 0.
    Any other `variable` with the dims (label, node), or (node), is drawn the same way; missing and infinite values are
    left out. Pretorius et al. (2019), figures 5–7.

    Beyond 30,000 dots, an image of them is drawn: each pixel has the colour of the class with the most dots there, and
    is the fainter the fewer there are. The strip then shows means over neighbouring nodes.

    Raises SiteError for a site that isn't in `tree`, PluginError if `variable` wasn't measured.

    >>> import numpy as np, xarray as xr
    >>> layer = xr.Dataset({"median": (("label", "node"), np.eye(3))}, {"label": range(3)})
    >>> medians(xr.DataTree.from_dict({"relu1": layer})).axes[0].get_xlabel()
    'node (1–3)'
    """
    blocks = {site: read(tree, site, variable, ("label", "node")) for site in measured(tree, sites, variable)}
    classes = common_classes({f"site {site!r}": class_names(block) for site, block in blocks.items()})
    values = np.concatenate([_with_rows(block.values, len(classes)) for block in blocks.values()], axis=1)
    ax = new_axes(ax, 9.0, 3.6)
    low, high = _limits(values)
    if values.size <= _MOST_DOTS:
        _draw_dots(ax, values)
    else:
        _draw_pixels(ax, values, low, high)
    at_zero = values == 0
    if at_zero.any():
        _draw_zero_strip(ax, at_zero.sum(0) / np.isfinite(values).sum(0).clip(1), low, high)
    else:
        ax.set_ylim(low - _TOP * (high - low), high + _TOP * (high - low))
        ax.yaxis.set_major_locator(_round_ticks())
    tidy(ax)
    _mark_sites(ax, {site: block.sizes["node"] for site, block in blocks.items()})
    ax.set(xlabel=f"node (1–{values.shape[1]})", ylabel=words(variable))
    if legend:
        colour_key([ax], classes)
    return Drawing.of(ax)


def medians_grid(
    trees: Mapping[str, xr.DataTree],
    *,
    sites: Sequence[str] | None = None,
    variable: str = "median",
    columns: int = 2,
) -> Drawing:
    """`medians` of several results, such as untrained and trained: a panel for each under its name, and one legend.

    Each panel has its own vertical range.

    >>> import numpy as np, xarray as xr
    >>> layer = xr.Dataset({"median": (("label", "node"), np.eye(3))}, {"label": range(3)})
    >>> tree = xr.DataTree.from_dict({"relu1": layer})
    >>> [ax.get_title() for ax in medians_grid({"untrained": tree, "trained": tree}).axes]
    ['untrained', 'trained']
    """
    check_kind("trees", trees, Mapping, "several results by name, {name: tree}")
    check_kind("columns", columns, Integral, "a number of panels beside each other")
    if columns < 1:
        raise DataError(f"columns is {columns}; a grid has at least one.", arguments=("columns",))
    if not trees:
        raise DataError("There are no results to draw: give at least one, as {name: tree}.")
    columns = min(columns, len(trees))
    rows = -(-len(trees) // columns)
    figure = new_figure(5.2 * columns + 0.6, 3.2 * rows)
    panels = [figure.add_subplot(rows, columns, index + 1) for index in range(len(trees))]
    for ax, (name, tree) in zip(panels, trees.items(), strict=True):
        medians(tree, sites=sites, variable=variable, ax=ax, legend=False)
        ax.set_title(plain(name), fontsize="medium", fontweight="bold")
    firsts = {name: read(tree, measured(tree, sites, variable)[0], variable) for name, tree in trees.items()}
    colour_key(panels, common_classes({repr(name): class_names(data) for name, data in firsts.items()}))
    return Drawing.of(*panels)


def _with_rows(values: Floats, rows: int) -> Floats:
    """The values (class, node) with classes that a site doesn't have as missing ones."""
    missing = np.full((rows - len(values), values.shape[1]), np.nan)
    return np.concatenate([values, missing]) if len(missing) else values


def _draw_dots(ax: Axes, values: Floats) -> None:
    """Draw one dot per class and node; the class on top changes from node to node, so that none stays hidden."""
    classes, nodes = values.shape
    node = np.repeat(np.arange(nodes), classes)
    label = (np.tile(np.arange(classes), nodes) + node) % classes
    drawn = np.isfinite(values[label, node]) & (values[label, node] != 0)
    node, label = node[drawn], label[drawn]
    size = float(np.clip(40_000 / values.size, 4, 18))
    ax.scatter(node + 1, values[label, node], s=size, c=np.array(palette(classes))[label], alpha=0.85, linewidths=0)


def _draw_pixels(ax: Axes, values: Floats, low: float, high: float) -> None:
    """Draw so many dots as an image: each pixel has the colour of the class with the most dots there, if there are any.

    It is opaque where there are as many dots as anywhere, and else the fainter the fewer, on a logarithmic scale.
    """
    classes, nodes = values.shape
    pixels = min(_PIXELS[0], nodes), _PIXELS[1]
    columns = (2 * np.arange(nodes) + 1) * pixels[0] // (2 * nodes)  # where the middle of a node lies
    winner, most, total = np.zeros((3, *pixels), np.int64)
    for label in range(classes):
        drawn = np.isfinite(values[label]) & (values[label] != 0)
        rows = ((values[label, drawn] - low) / (high - low) * (_PIXELS[1] - 1)).round().astype(int)
        counts = np.zeros(pixels, np.int64)
        np.add.at(counts, (columns[drawn], rows), 1)
        winner, most, total = np.where(counts > most, label, winner), np.maximum(most, counts), total + counts
    image = np.zeros((*pixels, 4))
    image[..., :3] = to_rgba_array(palette(classes))[winner, :3]
    image[..., 3] = np.where(total > 0, _FAINTEST + (1 - _FAINTEST) * np.log1p(total) / np.log1p(total.max()), 0)
    half = (high - low) / (_PIXELS[1] - 1) / 2
    shown = image.transpose(1, 0, 2)
    ax.imshow(
        shown,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        zorder=2,
        extent=(0.5, nodes + 0.5, low - half, high + half),
    )


def _round_ticks() -> MaxNLocator:
    return MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])


def _limits(values: Floats) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (low, high) if high > low else (low, low + 1.0)


def _draw_zero_strip(ax: Axes, share: Floats, low: float, high: float) -> None:
    """Draw the share of classes at exactly 0 for each node, inside the panel and under its data."""
    height = (high - low) / (1 - _STRIP - _GAP - _TOP)
    ax.set_ylim(low - (_STRIP + _GAP) * height, high + _TOP * height)
    ticks = _round_ticks().tick_values(low, high)
    ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low - 1e-9 * height <= tick <= high]))
    strip = ax.inset_axes((0, 0, 1, _STRIP), sharex=ax)
    starts = np.linspace(0, len(share), min(len(share), _PIXELS[0]), endpoint=False).astype(int)
    ends = np.append(starts, len(share))
    means = np.add.reduceat(share, starts) / np.diff(ends)  # of neighbouring nodes, where they are too many to see
    strip.stairs(means, ends + 0.5, fill=True, color="#8c8c8c", linewidth=0)
    strip.set(ylim=(0, 1), yticks=[0.5], yticklabels=["share of\nclasses at 0"], facecolor="#f4f4f4")
    strip.tick_params(left=False, bottom=False, labelbottom=False, labelsize="x-small")
    strip.spines[:].set_visible(False)


def _mark_sites(ax: Axes, widths: Mapping[str, int]) -> None:
    """Draw a rule between two sites, unless there are very many, and the name of each above the middle of its nodes."""
    total = sum(widths.values())
    ends = np.cumsum(list(widths.values()))
    for end in ends[:-1] if len(ends) <= _MOST_RULES else ():
        ax.axvline(end + 0.5, color=RULE, linewidth=0.8 if len(ends) <= 20 else 0.3, zorder=1.5)
    ax.set_xlim(0.5, total + 0.5)
    above = ax.secondary_xaxis("top")
    middles = {site: end + 0.5 - width / 2 for (site, width), end in zip(widths.items(), ends, strict=True)}
    label_sites(above.xaxis, middles, above=True)
    above.tick_params(length=0)
    above.spines[:].set_visible(False)
