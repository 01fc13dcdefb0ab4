"""The classes' colours on white and on dark paper."""

from __future__ import annotations

import colorsys

from matplotlib.colors import to_hex, to_rgb

from probekit.plot import palette

__all__ = ["class_colours"]

_LEAST = 0.22  # luminance that stands out from the dark paper, three to one and more
_STEPS = 50


def class_colours(classes: int) -> dict[str, list[str]]:
    """The palette of figures for each scheme, {"light": [...], "dark": [...]}; on dark paper no colour is too dark.

    >>> class_colours(5)["dark"][4] != class_colours(5)["light"][4]
    True
    """
    light = palette(classes)
    return {"light": light, "dark": [_lightened(colour) for colour in light]}


def _lightened(colour: str) -> str:
    """The colour, with as much more lightness as it needs."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    for step in range(_STEPS):
        rgb = colorsys.hls_to_rgb(hue, lightness + (1 - lightness) * step / _STEPS, saturation)
        if _luminance(*rgb) >= _LEAST:
            break
    return to_hex(rgb)


def _luminance(*rgb: float) -> float:
    """Relative luminance, as WCAG 2.1 defines it."""
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
