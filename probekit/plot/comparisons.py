"""Figures of a comparison of stores, as `probekit.compare` draws them: what is compared shares a panel and a scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from probekit._results.headlines import interval_name
from probekit.plot.drawing import Drawing
from probekit.plot.scales import MOST_WRITTEN, colour_bar, scale_of, show, write_values
from probekit.plot.style import (
    INK,
    RULE,
    label_sites,
    legend_beside,
    new_figure,
    palette,
    short,
    short_site,
    tidy,
    words,
)

__all__ = ["correlations", "differences", "node_values", "similarities"]

Floats = npt.NDArray[np.floating[Any]]

_MARKERS = "osD^vP*X<>"
_ROOM = 0.5  # of a site's width, over which its stores are spread
_COLUMNS = 4  # panels side by side


def differences(frame: pd.DataFrame, first: str, metric: str, confidence: float) -> Drawing:
    """Above, a metric of every store over the sites; below, the differences from the first store with their intervals.

    `frame` has the columns of `Comparison.to_dataframe`, of one metric.
    """
    sites = list(dict.fromkeys(frame["site"]))
    others = list(dict.fromkeys(frame["store"]))
    figure = new_figure(6.8, 5.2)
    above, below = figure.subplots(2, 1, sharex=True)
    colours = palette(1 + len(others))
    values = {first: frame.drop_duplicates("site").set_index("site")["value_first"]}
    values |= {other: frame[frame["store"] == other].set_index("site")["value"] for other in others}
    handles: dict[str, Line2D] = {}
    for at, (name, column) in enumerate(values.items()):
        (handles[name],) = above.plot(
            [sites.index(site) for site in column.index], column, color=colours[at], marker=_MARKERS[at % 10], ms=4.5
        )
    for at, other in enumerate(others, 1):
        rows = frame[frame["store"] == other]
        aside = (at - (len(others) + 1) / 2) * _ROOM / len(others)
        x, middle = np.array([sites.index(site) for site in rows["site"]]) + aside, rows["difference"].to_numpy()
        beyond = np.abs(np.stack([rows["low"], rows["high"]]) - middle)
        below.errorbar(x, middle, beyond, fmt=_MARKERS[at % 10], color=colours[at], ms=4.5, capsize=3, lw=1.2)
    below.axhline(0, color=RULE, linestyle=":", linewidth=1.2, zorder=1.5)
    above.set_ylabel(words(metric))
    below.set_ylabel(f"less {short(first)}\n({interval_name(confidence)}s)")
    label_sites(below.xaxis, {site: index for index, site in enumerate(sites)})
    below.set_xlim(-0.5, len(sites) - 0.5)
    for ax in (above, below):
        tidy(ax)
    legend_beside([above, below], handles)
    return Drawing.of(above, below)


def similarities(similarity: xr.DataArray, first: str) -> Drawing:
    """How alike the first store's sites (rows) and each other store's (columns) are: a panel a store, on one scale."""
    values = similarity.values.astype(float)
    stores, rows, columns = (list(map(str, similarity[dim].values)) for dim in ("store", "site", "site_b"))
    width = float(np.clip(1.8 + 0.45 * len(columns), 3.2, 7))
    figure = new_figure(width * len(stores) + 1, float(np.clip(1.6 + 0.42 * len(rows), 3.2, 7)))
    panels = list(figure.subplots(1, len(stores), squeeze=False)[0])
    scale = scale_of(np.append(values.ravel(), 1.0), 0.0)
    for ax, store, table in zip(panels, stores, values, strict=True):
        image = show(ax, table, scale)
        label_sites(ax.xaxis, {site: float(at) for at, site in enumerate(columns)})
        label_sites(ax.yaxis, {site: float(at) for at, site in enumerate(rows)})
        ax.set(xlabel=short(store), ylabel=short(first))
        if max(table.shape) <= MOST_WRITTEN:
            cells = {at: f"{value:.2f}" for at, value in np.ndenumerate(table) if np.isfinite(value)}
            write_values(ax, image, cells)
    colour_bar(image, panels, words(str(similarity.name)), "not compared")
    return Drawing.of(*panels)


def correlations(nodes: Mapping[str, xr.Dataset], first: str) -> Drawing:
    """At each site, how the nodes of the first store correlate with those of the others over the samples.

    Filled, the node of the same number; hollow, the best of all nodes. The box spans the middle half of the nodes, the
    whiskers all of them, and its line is the median.
    """
    others = [str(each) for each in next(iter(nodes.values()))["store"].values]
    kinds = [(kind, other) for other in others for kind in ("correlation", "best_correlation")]
    figure = new_figure(max(6.4, 1.6 + 0.5 * len(nodes) * len(others)), 3.8)
    ax = figure.add_subplot()
    colours = palette(1 + len(others))
    room = 0.8 / len(kinds)
    for number, (kind, other) in enumerate(kinds):
        colour = colours[1 + others.index(other)]
        found = {
            at: values[np.isfinite(values)]
            for at, data in enumerate(nodes.values())
            if kind in data
            and other in data["store"]
            and np.isfinite(values := data[kind].sel(store=other).values).any()
        }
        if found:
            _boxes(ax, found, (number + 0.5) * room - 0.4, room * 0.8, colour, filled=kind == "correlation")
    label_sites(ax.xaxis, {site: at for at, site in enumerate(nodes)})
    ax.set_xlim(-0.5, len(nodes) - 0.5)
    ax.axhline(0, color=RULE, linestyle=":", linewidth=1.2, zorder=1.5)
    ax.set_ylim(top=1.05)
    ax.set_ylabel(f"correlation with {short(first)}")
    tidy(ax)
    handles = {
        f"{short(other)}, {text}": Line2D(
            [], [], marker="s", linestyle="", color=colour, markerfacecolor=face or colour
        )
        for other, colour in zip(others, colours[1:], strict=True)
        for text, face in (("same node", ""), ("best node", "none"))
    }
    ax.legend(handles.values(), handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")
    return Drawing.of(ax)


def _boxes(ax: Axes, found: Mapping[int, Floats], aside: float, width: float, colour: str, *, filled: bool) -> None:
    ax.boxplot(
        list(found.values()),
        positions=[at + aside for at in found],
        widths=width,
        whis=(0, 100),
        showcaps=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": colour if filled else "none", "edgecolor": colour, "alpha": 0.7 if filled else 1},
        whiskerprops={"color": colour},
        medianprops={"color": INK},
    )


def node_values(nodes: Mapping[str, xr.Dataset], metric: str, first: str) -> Drawing:
    """A panel a site, all on one scale: a dot for each node, its value in the first store across, in another one up.

    Where there is a value for each class, so many dots.
    """
    chosen = {site: data for site, data in nodes.items() if metric in data}
    columns = min(_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = new_figure(2.5 * columns + 0.8, 2.9 * rows + 0.5)
    panels: list[Axes] = []
    others = [str(each) for each in next(iter(chosen.values()))["store"].values]
    colours = palette(1 + len(others))
    drawn = [data[f"{metric}_first"].values for data in chosen.values()]
    drawn += [(data[metric] + data[f"{metric}_first"]).values for data in chosen.values()]
    every = np.concatenate([each[np.isfinite(each)] for each in drawn])
    low, high = (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
    around = 0.04 * (high - low or 1)
    for number, (site, data) in enumerate(chosen.items()):
        ax = figure.add_subplot(rows, columns, number + 1)
        ax.axline((low, low), slope=1, color=RULE, linewidth=1, zorder=1.5)
        for colour, other in zip(colours[1:], others, strict=True):
            one = data.sel(store=other)
            x = one[f"{metric}_first"].values.ravel()
            ax.scatter(x, x + one[metric].values.ravel(), s=9, color=colour, alpha=0.7, linewidths=0, rasterized=True)
        ax.set(xlim=(low - around, high + around), ylim=(low - around, high + around), box_aspect=1)
        ax.set_title(short_site(site), fontsize="medium")
        tidy(ax)
        panels.append(ax)
    figure.supxlabel(f"{words(metric)}, {short(first)}", fontsize="medium")
    figure.supylabel(f"{words(metric)}, {short(others[0]) if len(others) == 1 else 'the others'}", fontsize="medium")
    if len(others) > 1:
        marks = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in colours[1:]]
        legend_beside([*panels, panels[0]], dict(zip(others, marks, strict=True)))
    return Drawing.of(*panels)
