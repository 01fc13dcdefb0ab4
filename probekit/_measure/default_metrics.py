"""The metrics that fit a store, where none are named: which, why, and which were left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf, isfinite
from typing import TypeAlias

import numpy as np

from probekit._measure.grouping import Observations
from probekit._measure.positions import at_capture
from probekit._measure.site_source import Source
from probekit._store.sample_columns import SAMPLE_ID

__all__ = ["default_metrics"]

Verdict: TypeAlias = tuple[str, str, str]  # a metric, why it is measured, and why it is left out, or nothing

_WIDEST = 2048  # nodes whose table of all pairs is still made in seconds
_MOST_SITES = 32  # of which all pairs are compared
_FEW = 10  # samples of a class, below which auroc and overlap leave it out
_MANY = 1000  # samples of a class, from which few samples no longer lower the overlap much


def default_metrics(
    sources: Sequence[Source], rows: Mapping[str, Observations], comparable: bool, target: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """The metrics that fit, each with the reason, and those that were left out, each with the reason.

    `comparable` says whether all sites have the same observations; `target` is the column of numbers that is given.
    """
    chosen = {"mean": "where the values lie", "std": "how far they spread"}
    left_out: dict[str, str] = {}
    for name, reason, fault in (
        *_of_bounds(sources),
        *_of_classes(sources, rows),
        *_of_whole_sites(sources, comparable),
        *_of_target(sources, target),
    ):
        (left_out if fault else chosen)[name] = fault or reason
    return chosen, left_out


def _of_bounds(sources: Sequence[Source]) -> Iterator[Verdict]:
    bounds = [source.bounds or (-inf, inf) for source in sources]
    pooled = next((each for each in sources if at_capture(each.attrs)), None)
    has = "" if pooled is None else f"site {pooled.name!r} has only the {at_capture(pooled.attrs)}"
    fault = has and f"it counts each position, and {has}"
    if any(low == 0 for low, _ in bounds):
        yield "sparsity", "there are sites whose least value is 0", fault
    if all(isfinite(low) and isfinite(high) for low, high in bounds):
        yield "saturation", "every site has two bounds", fault


def _of_classes(sources: Sequence[Source], rows: Mapping[str, Observations]) -> Iterator[Verdict]:
    counts = [np.bincount(rows[each.key].codes, minlength=rows[each.key].labels.number) for each in sources]
    grouped = all(rows[each.key].labels.values is not None for each in sources)
    enough = grouped and min(int((each >= _FEW).sum()) for each in counts) > 1
    why = "" if enough else f"there are no two classes with {_FEW} samples" if grouped else "there are no labels"
    least = min(int(each[each >= _FEW].min()) for each in counts) if enough else 0
    yield "auroc", "how well single nodes tell the classes", why
    if least < _MANY and enough:
        reason = f"how much the classes overlap, beside its null: the smallest class has {least} samples"
        yield "overlap:null='permute'", reason, ""
    else:
        yield "overlap", "how much the classes overlap at single nodes", why
    negative = next((each.name for each in sources if (each.bounds or (-inf, inf))[0] < 0), None)
    below = f"site {negative!r} may go below 0" if negative is not None else ""
    yield "selectivity", "which nodes answer to one class", why or below
    yield "linear_probe", "how well whole sites tell the classes", why or _unfit_for_probes(sources)


def _of_whole_sites(sources: Sequence[Source], comparable: bool) -> Iterator[Verdict]:
    yield "effective_rank", "how many directions a site uses", _too_wide(sources)
    if len(sources) > 1:
        many = f"there are {len(sources)} sites, more than {_MOST_SITES}" if len(sources) > _MOST_SITES else ""
        apart = "" if comparable else "the sites have different observations"
        yield "cka", "how alike the sites are", apart or many or _too_wide(sources)


def _of_target(sources: Sequence[Source], target: str | None) -> Iterator[Verdict]:
    if target is not None:
        yield "correlation", f"how single nodes follow {target!r}", ""
        yield "ridge_probe", f"how well whole sites tell {target!r}", _unfit_for_probes(sources)


def _unfit_for_probes(sources: Sequence[Source]) -> str:
    if any(source.tokens and SAMPLE_ID not in source.site.variables for source in sources):
        return "nothing tells which tokens are of one sample, which must not be trained on and tested"
    return _too_wide(sources)


def _too_wide(sources: Sequence[Source]) -> str:
    widest = max(sources, key=lambda source: source.nodes)
    if widest.nodes <= _WIDEST:
        return ""
    return f"site {widest.name!r} has {widest.nodes} nodes, more than {_WIDEST}"
