"""A quantity over the layers of one or several networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from probekit.errors import RESULTS, DataError, check_kind
from probekit.plot.drawing import Drawing
from probekit.plot.lookup import measured, read
from probekit.plot.style import RULE, label_sites, new_axes, palette, plain, tidy, words

__all__ = ["profile"]

_MARKERS = "osD^vP*X<>"


def profile(
    trees: xr.DataTree | Mapping[str, xr.DataTree],
    variable: str,
    *,
    sites: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Drawing:
    """A quantity over the sites in order: its mean over the nodes, and a band over the middle half of them.

    `trees` is one result, or several as ``{name: tree}``, each in its own colour. A `variable` with dims, such as
    (label, node), is averaged over all of them, leaving out NaN; a scalar variable has no band. If the results have
    ``<variable>_null``, the value for shuffled labels, its mean is drawn dashed.

    Raises SiteError for an unknown site, PluginError if `variable` wasn't measured.

    >>> import xarray as xr
    >>> tree = xr.DataTree.from_dict({name: xr.Dataset({"sparsity_site": 0.5}) for name in ("relu1", "relu2")})
    >>> [line.get_ydata().tolist() for line in profile(tree, "sparsity_site").axes[0].lines]
    [[0.5, 0.5]]
    """
    check_kind("trees", trees, (xr.DataTree, Mapping), f"{RESULTS}, or several by name, {{name: tree}}")
    named = {"": trees} if isinstance(trees, xr.DataTree) else trees
    if not named:
        raise DataError("There are no results to draw: give at least one, as {name: tree}.")
    found = {name: measured(tree, sites, variable) for name, tree in named.items()}
    order = list(dict.fromkeys(site for names in found.values() for site in names))
    ax = new_axes(ax, 6.4, 3.6)
    lines, nulls = {}, {}
    for index, (name, tree) in enumerate(named.items()):
        colour, marker = palette(len(named))[index], _MARKERS[index % len(_MARKERS)]
        at = [order.index(site) for site in found[name]]
        lines[plain(name)] = _draw_line(ax, at, [read(tree, site, variable) for site in found[name]], colour, marker)
        if all(f"{variable}_null" in tree.children[site].data_vars for site in found[name]):
            null = [_mean(read(tree, site, f"{variable}_null")) for site in found[name]]
            ax.plot(at, null, "--", color=colour, linewidth=1.2)
            nulls["shuffled labels"] = Line2D([], [], linestyle="--", color=RULE, linewidth=1.2)
    ax.set_xlim(-0.3, len(order) - 0.7)
    label_sites(ax.xaxis, {site: index for index, site in enumerate(order)})
    ax.set_ylabel(words(variable))
    tidy(ax)
    if handles := lines | nulls if len(lines) + len(nulls) > 1 else {}:
        ax.legend(
            handles.values(), handles, frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5)
        )
    return Drawing.of(ax)


def _mean(data: xr.DataArray) -> float:
    return float(data.mean())  # leaves out NaN, and is NaN if all values are


def _draw_line(ax: Axes, at: Sequence[int], values: Sequence[xr.DataArray], colour: str, marker: str) -> Line2D:
    """Draw the means as a line, over a band from the first to the third quartile."""
    (line,) = ax.plot(at, [_mean(data) for data in values], linewidth=1.6, markersize=4.5, color=colour, marker=marker)
    if max(data.size for data in values) > 1:
        low, high = np.transpose([np.nanquantile(data.values, (0.25, 0.75)) for data in values])
        ax.fill_between(at, low, high, color=colour, alpha=0.13, linewidth=0)
    return line
