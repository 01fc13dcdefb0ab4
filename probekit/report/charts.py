"""The explorer's two charts as Bokeh describes them: empty, since the page's script fills and colours them."""

from __future__ import annotations

from typing import Any

from bokeh.core.properties import field
from bokeh.core.property.vectorization import Field
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, FixedTicker, LinearColorMapper, Range1d
from bokeh.models.annotations import Span
from bokeh.plotting import figure

__all__ = ["charts"]

_FONT = {"major_label_text_font": "system-ui, sans-serif", "major_label_text_font_size": "12px"}
_HEIGHT = 300


def charts(classes: int) -> dict[str, Any]:
    """The charts by name, as items that BokehJS embeds; `classes` counts those that have a colour."""
    return {"nodes": json_item(_nodes(classes)), "classes": json_item(_classes(classes))}


def _nodes(classes: int) -> figure:
    """A dot for each node and class, and a mark at the chosen node.

    Only overlays are painted anew when another node is chosen, not its thousands of dots.
    """
    plot = _figure("nodes")
    dots, chosen = _source("dots", "x", "y", "c"), _source("chosen", "x", "y", "c")
    plot.scatter("x", "y", source=dots, color=_by_class(classes), size=5, alpha=0.8, line_color=None, name="points")
    mark = Span(dimension="height", line_width=1, level="overlay", name="mark")
    plot.add_layout(mark)
    ring = plot.scatter("x", "y", source=chosen, fill_color=_by_class(classes), size=10, line_width=2, name="ring")
    ring.level = "overlay"
    return plot


def _classes(classes: int) -> figure:
    """A row for each class: its density as an outline, the values that many samples share as stems."""
    plot = _figure("classes")
    outlines, stems = _source("outlines", "xs", "ys", "c"), _source("stems", "x", "y0", "y1", "c")
    colour = _by_class(classes)
    plot.patches("xs", "ys", source=outlines, fill_color=colour, line_color=colour, fill_alpha=0.35, line_width=1.2)
    plot.segment("x", "y0", "x", "y1", source=stems, line_color=colour, line_width=3)
    plot.scatter("x", "y1", source=stems, fill_color=colour, line_color=None, size=8)
    plot.yaxis.ticker = FixedTicker(ticks=[])
    plot.ygrid.visible = False
    plot.yaxis.major_tick_line_color = None
    plot.yaxis.axis_line_color = None
    return plot


def _figure(name: str) -> figure:
    plot = figure(
        name=name,
        height=_HEIGHT,
        sizing_mode="stretch_width",
        x_range=Range1d(start=0, end=1),
        y_range=Range1d(start=0, end=1),
        toolbar_location=None,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border=0,
        min_border_top=8,
        min_border_right=12,
    )
    plot.tools = []
    plot.axis.minor_tick_line_color = None
    for axis in plot.axis:
        axis.update(**_FONT)
    return plot


def _source(name: str, *columns: str) -> ColumnDataSource:
    return ColumnDataSource({column: [] for column in columns}, name=name)


def _by_class(classes: int) -> Field:
    """The colour of the class whose number is in column c; the script sets the palette, light or dark."""
    mapper = LinearColorMapper(palette=["#888888"] * classes, low=-0.5, high=classes - 0.5, name="colours")
    return field("c", mapper)
