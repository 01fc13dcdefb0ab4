"""What the figures have in common: colours, axes without clutter, one legend of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

__all__ = [
    "INK",
    "RULE",
    "class_legend",
    "label_classes",
    "label_sites",
    "new_axes",
    "new_figure",
    "palette",
    "plain",
    "short_site",
    "tidy",
    "words",
]

# Found by a search for the largest smallest CIELAB distance between any two of ten colours near Okabe and Ito's, as
# seen with normal vision and with each of the three dichromacies (28.9; matplotlib's default ten: 4.6).
_COLOURS = (
    *("#3a6fdc", "#eca500", "#ca4006", "#8fbf6a", "#5b0a77"),
    *("#09c0f7", "#852a24", "#a75599", "#310cb2", "#9f8d83"),
)
INK, _GRID, RULE = "#333333", "#e8e8e8", "#9a9a9a"
_NAME_LENGTH, _MOST_NAMES = 24, 16
_NAMES_WIDTH = 60  # characters of small type that fit side by side along a panel


def palette(count: int) -> list[str]:
    """`count` colours as hex strings, fit for white paper and for colour-blind readers.

    Up to ten are told apart by everyone; more are taken in order from the sequential map viridis.

    >>> palette(2)
    ['#3a6fdc', '#eca500']
    """
    if count <= len(_COLOURS):
        return list(_COLOURS[:count])
    return [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0, 1, count))]


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches that keeps its labels from touching, outside pyplot's registry."""
    return Figure(figsize=(width, height), layout="constrained")


def new_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """`ax`, or where there is none the axes of a new figure."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def plain(text: str) -> str:
    """`text` as it is: a dollar sign in the name of a site or a class starts no formula."""
    return text.replace("$", r"\$")


def words(variable: str) -> str:
    """The name of a variable as an axis label."""
    return variable.replace("_", " ")


def tidy(ax: Axes) -> None:
    """No box, a light grid behind the data, quiet ticks."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(RULE)
    ax.tick_params(color=RULE, labelcolor=INK, labelsize="small")
    ax.grid(axis="y", color=_GRID, linewidth=0.7)
    ax.set_axisbelow(True)


def _every(count: int) -> npt.NDArray[np.intp]:
    """Evenly spaced indices of what there is room to name."""
    return np.arange(0, count, -(-count // _MOST_NAMES))


def _short_class(name: str) -> str:
    """A class name that fits beside a panel."""
    return plain(name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…")


def short_site(site: str) -> str:
    """A site's name that leaves room for the figure: the end of a long one, where sites differ."""
    return plain(site if len(site) <= _NAME_LENGTH else "…" + site[1 - _NAME_LENGTH :])


def label_classes(ax: Axes, names: Sequence[str], *, reverse: bool = False) -> None:
    """Class names along the vertical axis, one a unit from 0 up (`reverse`: the first on top), thinned out if many."""
    shown = _every(len(names))
    at = len(names) - 1 - shown if reverse else shown
    ax.set_yticks(at, [_short_class(names[index]) for index in shown])


def label_sites(axis: Axis, places: Mapping[str, float], *, above: bool = False) -> None:
    """Site names at their places along a horizontal axis, aslant if they might touch, thinned out if many."""
    shown = [list(places.items())[index] for index in _every(len(places))]
    at = np.array([place for _, place in shown], dtype=float)
    room = np.diff(at).min(initial=np.inf) / (np.ptp(at) or 1) * _NAMES_WIDTH
    aslant: dict[str, Any] = {"rotation": 35, "ha": "left" if above else "right", "rotation_mode": "anchor"}
    names = [short_site(site) for site, _ in shown]
    touching = any(len(name) + 2 > room for name in names)
    axis.set_ticks(at, names, fontsize="small", **(aslant if touching else {}))


def class_legend(panels: Sequence[Axes], names: Sequence[str]) -> None:
    """The colours of the classes, to the right of the panels: none for one, a key up to ten, a colour bar beyond."""
    if len(names) == 1:
        return
    colours = palette(len(names))
    figure = panels[0].figure
    shown = [_short_class(name) for name in names]
    if len(names) > len(_COLOURS):
        _class_bar(panels, shown, colours)
        return
    handles = [Line2D([], [], marker="o", markersize=5, linestyle="", color=colour) for colour in colours]
    options = {"title": "class", "frameon": False, "fontsize": "small", "title_fontsize": "small", "handletextpad": 0.1}
    if len(panels) == 1:
        panels[0].legend(handles, shown, loc="center left", bbox_to_anchor=(1.0, 0.5), **options)
    else:
        figure.legend(handles, shown, loc="outside right center", **options)


def _class_bar(panels: Sequence[Axes], names: Sequence[str], colours: Sequence[str]) -> None:
    bounds = np.arange(len(names) + 1) - 0.5
    colouring = ScalarMappable(BoundaryNorm(bounds, len(names)), ListedColormap(list(colours)))
    ticks = _every(len(names))
    bar = panels[0].figure.colorbar(colouring, ax=list(panels), ticks=ticks, pad=0.01, aspect=30, label="class")
    bar.ax.set_yticklabels([names[tick] for tick in ticks], fontsize="small")
    bar.minorticks_off()
    bar.ax.invert_yaxis()
    bar.outline.set_visible(False)
