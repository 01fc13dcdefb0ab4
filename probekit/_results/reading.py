"""The headline of one metric at one site: its number, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass

import xarray as xr

from probekit._results.estimates import in_words
from probekit._results.headlines import (
    FALSE_SHARE,
    adjusted_of,
    beside_of,
    headline_value,
    interval_name,
    of_site,
    over,
)
from probekit.metrics import Headline

__all__ = ["Q_NAME", "Reading", "reading_of"]

Q_NAME = f"q < {FALSE_SHARE:g}"  # what discoveries are called in tables


@dataclass(frozen=True)
class Reading:
    """The headline of one metric at one site.

    `value` is one number for the site, from the values of `variable` as `over` says; `beside` is that of the variable
    `beside_name`, which belongs beside it: a chance level, or else the mean of its null. Where they were measured:

    - `p` is the p-value of what `p_of` says, the site's number unless that describes the classes one by one;
    - `discoveries` of the `tested` values of the variable `q_of`, those of nodes or of each class at each node, have a
      q-value below 0.05: they differ from shuffled labels, and of those of one class at most 5 % are expected to do so
      by chance (Benjamini and Hochberg 1995). There are none unless `q_needs` nodes have the least p-value that so many
      shuffles give, and none at all where it is None beside discoveries: so few shuffles find nothing;
    - `low` and `high` are the ends of the number's interval, of that `confidence`; `no_interval` says why they are NaN,
      if they are.

    `n` observations in so many `classes` were measured, 0 where they weren't grouped, and `omitted` left out for a NaN.
    Of the `size` values of the variable, `missing` are NaN. `positions` says what became of the positions of feature
    maps, such as ``each of 196`` or ``mean of 196``; it is empty where there were none. `estimate` says how it was
    estimated, such as ``corrected for few samples, in 10 bins``; it is empty where there is no choice.
    """

    site: str
    metric: str
    variable: str
    value: float
    over: str
    beside: float | None
    beside_name: str | None
    p: float | None
    p_of: str | None
    q_of: str | None
    discoveries: int | None
    tested: int | None
    q_needs: int | None
    low: float | None
    high: float | None
    confidence: float | None
    no_interval: str
    n: int | None
    classes: int | None
    omitted: int
    size: int
    missing: int
    positions: str
    estimate: str

    @property
    def interval(self) -> str | None:
        """What the interval is called, such as ``95% interval``; None where there is none."""
        return None if self.confidence is None else interval_name(self.confidence)

    @property
    def found(self) -> str | None:
        """The discoveries in words, such as ``6 of 16``; None where there were no q-values."""
        return None if self.q_of is None else f"{self.discoveries:,} of {self.tested:,}"


def reading_of(data: xr.Dataset, site: str, metric: str, headline: Headline) -> Reading:
    """That of a site's `data`, in which what compares it with the other sites has the dim ``site_b``."""
    variable, q = data[headline.variable], adjusted_of(data, metric, headline)
    beside = beside_of(data, headline)
    p, low, high = (of_site(data, headline.variable, ending) for ending in ("p", "low", "high"))
    return Reading(
        site=site,
        metric=metric,
        variable=headline.variable,
        value=headline_value(variable, headline).item(),
        over=over(variable, headline),
        beside=None if beside is None else headline_value(data[beside], headline).item(),
        beside_name=beside,
        p=None if p is None else float(p),
        p_of=None if p is None else str(p.attrs.get("over", "")),
        q_of=None if q is None else str(q.attrs["of"]),
        discoveries=None if q is None else int((q < FALSE_SHARE).sum()),
        tested=None if q is None else int(q.notnull().sum()),
        q_needs=None if q is None else _needed(q),
        low=None if low is None else float(low),
        high=None if high is None else float(high),
        confidence=None if low is None else float(low.attrs["confidence"]),
        no_interval="" if low is None else str(low.attrs.get("no_interval", "")),
        n=variable.attrs.get("n"),
        classes=variable.attrs.get("classes"),
        omitted=variable.attrs.get("omitted", 0),
        size=variable.size,
        missing=int(variable.isnull().sum()),
        positions=str(variable.attrs.get("positions", "")),
        estimate=in_words(variable.attrs, headline),
    )


def _needed(q: xr.DataArray) -> int | None:
    """How many nodes have to have the least p-value at once, for their q-values to be counted; None for too many."""
    least, nodes = 2 / (1 + int(q.attrs["repeats"])), int(q.notnull().sum("node").max())
    needed = int(least * nodes / FALSE_SHARE) + 1
    return needed if needed <= max(1, nodes) else None
