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

__all__ = ["Missing", "at_sites", "classes_of", "explained", "said_elsewhere", "warn_of_missing"]

_NAMED = 3  # sites that a sentence names
_FISHER = 3  # how many samples more than classes fisher needs
_ALONE = "they compare classes, and there is one: group by another column (by=), or take metrics of no classes"


@dataclass(frozen=True)
class Missing:
    """How many of the values of a headline's variable are missing at a site, `missing` of its `size`, of n samples."""

    metric: str
    site: str
    missing: int
    size: int
    n: int | None


def explained(found: Iterable[Missing], headlines: Mapping[str, Headline], classes: int | None) -> Iterator[str]:
    """A sentence for each reason that values are missing, and what is there instead; `headlines` by metric."""
    reasons: dict[str, list[Missing]] = {}
    for each in found:
        if each.missing:
            headline = headlines[each.metric]
            alone = classes == 1 < headline.classes and each.missing == each.size
            reasons.setdefault(_ALONE if alone else headline.missing, []).append(each)
    for why, those in reasons.items():
        names = list(dict.fromkeys(headlines[each.metric].variable for each in those))
        missing, size = sum(each.missing for each in those), sum(each.size for each in those)
        if len(names) > 1:
            why = why.replace("it needs", "they need", 1)
        elif why == _ALONE:
            why = why.replace("they compare", "it compares", 1)
        said = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} missing for {missing:,} of {size:,} values"
        at = at_sites(each.site for each in those)
        compared = any(headlines[each.metric].classes > 1 for each in those)
        there = _there(those, classes) if compared and classes and classes > 1 else ""
        if there and "use fisher" in why and classes and (those[0].n or 0) < classes + _FISHER:
            why = why.rpartition("; ")[0]
        yield f"{said} at {at}{f': {why}' if why else ''}{there}."


def _there(those: list[Missing], classes: int) -> str:
    """How many samples the classes have, where there may be too few of either and nothing was found."""
    numbers = {each.n for each in those}
    if any(each.missing < each.size for each in those):
        return ""
    number = numbers.pop() if len(numbers) == 1 else None
    return "" if number is None else f" (here {classes:,} classes have {number:,} samples)"


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


def warn_of_missing(results: xr.DataTree) -> None:
    """Warn of metrics that have no number at any site: once for each reason."""
    headlines, found = headlines_of(results), list[Missing]()
    for metric, headline in headlines.items():
        groups = [(str(each.attrs.get("site", key)), each) for key, each in results.children.items()]
        groups = [(site, each) for site, each in groups if headline.variable in each.data_vars]
        if headline.variable in results.data_vars and results.sizes.get("site") != 1:  # alone it has none to compare
            groups = [("all sites", results)]
        variables = [(site, group[headline.variable]) for site, group in groups]
        if variables and all(variable.size and variable.isnull().all() for _, variable in variables):
            sizes = ((site, variable.size, variable.attrs.get("n")) for site, variable in variables)
            found += [Missing(metric, site, size, size, n) for site, size, n in sizes]
    said = list(explained(found, headlines, classes_of(results)))
    if said:
        warnings.warn(" ".join(said), MissingWarning, stacklevel=3)
