"""The part of a report that shows the best nodes of each class: their distributions, and the samples they answer to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probekit import plot
from probekit._measure.top import Top, TopNode, top
from probekit._measure.top_samples import TopSample
from probekit._table import is_missing, shown
from probekit.report.local_paths import without_folders
from probekit.report.page import Page
from probekit.report.subject import Subject

__all__ = ["add_best_nodes"]

_BY = ("auroc", "overlap", "dprime", "selectivity", "mean")  # the first that was measured ranks the nodes
_PER_CLASS = 3
_MOST_CLASSES = 12
_SAMPLES = 8
_HISTOGRAM = {"histogram", "histogram_edges", "histogram_atoms", "histogram_atom"}


def add_best_nodes(page: Page, subject: Subject, data: Any) -> None:
    """Add the best node of each class, with the next best named; `data` are the inputs that were captured."""
    measured = {
        str(each.attrs.get("metric")) for g in subject.measured.children.values() for each in g.data_vars.values()
    }
    by = next((name for name in _BY if name in measured), None)
    if by is None:
        return
    found = top(subject.measured, by, per_class=_PER_CLASS)
    classes = _classes(found)
    firsts = Top(tuple(nodes[0] for nodes in classes), found.variable, found.smallest, found.positions)
    samples = _samples(firsts, subject, data)
    page.heading("The best nodes of each class" if subject.classes else "The strongest nodes")
    page.text(_introduction(found, len(classes), subject))
    if lost := next((each.file for each in samples if each.input is None and each.file and not _is_there(each)), None):
        page.text(
            f"The images aren't where they were when they were captured, such as {without_folders(lost)}: write the "
            "report from the folder in which they were, or give the data set as data=, to see them."
        )
    for first, *others in classes:
        own = [each for each in samples if (each.site, each.node) == (first.site, first.node)]
        page.node(_title(first), _text(found, first, others), _picture(subject, first), own)


def _samples(found: Top, subject: Subject, data: Any) -> Sequence[TopSample]:
    """The samples to which the nodes answer most; none where the store isn't known."""
    if subject.store is None:
        return []
    return found.samples(subject.store, _SAMPLES, data=data).samples


def _is_there(sample: TopSample) -> bool:
    return sample.file is not None and Path(sample.file).is_file()


def _classes(found: Top) -> list[list[TopNode]]:
    """The nodes of each class, best first; of many classes, those with the best nodes."""
    grouped: dict[object, list[TopNode]] = {}
    for node in found.nodes:
        grouped.setdefault(node.class_name, []).append(node)
    if list(grouped) == [None]:
        return [[node] for node in found.nodes]
    turn = 1 if found.smallest else -1
    best = sorted(grouped.values(), key=lambda nodes: turn * nodes[0].value)[:_MOST_CLASSES]
    return [nodes for nodes in grouped.values() if nodes in best]


def _introduction(found: Top, shown_classes: int, subject: Subject) -> str:
    which = "smallest" if found.smallest else "largest"
    some = (
        f" Of {len(subject.classes)} classes, here are the {shown_classes} that a single node tells best."
        if shown_classes < len(subject.classes) - len(found.left_out)
        else ""
    )
    answer = (
        "The samples are those with the node's largest activations, of whatever class."
        if subject.store is not None
        else "Results alone have no samples; write the report of the store, or give it as store=, to see them."
    )
    none = f" No node has a value for {', '.join(found.left_out)}." if found.left_out else ""
    metric = found.variable.removesuffix("_rest")
    named = found.variable + (f" ({metric} of the class against the others)" if metric != found.variable else "")
    chosen = (
        " Intervals don't allow for the choice of the best of many nodes; q does, within a site."
        if any(node.low is not None for node in found.nodes)
        else ""
    )
    return f"The best node is the one with the {which} {named}, over all sites.{chosen}{some}{none} {answer}"


def _title(node: TopNode) -> str:
    where = f"node {node.node} of {node.site}"
    return f"{node.class_name}: {where}" if node.class_name is not None else f"{where[0].upper()}{where[1:]}"


def _text(found: Top, first: TopNode, others: Sequence[TopNode]) -> str:
    text = f"{found.variable} {_value(first)}"
    then = ", ".join(f"node {each.node} of {each.site} ({_value(each)})" for each in others)
    return f"{text}; then {then}." if then else f"{text}."


def _value(node: TopNode) -> str:
    """The value of a node, with its interval and its q-value where they were measured."""
    text = shown(node.value)
    text += "" if is_missing(node.low) else f", {shown(node.low)} to {shown(node.high)}"
    return text + ("" if is_missing(node.q) else f", q {shown(node.q)}")


def _picture(subject: Subject, node: TopNode) -> plot.Drawing | None:
    """The distributions at a node, where they were measured."""
    key = next(k for k, group in subject.measured.children.items() if group.attrs.get("site", k) == node.site)
    has_cells = set(map(str, subject.measured.children[key].data_vars)) >= _HISTOGRAM
    return plot.distributions(subject.measured, key, [node.node]) if has_cells else None
