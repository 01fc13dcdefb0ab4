"""The colour scales of images: centred on the value that says nothing, where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, Colormap, Normalize
from matplotlib.image import AxesImage

from probekit.plot.style import INK, RULE

__all__ = ["MOST_WRITTEN", "Scale", "colour_bar", "flattens", "show", "write_values"]

Floats = npt.NDArray[np.floating[Any]]

Scale = tuple[Normalize, Colormap]

MOST_WRITTEN = 12  # rows and columns of an image in whose cells there is room for numbers
_MISSING = "#b5b5b5"
_FEWEST_SHADES = 1 / 6  # of a shared scale: in what spans less, values can hardly be told apart


def scale_of(values: Floats, neutral: float | None) -> Scale:
    """The colours of `values`: diverging from `neutral` if they lie on both sides of it, else sequential.

    Where all lie on one side, the neutral value is the end of the scale.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if neutral is not None and low < neutral < high:
        return CenteredNorm(neutral, max(neutral - low, high - neutral)), _map("RdBu_r")
    if neutral is not None:
        low, high = min(low, neutral), max(high, neutral)
    return Normalize(low, high if high > low else low + 1), _map("viridis")


def _map(name: str) -> Colormap:
    return colormaps[name].with_extremes(bad=_MISSING)


def flattens(parts: Sequence[Floats]) -> bool:
    """Whether one scale for all `parts` would leave one that varies with few shades."""
    spans = [np.ptp(part[np.isfinite(part)]) for part in parts if np.isfinite(part).any()]
    varying = [span for span in spans if span > 0]
    finite = np.concatenate([part[np.isfinite(part)] for part in parts])
    return bool(varying) and bool(min(varying) < _FEWEST_SHADES * np.ptp(finite))


def show(ax: Axes, values: Floats, scale: Scale, **options: Any) -> AxesImage:
    """Draw `values` (row, column) as cells; what isn't finite is grey."""
    norm, colours = scale
    shown = np.ma.masked_invalid(values)
    image = ax.imshow(shown, aspect="auto", interpolation="nearest", norm=norm, cmap=colours, **options)
    ax.spines[:].set_visible(False)
    ax.tick_params(color=RULE, labelcolor=INK, labelsize="small")
    return image


def colour_bar(image: AxesImage, panels: Sequence[Axes], label: str, grey: str = "no value") -> None:
    """The colour bar of an image beside its panels, which says what grey means if there is any."""
    if np.ma.is_masked(image.get_array()):
        label += f"\n(grey: {grey})"
    bar = panels[0].figure.colorbar(image, ax=list(panels), pad=0.01, label=label)
    bar.outline.set_visible(False)
    bar.ax.tick_params(color=RULE, labelcolor=INK, labelsize="small")


def write_values(ax: Axes, image: AxesImage, texts: Mapping[tuple[int, int], str]) -> None:
    """Write a text into each cell (row, column), dark on light and light on dark."""
    colours = image.to_rgba(image.get_array())  # type: ignore[arg-type]  # it has an array
    for (row, column), text in texts.items():
        light = float(colours[row, column, :3] @ (0.299, 0.587, 0.114))
        ax.text(
            column, row, text, ha="center", va="center", fontsize="x-small", color="black" if light > 0.5 else "white"
        )
