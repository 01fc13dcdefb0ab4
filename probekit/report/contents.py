"""The parts of a report, each of which adds to a page what its results have to say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from platform import python_version
from typing import Any

import pandas as pd

from probekit import plot
from probekit._results.headlines import compared
from probekit._results.reading import Q_NAME
from probekit._results.summary import Summary, summary
from probekit._version import __version__
from probekit.plot.lookup import over_nodes
from probekit.report.best_nodes import add_best_nodes
from probekit.report.cautions import cautions
from probekit.report.explorer import has_nodes
from probekit.report.local_paths import without_folders
from probekit.report.meanings import meaning_of
from probekit.report.page import Page
from probekit.report.site_pairs import site_pairs
from probekit.report.subject import Subject

__all__ = ["page_of"]

_LIBRARIES = ("torch", "numpy", "xarray", "zarr", "scikit-learn", "matplotlib", "bokeh")
_FACTS = {
    "model_name": "Model",
    "model": "Class",
    "weights_from": "Weights",
    "data": "Data",
    "data_split": "Split",
    "data_limit": "Of which",
    "preprocessing": "Preprocessing",
    "mode": "Mode of the model",
    "created": "Captured at",
}
_BY_LAYER = {  # variables whose course over the sites is drawn, in this order, and what the figure is for
    "linear_probe": "how well a linear classifier finds the class of new samples from the site's nodes",
    "overlap": "how much the classes' distributions share at single nodes",
    "sparsity_site": "how often nodes are off",
    "effective_rank": "over how many directions the samples spread",
}
_BY_CLASS = ("auroc_rest", "overlap_rest", "mean")
_ABBREVIATED = ("auroc", "cka", "ks", "rsa")
_MOST_CLASSES = 100  # of a confusion matrix


def page_of(subject: Subject, title: str | None, command: str, data: Any) -> Page:
    """The whole report; `command` makes it again, and `data` are the inputs that were captured, if they are given."""
    summed = summary(subject.measured)
    page = Page(title or _title(subject), _lede(subject)).numbers(_tiles(subject, summed))
    if found := cautions(subject, summed):
        page.points(found, "bad")
    _add_origin(page, subject, command)
    _add_layers(page, subject, summed)
    _add_classes(page, subject)
    add_best_nodes(page, subject, data)
    if has_nodes(subject.measured):
        page.heading("Explore every node").explorer(subject.measured)
    _add_appendix(page, subject, summed)
    return page


def _title(subject: Subject) -> str:
    attrs = subject.attrs
    model = attrs.get("model_name") or str(attrs.get("model", "")).rpartition(".")[2] or subject.named
    return " on ".join(_short(str(name)) for name in (model, attrs.get("data")) if name)


def _short(name: str) -> str:
    """A name such as hf:/home/ann/models/bert/base without the folders that say nothing: bert/base."""
    parts = name.rstrip("/").split("/")
    return name if len(parts) < 4 else "/".join(parts[-2:])


def _lede(subject: Subject) -> str:
    classes = f", for each of {len(subject.classes)} classes" if subject.classes else ""
    sites = f"{len(subject.sites)} sites" if len(subject.sites) > 1 else "one site"
    nodes = f"{subject.nodes:,} nodes at " if subject.nodes else ""
    do = "do" if nodes or len(subject.sites) > 1 else "does"
    return f"What {nodes}{sites} of a neural network {do}{classes}."


def _tiles(subject: Subject, summed: Summary) -> dict[str, object]:
    tiles: dict[str, object] = {}
    if subject.accuracy is not None:
        tiles["accuracy of the model"] = f"{subject.accuracy:.1%}"
    if subject.samples is not None:
        tiles["samples"] = f"{subject.samples:,}"
    tiles |= {"classes": len(subject.classes)} if subject.classes else {}
    tiles |= {"sites": len(subject.sites)} | ({"nodes": f"{subject.nodes:,}"} if subject.nodes else {})
    probes = [each for each in summed.readings if each.metric == "linear_probe" and each.value == each.value]
    if probes:
        best = max(probes, key=lambda each: each.value)
        chance = "" if best.beside is None else f" (chance {best.beside:.1%})"
        tiles[f"linear probe at {best.site}{chance}"] = f"{best.value:.1%}"
    return tiles


def _add_origin(page: Page, subject: Subject, command: str) -> None:
    page.heading("Model and data")
    attrs = {key: without_folders(str(value)) for key, value in subject.attrs.items() if key in _FACTS}
    known: dict[str, object] = {name: attrs[key] for key, name in _FACTS.items() if attrs.get(key, "none") != "none"}
    if subject.class_samples:
        least, most = min(subject.class_samples.values()), max(subject.class_samples.values())
        known["Samples of a class"] = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    page.facts(known)
    commands = dict.fromkeys(
        filter(None, [str(subject.attrs.get("command", "")), command])
    )  # a recipe has one for both
    written = without_folders("\n".join(commands))
    where = ", with … for folders of the machine where it was written" if "…" in written else ""
    page.text(f"What makes this page again{where}:").code(written)


def _add_layers(page: Page, subject: Subject, summed: Summary) -> None:
    page.heading("Site by site")
    page.table(_wide(summed), "One number for each site and metric.")
    page.points(list(summed.notes[: len(summed.headlines)]), folded="How to read these numbers")
    measured = subject.measured
    drawn = {}
    if len(subject.sites) > 1:
        for variable, what in _BY_LAYER.items():
            if _has(subject, variable):
                drawn[f"{_words(variable)}: {what}."] = plot.profile(measured, variable)
        for name in compared(measured):
            drawn[f"{_words(name)} of each pair of sites."] = plot.matrix(measured, name)
    page.figures(drawn)


def _has(subject: Subject, variable: str) -> bool:
    return any(variable in group.data_vars for group in subject.measured.children.values())


def _wide(summed: Summary) -> pd.DataFrame:
    """A row for each site, and a column for each metric and for what belongs beside it."""
    rows: dict[str, dict[str, float | None]] = {}
    for each in summed.readings:
        row = rows.setdefault(each.site, {})
        row[each.metric] = each.value
        if each.low is not None:
            row |= {f"{each.metric} {each.interval} {end}": getattr(each, end) for end in ("low", "high")}
        if each.beside is not None:
            row[str(each.beside_name)] = each.beside
        if each.p is not None:
            row[f"{each.metric} p"] = each.p
        if each.q_of is not None:
            row |= {f"{each.metric} {Q_NAME}": each.discoveries, f"{each.metric} tested": each.tested}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("site")


def _words(variable: str) -> str:
    """The name of a variable at the beginning of a sentence."""
    text = variable.removesuffix("_site").replace("_", " ")
    first = text.partition(" ")[0]
    return text.replace(first, first.upper() if first in _ABBREVIATED else first.capitalize(), 1)


def _of_classes(subject: Subject, variable: str) -> str:
    """What a figure of classes by sites shows."""
    against = " against the others" if variable.endswith("_rest") else ""
    found = (group[variable].dims for group in subject.measured.children.values() if variable in group)
    how = over_nodes(subject.measured, variable)
    nodes = f": the {'largest' if how == 'max' else how} of its nodes" if any("node" in dims for dims in found) else ""
    return f"{_words(variable.removesuffix('_rest'))} of each class{against}, at each site{nodes}."


def _add_classes(page: Page, subject: Subject) -> None:
    if len(subject.classes) < 2:
        return
    page.heading("Class by class")
    drawn = {
        _of_classes(subject, variable): plot.by_class(subject.measured, variable)
        for variable in _BY_CLASS
        if _has(subject, variable)
    }
    if subject.store is not None and subject.accuracy is not None and len(subject.classes) <= _MOST_CLASSES:
        drawn["Which class the model takes for which."] = plot.confusion(subject.store)
    page.figures(drawn)


def _add_appendix(page: Page, subject: Subject, summed: Summary) -> None:
    page.heading("Appendix").heading("What the metrics mean", level=3)
    page.table(list(_meanings(subject, summed)), "Every metric on this page.")
    if pairs := site_pairs(subject.measured):
        page.heading("Pairs of sites", level=3).table(pairs, "Each pair of sites, with its interval and its null.")
    left_out = json.loads(str(subject.attrs.get("left_out", "{}")))
    if left_out:
        page.text("Not measured:").points([f"{name}: {reason}." for name, reason in left_out.items()])
    page.heading("Versions and numbers", level=3)
    page.facts({"probekit": __version__, "Python": python_version(), **{name: version(name) for name in _LIBRARIES}})
    facts = {key: value for key, value in subject.attrs.items() if isinstance(value, str | int | float)}
    numbers = {"attributes": facts, "readings": [asdict(each) for each in summed.readings]}
    text = without_folders(json.dumps(numbers, indent=1, default=str))
    page.code(text, folded="The numbers above, as JSON")


def _meanings(subject: Subject, summed: Summary) -> Iterator[dict[str, object]]:
    groups = [subject.measured, *subject.measured.children.values()]
    used = {
        str(each.attrs["metric"]): each.attrs for g in groups for each in g.data_vars.values() if "metric" in each.attrs
    }
    for name, attrs in sorted(used.items()):
        headline = summed.headlines.get(name)
        yield {
            "metric": name,
            "what it gives": meaning_of(name) or None,
            "a large value says": headline.large if headline else None,
            "says nothing": headline.neutral if headline else None,
            "parameters": attrs.get("parameters"),
        }
