"""The common style of the figures: colours, axes without clutter, one legend of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from probekit.errors import check_kind

__all__ = [
    "INK",
    "RULE",
    "colour_key",
    "label_classes",
    "label_columns",
    "label_sites",
    "legend_beside",
    "new_axes",
    "new_figure",
    "palette",
    "plain",
    "short",
    "short_site",
    "tidy",
    "words",
]

# A search near the colours of Okabe and Ito for the ten whose smallest CIELAB distance is largest, over normal vision
# and the three dichromacies, found these (28.9; matplotlib's default ten: 4.6).
_COLOURS = (
    *("#3a6fdc", "#eca500", "#ca4006", "#8fbf6a", "#5b0a77"),
    *("#09c0f7", "#852a24", "#a75599", "#310cb2", "#9f8d83"),
)
INK, _GRID, RULE = "#333333", "#e8e8e8", "#9a9a9a"
_NAME_LENGTH, _MOST_NAMES = 24, 16
_NAMES_WIDTH = 60  # characters of small type that fit side by side along a panel


def palette(count: int) -> list[str]:
    """`count` colours as hex strings, for white paper and for colour-blind readers.

    Everyone can distinguish up to ten; more are taken in order from the sequential map viridis.

    >>> palette(2)
    ['#3a6fdc', '#eca500']
    """
    check_kind("count", count, Integral, "a number of colours")
    if count <= len(_COLOURS):
        return list(_COLOURS[:count])
    return [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0, 1, count))]


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, outside pyplot's registry, whose layout keeps labels from overlapping."""
    return Figure(figsize=(width, height), layout="constrained")


def new_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """`ax`, or the axes of a new figure if it is None."""
    check_kind("ax", ax, (Axes, NoneType), "matplotlib's Axes, or None for those of a new figure")
    return new_figure(width, height).add_subplot() if ax is None else ax


def plain(text: str) -> str:
    """`text` for matplotlib, escaped so that a dollar sign in the name of a site or a class doesn't start a formula."""
    return text.replace("$", r"\$")


def words(variable: str) -> str:
    """The name of a variable as an axis label."""
    return variable.replace("_", " ")


def tidy(ax: Axes) -> None:
    """Remove the box, draw a light grid behind the data, and make the ticks light."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(RULE)
    ax.tick_params(color=RULE, labelcolor=INK, labelsize="small")
    ax.grid(axis="y", color=_GRID, linewidth=0.7)
    ax.set_axisbelow(True)


def _every(count: int) -> npt.NDArray[np.intp]:
    """Evenly spaced indices of as many of the `count` things as there is room to name."""
    return np.arange(0, count, -(-count // _MOST_NAMES))


def short(name: str) -> str:
    """The name of a class or a result, shortened to fit beside a panel."""
    return plain(name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…")


def short_site(site: str) -> str:
    """A site's name, shortened to leave room for the figure; a long name keeps its end, where sites differ."""
    return plain(site if len(site) <= _NAME_LENGTH else "…" + site[1 - _NAME_LENGTH :])


def label_classes(ax: Axes, names: Sequence[str], *, reverse: bool = False) -> None:
    """Write class names along the vertical axis at 0, 1, …, with the first on top if `reverse`, only some if many."""
    shown = _every(len(names))
    at = len(names) - 1 - shown if reverse else shown
    ax.set_yticks(at, [short(names[index]) for index in shown])


def label_columns(ax: Axes, names: Sequence[str]) -> None:
    """Write class names along the horizontal axis at 0, 1, …, upright if they might touch, only some if many."""
    shown = _every(len(names))
    texts = [short(names[index]) for index in shown]
    upright = sum(len(text) + 2 for text in texts) > _NAMES_WIDTH * 0.6
    ax.set_xticks(shown, texts, rotation=90 if upright else 0)


def label_sites(axis: Axis, positions: Mapping[str, float], *, above: bool = False) -> None:
    """Write site names at their positions along an axis, slanted along a horizontal one if they might touch, only some
    if many."""
    shown = [list(positions.items())[index] for index in _every(len(positions))]
    at = np.array([position for _, position in shown], dtype=float)
    room = np.diff(at).min(initial=np.inf) / (np.ptp(at) or 1) * _NAMES_WIDTH
    aslant: dict[str, Any] = {"rotation": 35, "ha": "left" if above else "right", "rotation_mode": "anchor"}
    names = [short_site(site) for site, _ in shown]
    touching = isinstance(axis, XAxis) and any(len(name) + 2 > room for name in names)
    axis.set_ticks(at, names, fontsize="small", **(aslant if touching else {}))


def colour_key(panels: Sequence[Axes], names: Sequence[str], title: str = "class") -> None:
    """Show whose colour is whose beside the panels: nothing for one name, a key up to ten, else a colour bar."""
    if len(names) == 1:
        return
    colours = palette(len(names))
    if len(names) > len(_COLOURS):
        _colour_bar(panels, names, colours, title)
        return
    handles = [Line2D([], [], marker="o", markersize=5, linestyle="", color=colour) for colour in colours]
    legend_beside(panels, dict(zip(names, handles, strict=True)), title)


def legend_beside(panels: Sequence[Axes], handles: Mapping[str, Artist], title: str | None = None) -> None:
    """A legend to the right of the panels."""
    options: dict[str, Any] = {"title": title, "frameon": False, "fontsize": "small", "title_fontsize": "small"}
    names = [short(name) for name in handles]
    if len(panels) == 1:
        panels[0].legend(handles.values(), names, loc="center left", bbox_to_anchor=(1.0, 0.5), **options)
    else:
        panels[0].figure.legend(handles.values(), names, loc="outside right center", **options)


def _colour_bar(panels: Sequence[Axes], names: Sequence[str], colours: Sequence[str], title: str) -> None:
    bounds = np.arange(len(names) + 1) - 0.5
    colouring = ScalarMappable(BoundaryNorm(bounds, len(names)), ListedColormap(list(colours)))
    ticks = _every(len(names))
    bar = panels[0].figure.colorbar(colouring, ax=list(panels), ticks=ticks, pad=0.01, aspect=30, label=title)
    bar.ax.set_yticklabels([short(names[tick]) for tick in ticks], fontsize="small")
    bar.minorticks_off()
    bar.ax.invert_yaxis()
    bar.outline.set_visible(False)
