"""A quantity of every class as an image: at the nodes of a site, or over the sites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from probekit._table import MISSING
from probekit.errors import check_choice
from probekit.plot.drawing import Drawing
from probekit.plot.lookup import class_names, common_classes, measured, neutral_of, read, site_values
from probekit.plot.scales import Scale, colour_bar, flattens, scale_of, show
from probekit.plot.style import (
    INK,
    label_classes,
    label_sites,
    new_axes,
    new_figure,
    palette,
    short,
    short_site,
    words,
)

__all__ = ["by_class", "heatmap", "heatmap_grid"]

Floats = npt.NDArray[np.floating[Any]]
OwnOrShared = Literal["auto", "shared", "site"]

_SCALES = ("auto", "shared", "site")
_MOST_COLUMNS = 1000  # of an image: more can't be seen, and neighbouring nodes share one
_MOST_RULES = 20  # between the nodes of two classes: more would hide the image
_LETTER = 0.011  # of an image's width: a letter of a class's name above it


def heatmap(tree: xr.DataTree, site: str, variable: str = "mean", *, ax: Axes | None = None) -> Drawing:
    """One site as an image, a row for each class and a column for each node, nodes ordered by preferred class.

    A node's preferred class is the one with its largest value, and a strip above the image shows it; within a class,
    nodes with larger values come first. Nodes with the same value for all classes (a dead ReLU) prefer none and come
    last. `variable` has the dims (label, node). Colours diverge from the value that its metric calls neutral, if it has
    one. Beyond a thousand nodes, a column is the mean of neighbouring nodes in this order. What isn't finite is grey.

    >>> import numpy as np, xarray as xr
    >>> layer = xr.Dataset({"mean": (("label", "node"), np.eye(3))}, {"label": range(3)})
    >>> heatmap(xr.DataTree.from_dict({"relu1": layer}), "relu1").axes[0].get_title()
    'relu1'
    """
    data = read(tree, site, variable, ("label", "node"))
    ax = new_axes(ax, 9.0, _height(data.sizes["label"]))
    _draw(ax, site, data, scale_of(data.values, neutral_of(tree, variable)), words(variable))
    ax.set_xlabel("nodes, by preferred class")
    return Drawing.of(ax)


def heatmap_grid(
    tree: xr.DataTree,
    variable: str = "mean",
    *,
    sites: Sequence[str] | None = None,
    scale: OwnOrShared = "auto",
) -> Drawing:
    """`heatmap` of several sites, one above the other.

    `scale` says whether all have one scale (``"shared"``) or each its own (``"site"``). By default all have
    one, unless that would leave a site less than a sixth of its range and the metric has no neutral value to see them
    against.

    >>> import numpy as np, xarray as xr
    >>> layer = xr.Dataset({"mean": (("label", "node"), np.eye(3))}, {"label": range(3)})
    >>> [ax.get_title() for ax in heatmap_grid(xr.DataTree.from_dict({"relu1": layer, "relu2": layer})).axes]
    ['relu1', 'relu2']
    """
    blocks = {site: read(tree, site, variable, ("label", "node")) for site in measured(tree, sites, variable)}
    parts, neutral = [block.values for block in blocks.values()], neutral_of(tree, variable)
    shared = (
        None if _own(scale, parts, neutral) else scale_of(np.concatenate([part.ravel() for part in parts]), neutral)
    )
    figure = new_figure(9.0, sum(_height(len(part)) for part in parts))
    panels = [figure.add_subplot(len(blocks), 1, row + 1) for row in range(len(blocks))]
    for ax, (site, block) in zip(panels, blocks.items(), strict=True):
        _draw(ax, site, block, shared or scale_of(block.values, neutral), words(variable))
    panels[-1].set_xlabel("nodes, by preferred class")
    return Drawing.of(*panels)


def by_class(
    tree: xr.DataTree,
    variable: str,
    *,
    sites: Sequence[str] | None = None,
    scale: OwnOrShared = "auto",
    ax: Axes | None = None,
) -> Drawing:
    """A quantity of every class over the sites as an image: a row for each class, a column for each site.

    A cell is the mean over the site's nodes, or what the metric's headline says of nodes. `variable` has the dim label,
    and may have node. `scale` is as in `heatmap_grid`: if each site has its own scale, colours go from the lowest to
    the highest class of the site, and the range stands under its name.

    >>> import xarray as xr
    >>> layer = xr.Dataset({"sparsity": (("label", "node"), [[0.5, 0.7], [0.1, 0.1]])}, {"label": range(2)})
    >>> drawing = by_class(xr.DataTree.from_dict({"relu1": layer}), "sparsity")
    >>> drawing.axes[0].images[0].get_array().ravel().tolist()
    [0.6, 0.1]
    """
    chosen = measured(tree, sites, variable)
    found = site_values(tree, chosen, variable, ("label",))
    classes = common_classes({f"site {site!r}": class_names(data) for site, data in found.items()})
    values = np.full((len(classes), len(found)), np.nan)
    for column, data in enumerate(found.values()):
        values[: data.size, column] = data.values
    ax = new_axes(ax, float(np.clip(2.6 + 0.45 * len(found), 4.0, 9.0)), _height(len(classes)) + 0.6)
    names = {site: index for index, site in enumerate(chosen)}
    neutral = neutral_of(tree, variable)
    if own := _own(scale, list(values.T), neutral):
        image = show(ax, _within(values), scale_of(np.array([0.0, 1.0]), None))
    else:
        image = show(ax, values, scale_of(values, neutral))
    label_sites(ax.xaxis, names)
    label_classes(ax, classes)
    ax.set_ylabel("class")
    if own:
        colour_bar(image, [ax], f"{words(variable)}, each site\nfrom lowest to highest", grey="all equal, or no value")
        _write_ranges(ax, values)
    else:
        colour_bar(image, [ax], words(variable))
    return Drawing.of(ax)


def _height(classes: int) -> float:
    """Inches of a panel with a row for each class."""
    return float(np.clip(0.9 + 0.2 * classes, 1.7, 4.5))


def _own(scale: OwnOrShared, parts: Sequence[Floats], neutral: float | None) -> bool:
    check_choice("scale", scale, _SCALES)
    return (neutral is None and flattens(parts)) if scale == "auto" else scale == "site"


def _within(values: Floats) -> Floats:
    """Each column from its lowest to its highest as 0 to 1; NaN where all are equal."""
    finite = np.where(np.isfinite(values), values, np.nan)
    low, high = (reduce(finite, axis=0, initial=start, where=~np.isnan(finite)) for reduce, start in _ENDS)
    return np.where(high > low, (finite - low) / np.where(high > low, high - low, 1), np.nan)


_ENDS = ((np.min, np.inf), (np.max, -np.inf))


def _write_ranges(ax: Axes, values: Floats) -> None:
    """Write the lowest and the highest value of each column above it, where there is room."""
    at = np.arange(values.shape[1])
    if len(at) > 16:
        return
    above = ax.secondary_xaxis("top")
    finite = [column[np.isfinite(column)] for column in values.T]
    texts = [f"{column.min():.2g} to {column.max():.2g}" if column.size else MISSING for column in finite]
    above.set_xticks(at, texts, fontsize="x-small", rotation=35, ha="left", rotation_mode="anchor")
    above.tick_params(length=0)
    above.spines[:].set_visible(False)


def _draw(ax: Axes, site: str, data: xr.DataArray, scale: Scale, label: str) -> None:
    """Draw one site, its nodes in the order of their classes."""
    order, preferred = _by_preference(data.values)
    names = class_names(data)
    nodes = len(order)
    ends = (-0.5, nodes - 0.5, len(names) - 0.5, -0.5)
    image = show(ax, _joined(data.values[:, order]), scale, extent=ends)
    _mark_classes(ax, [int(code) for code in preferred[order]], names)
    label_classes(ax, names)
    ax.set_ylabel("class")
    ax.set_title(short_site(site), fontsize="medium", pad=6 if len(names) == 1 else 18)
    ax.set_xlim(-0.5, nodes - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    colour_bar(image, [ax], label)


def _by_preference(values: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The order that groups nodes by the class of their largest value, the largest first, flat nodes last.

    And the preferred class of each node, or the number of classes for a flat one.
    """
    filled = np.where(np.isnan(values), -np.inf, values)
    peak = filled.max(0)
    flat = ~(peak > np.where(np.isnan(values), np.inf, values).min(0))
    preferred = np.where(flat, len(values), filled.argmax(0))
    return np.lexsort((-peak, preferred)), preferred


def _joined(values: Floats) -> Floats:
    """At most a thousand columns: beyond, each is the mean of as many neighbours, NaN left out."""
    nodes = values.shape[1]
    if nodes <= _MOST_COLUMNS:
        return values
    starts = np.linspace(0, nodes, _MOST_COLUMNS, endpoint=False).astype(int)
    finite = np.isfinite(values)
    sums = np.add.reduceat(np.where(finite, values, 0.0), starts, axis=1)
    counts = np.add.reduceat(finite, starts, axis=1, dtype=np.int64)
    return np.where(counts > 0, sums / counts.clip(1), np.nan)


def _mark_classes(ax: Axes, preferred: Sequence[int], names: Sequence[str]) -> None:
    """Draw a strip above the image in the colours of the classes that the nodes prefer, with names where they fit."""
    if len(names) == 1:
        return
    strip = ax.inset_axes((0, 1.005, 1, 0.035), sharex=ax)
    colours = [*palette(len(names)), "white"]
    runs = [*_runs(preferred)]
    for code, first, last in runs:
        strip.axvspan(first - 0.5, last + 0.5, color=colours[code], linewidth=0)
        name = short(names[code]) if code < len(names) else "none"
        if (last - first + 1) / len(preferred) > _LETTER * len(name):
            ax.annotate(
                name, ((first + last) / 2, 1.045), xycoords=("data", "axes fraction"), ha="center", va="bottom",
                fontsize="x-small",
            )  # fmt: skip
        if first and len(runs) <= _MOST_RULES:
            ax.axvline(first - 0.5, color=INK, linewidth=0.6)
    strip.set_axis_off()


def _runs(codes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Each run of equal codes: the code, and its first and its last place."""
    at = 0
    for code, run in groupby(codes):
        length = len([*run])
        yield code, at, at + length - 1
        at += length
