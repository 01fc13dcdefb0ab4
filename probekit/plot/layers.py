"""A quantity over the sites of one or several models."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from probekit._results.headlines import beside_of, interval_name, of_site
from probekit.errors import RESULTS, DataError, check_kind
from probekit.metrics import Headline
from probekit.plot.drawing import Drawing
from probekit.plot.lookup import headline_of, measured, neutral_of, over_nodes, read, site_values
from probekit.plot.style import RULE, label_sites, legend_beside, new_axes, palette, tidy, words

__all__ = ["label_of", "profile"]

Floats = npt.NDArray[np.floating[Any]]
Results: TypeAlias = xr.DataTree | Sequence[xr.DataTree]

_RESULTS = f"{RESULTS}, a list of them (seeds), or several by name, {{name: tree}}"
_HOW = {"median": "median", "max": "largest", "sum": "sum"}
_MANY_SITES = 80  # whose markers would lie over each other
_MARKERS = "osD^vP*X<>"


def profile(
    trees: Results | Mapping[str, Results],
    variable: str,
    *,
    sites: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Drawing:
    """A quantity over the sites in order: one value for the nodes of each, and a band.

    `trees` is one result, or a list of them that differ by their seed alone, or several of either as
    ``{name: result}``, each in its own colour. The value is the mean over the nodes, or what the metric's headline says
    of nodes, and then the mean over any other dims, such as label; NaN are left out. The band of one result is the
    interval of that value, where one was measured (``ci=``), or else spans the middle half of its values, unless the
    headline isn't their mean or median; the band of several seeds goes from the lowest seed to the highest, around the
    mean of the seeds.

    Drawn beside it, if there is one: dashed, the variable that the headline names, such as ``linear_probe_chance``, or
    else ``<variable>_null``, the value for shuffled labels; dotted, the neutral value, which says nothing.

    Raises SiteError for an unknown site, PluginError if `variable` wasn't measured.

    >>> import xarray as xr
    >>> tree = xr.DataTree.from_dict({name: xr.Dataset({"sparsity_site": 0.5}) for name in ("relu1", "relu2")})
    >>> [line.get_ydata().tolist() for line in profile(tree, "sparsity_site").axes[0].lines]
    [[0.5, 0.5]]
    """
    named = _by_name(trees)
    first = next(iter(named.values()))[0]
    found = {name: measured(seeds[0], sites, variable) for name, seeds in named.items()}
    order = list(dict.fromkeys(site for names in found.values() for site in names))
    ax = new_axes(ax, 6.4, 3.6)
    handles, dashed = dict[str, Artist](), dict[str, Artist]()
    for index, (name, seeds) in enumerate(named.items()):
        colour, marker = palette(len(named))[index], _MARKERS[index % len(_MARKERS)]
        at = [order.index(site) for site in found[name]]
        means, bands = _values(seeds, found[name], variable)
        size = 4.5 if len(order) <= _MANY_SITES else 0
        (handles[name],) = ax.plot(at, means, linewidth=1.6, markersize=size, color=colour, marker=marker)
        if bands is not None:
            _draw_band(ax, at, bands, colour)
            dashed[_band_name(seeds, found[name], variable)] = Patch(color=RULE, alpha=0.3, linewidth=0)
        if beside := _beside(seeds, found[name], variable):
            values = _values(seeds, found[name], beside)[0]
            ax.plot(at, values, "--", color=colour, linewidth=1.2, marker="_" if len(at) == 1 else "", markersize=12)
            dashed[_reads(beside)] = Line2D([], [], linestyle="--", color=RULE, linewidth=1.2)
    if (neutral := neutral_of(first, variable)) is not None:
        line = ax.axhline(neutral, linestyle=":", color=RULE, linewidth=1.2, zorder=1.5)
        dashed[f"neutral: {neutral:g}"] = line
    ax.set_xlim(-0.3, len(order) - 0.7)
    label_sites(ax.xaxis, {site: index for index, site in enumerate(order)})
    ax.set_ylabel(label_of(first, variable))
    tidy(ax)
    if shown := (handles if len(handles) > 1 else {}) | dashed:
        legend_beside([ax], shown)
    return Drawing.of(ax)


def _by_name(trees: Results | Mapping[str, Results]) -> dict[str, Sequence[xr.DataTree]]:
    """The results of every name, each as those of one or several seeds."""
    check_kind("trees", trees, (xr.DataTree, list, tuple, Mapping), _RESULTS)
    named = {"": trees} if isinstance(trees, xr.DataTree) or not isinstance(trees, Mapping) else trees
    found: dict[str, Sequence[xr.DataTree]] = {
        name: [each] if isinstance(each, xr.DataTree) else list(each) for name, each in named.items()
    }
    if not found or not all(found.values()):
        raise DataError("There are no results to draw: give at least one, as {name: tree}.")
    for seeds in found.values():
        for each in seeds:
            check_kind("trees", each, xr.DataTree, _RESULTS)
    return found


def _values(seeds: Sequence[xr.DataTree], sites: Sequence[str], variable: str) -> tuple[Floats, Floats | None]:
    """The line of one name (site,), and the lower and upper edge of its band (2, site) if it has one."""
    found = [site_values(tree, sites, variable) for tree in seeds]
    lines = np.array([[float(values[site]) for site in sites] for values in found])
    if len(seeds) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a site that is NaN for every seed
            return np.nanmean(lines, axis=0), np.array([np.nanmin(lines, axis=0), np.nanmax(lines, axis=0)])
    if _confidence(seeds, sites, variable) is not None:
        groups = [seeds[0].children[site].data_vars for site in sites]
        ends = [[of_site(each, variable, end) for each in groups] for end in ("low", "high")]
        return lines[0], np.array(ends, float)
    data = [read(seeds[0], site, variable).values.astype(float) for site in sites]
    if over_nodes(seeds[0], variable) not in ("mean", "median") or max(each.size for each in data) == 1:
        return lines[0], None
    return lines[0], np.transpose([_middle_half(each[~np.isnan(each)]) for each in data])


def _confidence(seeds: Sequence[xr.DataTree], sites: Sequence[str], variable: str) -> float | None:
    """The confidence of the intervals of the sites' values, where one result has such."""
    groups = [seeds[0].children[site].data_vars for site in sites]
    lows = [of_site(each, variable, "low") for each in groups]
    shares = {None if each is None else float(each.attrs["confidence"]) for each in lows}
    return shares.pop() if len(seeds) == len(shares) == 1 else None


def _band_name(seeds: Sequence[xr.DataTree], sites: Sequence[str], variable: str) -> str:
    if len(seeds) > 1:
        return "lowest to highest seed"
    share = _confidence(seeds, sites, variable)
    return "middle half of values" if share is None else interval_name(share)


def _draw_band(ax: Axes, at: Sequence[int], bands: Floats, colour: str) -> None:
    if len(at) == 1:  # an area without width isn't seen
        ax.vlines(at, *bands, color=colour, alpha=0.3, linewidth=5)
    else:
        ax.fill_between(at, *bands, color=colour, alpha=0.13, linewidth=0)


def _middle_half(values: Floats) -> Floats:
    return np.quantile(values, (0.25, 0.75)) if values.size else np.full(2, np.nan)


def _beside(seeds: Sequence[xr.DataTree], sites: Sequence[str], variable: str) -> str | None:
    """The variable that is drawn beside another, where all have it."""
    headline = headline_of(seeds[0], variable) or Headline(variable, "mean", "")
    found = {beside_of(tree.children[site].data_vars, headline) for tree in seeds for site in sites}
    return found.pop() if len(found) == 1 else None


def _reads(beside: str) -> str:
    return "shuffled labels" if beside.endswith(("_null", "_null_site")) else beside.rpartition("_")[2]


def label_of(tree: xr.DataTree, variable: str) -> str:
    """The label of an axis for the value of a site."""
    how = over_nodes(tree, variable)
    return words(variable) if how == "mean" else f"{words(variable)}\n({_HOW[how]} of the nodes)"
