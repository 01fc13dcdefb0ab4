"""What a reader of results should be wary of, a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from probekit._results.summary import Summary
from probekit.report.subject import Subject

__all__ = ["cautions"]

FEW = 30  # samples of a class, below which its numbers say little
_NAMED = 4  # sites or classes that a sentence names
_ERRORS = ("value_error", "rank_error", "error_bound")
_CROWDED = ("coarse_nodes", "cell_share")


def cautions(subject: Subject, summary: Summary) -> list[str]:
    """Every caution that holds, the weightiest first."""
    return [
        *_random_weights(subject),
        *_few_samples(subject),
        *_dead(subject),
        *_missing(summary),
        *_omitted(summary),
        *_approximate(subject),
    ]


def _random_weights(subject: Subject) -> Iterator[str]:
    origin = str(subject.attrs.get("weights_from", ""))
    if origin.startswith("random"):
        yield (
            "The model was never trained: its weights are random. What its nodes tell apart comes from the input "
            "and from chance."
        )
    elif origin.endswith("changed since they were loaded"):
        yield f"The model's weights aren't those that its name says: {origin}."


def _few_samples(subject: Subject) -> Iterator[str]:
    few = {name: count for name, count in (subject.class_samples or {}).items() if count < FEW}
    if few:
        named = [f"{name} ({count})" for name, count in few.items()]
        yield (
            f"{len(few)} of {len(subject.classes)} classes have fewer than {FEW} samples, {_some(named)}: what is "
            "measured of them is rough."
        )


def _dead(subject: Subject) -> Iterator[str]:
    """Nodes that never change; where no metric looked for them, those that are off for every sample."""
    constant, off = {}, {}
    for key, group in subject.measured.children.items():
        site = str(group.attrs.get("site", key))
        known = next((group[name] for name in ("overlap_constant", "auroc_constant") if name in group), None)
        if known is not None:
            constant[site] = int(known.sum()), known.size
        elif "dead" in group and int(group["dead"]):
            off[site] = int(group["dead"]), round(float(group["dead"] / group["dead_share"]))
        elif "sparsity_node" in group:
            off[site] = int((group["sparsity_node"] == 1).sum()), group["sparsity_node"].size
    yield from _counted(constant, "the same value for every sample")
    yield from _counted(off, "no sample that turns them on")


def _counted(found: Mapping[str, tuple[int, int]], what: str) -> Iterator[str]:
    """How many nodes have something, of how many, by site."""
    named = [f"{count} of {size} at {site}" for site, (count, size) in found.items() if count]
    total = sum(count for count, _ in found.values())
    if named:
        yield f"{total} node{'s have' if total > 1 else ' has'} {what}: {_some(named)}."


def _missing(summary: Summary) -> Iterator[str]:
    """The notes of a summary that say why values are missing."""
    yield from summary.notes[len(summary.headlines) :]


def _omitted(summary: Summary) -> Iterator[str]:
    left_out = {each.site: each.omitted for each in summary.readings if each.omitted}
    if left_out:
        named = [f"{count} at {site}" for site, count in left_out.items()]
        yield f"Samples with a NaN in their activations were left out: {_some(named)}."


def _approximate(subject: Subject) -> Iterator[str]:
    """Live results are exact up to so many samples; beyond, their attributes bound the error."""
    worst, crowded = dict[str, dict[str, float]](), dict[str, tuple[float, float]]()
    for key, group in subject.measured.children.items():
        for attrs in (variable.attrs for variable in group.data_vars.values()):
            if attrs.get("approximate"):
                known = worst.setdefault(str(attrs["metric"]), {})
                known |= {name: max(known.get(name, 0.0), _largest(attrs, name)) for name in _ERRORS if name in attrs}
            if _largest(attrs, "coarse_nodes"):
                site, found = str(group.attrs.get("site", key)), [_largest(attrs, name) for name in _CROWDED]
                crowded[site] = max((found[0], found[1]), crowded.get(site, (0.0, 0.0)))
    if worst:
        named = [f"{metric} within {_said(errors)}" for metric, errors in worst.items()]
        yield f"Measured while the model ran, and approximate: {_some(named)}. A store gives exact values."
    if crowded:
        named = [f"{site} ({nodes:g} nodes, up to {share:.1%})" for site, (nodes, share) in crowded.items()]
        yield (
            "More than 1 % of the samples of two classes couldn't be told apart while the model ran, so that metrics "
            f"which compare classes may be off by as much: {_some(named)}."
        )


def _largest(attrs: Mapping[str, Any], name: str) -> float:
    return float(np.max(attrs.get(name, 0)))


def _said(errors: Mapping[str, float]) -> str:
    if "error_bound" in errors:
        return f"{errors['error_bound']:.2g}"
    rank = f" and {errors['rank_error']:.2g} of the samples" if errors.get("rank_error") else ""
    return f"{errors.get('value_error', 0):.2g} of a value{rank}"


def _some(named: Sequence[str]) -> str:
    """The first of several, and how many more there are."""
    more = len(named) - _NAMED
    return ", ".join([*islice(named, _NAMED), *([f"and {more} more"] if more > 0 else [])])
