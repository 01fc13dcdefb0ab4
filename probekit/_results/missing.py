"""Why values of results are missing: one sentence for all metrics that miss theirs for the same reason."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import xarray as xr

from probekit._results.headlines import headlines_of
from probekit.errors import MissingWarning
from probekit.metrics import Headline

__all__ = ["Missing", "at_sites", "classes_of", "explained", "missing_in", "said_elsewhere", "warn_of_missing"]

_NAMED = 3  # sites that a sentence names
_SPARE = {"fisher": 3}  # how many samples more than classes a metric needs that others are exchanged for
_COMPARE = "they compare classes, and"
_ALONE = f"{_COMPARE} there is one"
_NOT_GROUPED = f"{_COMPARE} the samples are not grouped"
_ADVICE = {
    _ALONE: ": group by another column (by=), or take metrics of no classes",
    _NOT_GROUPED: ": the store has no labels, or by=None was given",
}


@dataclass(frozen=True)
class Missing:
    """How many of the values of a headline's variable are missing at a site, `missing` of its `size`.

    They are of `n` samples in so many `classes`, 0 where they weren't grouped; None where the results don't tell.
    """

    metric: str
    site: str
    missing: int
    size: int
    n: int | None
    classes: int | None


def explained(found: Iterable[Missing], headlines: Mapping[str, Headline], *, of_stores: bool = False) -> Iterator[str]:
    """A sentence for each reason that values are missing, and what is there instead; `headlines` by metric.

    `of_stores` leaves out how one measurement may be grouped otherwise.
    """
    reasons: dict[str, list[Missing]] = {}
    for each in found:
        if each.missing:
            reasons.setdefault(_reason(each, headlines[each.metric]), []).append(each)
    for reason, those in reasons.items():
        why = reason + ("" if of_stores else _ADVICE.get(reason, ""))
        names = list(dict.fromkeys(headlines[each.metric].variable for each in those))
        missing, size = sum(each.missing for each in those), sum(each.size for each in those)
        if len(names) > 1:
            why = why.replace("it needs", "they need", 1)
        else:
            why = why.replace("they compare", "it compares", 1)
        said = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} missing for {missing:,} of {size:,} values"
        at = at_sites(each.site for each in those)
        compared = any(headlines[each.metric].classes > 1 for each in those)
        yield f"{said} at {at}{f': {why}' if why else ''}{_there(those) if compared else ''}."


def _reason(each: Missing, headline: Headline) -> str:
    """Why values are missing: for want of classes, else as the metric says, with what does better with the samples."""
    if headline.classes > 1 and each.missing == each.size and each.classes in (0, 1):
        return _ALONE if each.classes else _NOT_GROUPED
    spare = _SPARE.get(headline.otherwise, 0)
    helps = each.n is None or each.classes is None or each.n >= each.classes + spare
    return headline.missing + (f"; otherwise use {headline.otherwise}" if headline.otherwise and helps else "")


def _there(those: list[Missing]) -> str:
    """How many samples the classes have, where there may be too few of either and nothing was found."""
    numbers = {(each.n, each.classes) for each in those}
    if len(numbers) > 1 or any(each.missing < each.size for each in those):
        return ""
    n, classes = numbers.pop()
    return f" (here {classes:,} classes have {n:,} samples)" if n is not None and classes and classes > 1 else ""


def at_sites(sites: Iterable[str]) -> str:
    """The first sites by name, and the number of the others."""
    those = list(dict.fromkeys(sites))
    named, more = ", ".join(those[:_NAMED]), len(those) - _NAMED
    return f"{named} and {more} more" if more > 0 else named


def classes_of(tree: xr.DataTree) -> int | None:
    """The number of classes that were measured, None where no variable has them."""
    return next((group.sizes["label"] for group in (*tree.children.values(), tree) if "label" in group.sizes), None)


@contextmanager
def said_elsewhere() -> Iterator[None]:
    """No `MissingWarning` inside: of parts of what was asked for, or where a summary that follows says it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingWarning)
        yield


def missing_in(results: xr.DataTree, headlines: Mapping[str, Headline]) -> Iterator[list[Missing]]:
    """How many values of each metric are missing at each of its sites."""
    for metric, headline in headlines.items():
        groups = [(str(each.attrs.get("site", key)), each) for key, each in results.children.items()]
        groups = [(site, each) for site, each in groups if headline.variable in each.data_vars]
        if headline.variable in results.data_vars and results.sizes.get("site") != 1:  # alone it has none to compare
            groups = [("all sites", results)]
        variables = [(site, group[headline.variable]) for site, group in groups]
        yield [
            Missing(metric, site, int(of.isnull().sum()), of.size, of.attrs.get("n"), of.attrs.get("classes"))
            for site, of in variables
        ]


def warn_of_missing(results: xr.DataTree) -> None:
    """Warn of metrics that have no number at any site: once for each reason."""
    headlines = headlines_of(results)
    nowhere = [found for found in missing_in(results, headlines) if all(each.missing == each.size for each in found)]
    said = list(explained((each for found in nowhere for each in found), headlines))
    if said:
        warnings.warn(" ".join(said), MissingWarning, stacklevel=3)
