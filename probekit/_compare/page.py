"""The page of a comparison."""

from __future__ import annotations

import json
from dataclasses import asdict

import pandas as pd

from probekit._compare.comparison import Comparison
from probekit._version import __version__
from probekit.report import Page
from probekit.report.local_paths import without_folders

__all__ = ["page_of"]

_WORDS = {
    "cka": "Debiased CKA of each pair of sites: 1 where they arrange the samples alike.",
    "cka_biased": "CKA without the correction, which is high for few samples and many nodes.",
    "rsa": "RSA of each pair of sites: 1 where they arrange the classes alike.",
}
_BADGES = {"differs": "neutral", "same": "good"}


def page_of(found: Comparison, title: str | None) -> Page:
    """The whole page."""
    first, *others = found.names
    page = Page(title or f"{' and '.join(others) if len(others) < 3 else 'stores'} beside {first}", _lede(found))
    page.numbers(_tiles(found))
    if found.cautions:
        page.points(found.cautions, "bad")
    origins = found.origins.map(lambda value: without_folders(value) if isinstance(value, str) else value)
    page.heading("The stores").table(origins, "What is known of each store.", badges=_BADGES)
    page.text("The command that makes this comparison again:").code(without_folders(found.settings.command))
    if found.differences:
        _add_metrics(page, found)
    _add_sites(page, found)
    if found.site_nodes:
        _add_nodes(page, found)
    page.heading("How it was computed").points(found.notes[: len(found.notes) - len(found.cautions)])
    page.facts({"probekit": __version__})
    numbers = {"settings": asdict(found.settings), "differences": [asdict(each) for each in found.differences]}
    text = without_folders(json.dumps(numbers, indent=1, default=str))
    return page.code(text, folded="The differences as JSON")


def _lede(found: Comparison) -> str:
    others = "another store" if len(found.names) == 2 else f"{len(found.names) - 1} other stores"
    return f"The same {found.samples:,} samples in {found.names[0]} and in {others}, site by site and node by node."


def _tiles(found: Comparison) -> dict[str, object]:
    frame = found.to_dataframe()
    tiles: dict[str, object] = {"samples in common": f"{found.samples:,}", "sites in common": len(found.site_nodes)}
    if len(frame):
        apart = int(((frame["low"] > 0) | (frame["high"] < 0)).sum())
        tiles[f"of {len(frame)} differences have an interval without 0"] = apart
    alike = [row for row in found.site_table.rows if row[2] == row[2]]
    if alike:
        least = min(alike, key=lambda row: float(str(row[2])))
        tiles[f"lowest CKA of a site with itself in the other store, {least[0]}"] = least[2]
    return tiles


def _add_metrics(page: Page, found: Comparison) -> None:
    page.heading("Metric by metric")
    page.table(
        found.table.to_dataframe(), "The headline of each metric at each site; a star where the interval is without 0."
    )
    page.figures({_caption(found, metric): found.plot(metric) for metric in found.headlines})


def _caption(found: Comparison, metric: str) -> str:
    headline = found.headlines[metric]
    name = metric if headline.variable == metric else f"{metric} ({headline.variable})"
    return f"{name}. Large: {headline.large}." if headline.large else f"{name}."


def _add_sites(page: Page, found: Comparison) -> None:
    page.heading("Sites beside sites")
    if found.site_table.rows:
        page.table(found.site_table.to_dataframe(), f"{found.site_table.title}.", formats=".3f")
    drawn = {text: found.plot(name) for name, text in _WORDS.items() if name in found.similarity}
    if len(found.names) == 2:
        page.figures(drawn)
        return
    for text, drawing in drawn.items():  # a panel a store, too wide for two side by side
        page.figure(drawing, text)


def _add_nodes(page: Page, found: Comparison) -> None:
    page.heading("Nodes beside nodes")
    page.figure(found.plot("correlation"), "Correlation of the nodes of the same site over the common samples.")
    for name in found.node_metrics:
        by_class = (
            " for each class" if any("label" in data.get(name, data).dims for data in found.site_nodes.values()) else ""
        )
        page.figure(
            found.plot(name, nodes=True), f"{name} of every node{by_class}; on the line it is the same in both."
        )
    moved = pd.concat([found.moved_nodes(name).assign(metric=name) for name in found.node_metrics] or [pd.DataFrame()])
    if len(moved):
        columns = ["metric", *(name for name in moved.columns if name != "metric")]
        page.table(moved[columns].reset_index(drop=True), "The nodes that differ most, ten for each metric.")
