"""The one number of a site in each repeat, from the variable of a metric's headline.

Where that compares sites, (site, site_b), each site has one: the mean over the others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from probekit._results.headlines import headline_value, spread_over_classes
from probekit.metrics import Headline, Metric
from probekit.metrics.block import Array

__all__ = ["REPEAT", "describes_classes", "dims_of_numbers", "headline_of", "numbers_of"]

REPEAT = "repeat"  # the dim of values that are kept for every repeat


def headline_of(metric: Metric, variable: str) -> Headline:
    return getattr(metric, "headline", None) or Headline(variable, "mean", "")


def describes_classes(headline: Headline, dims: tuple[str, ...]) -> bool:
    """Whether a headline describes each class by itself, so that its mean over the classes says nothing of labels."""
    return headline.neutral is None and "label" in dims and "label_b" not in dims


def dims_of_numbers(dims: tuple[str, ...]) -> tuple[str, ...]:
    """The dims of the one number in each repeat, but for that of the repeats."""
    return ("site",) if "site_b" in dims else ()


def numbers_of(headline: Headline, dims: tuple[str, ...], *, spread: bool) -> Callable[[Array], Array]:
    """A function that makes one number of a site, (repeat,), of the values of the headline's variable, (repeat, *dims).

    It is what the headline says, or how far the classes are apart in it, for the `spread`.
    """
    number = spread_over_classes if spread else headline_value

    def numbers(values: Array) -> Array:
        data = xr.DataArray(values, dims=(REPEAT, *dims))
        if "site_b" in dims:
            others = ~np.eye(data.sizes["site"], dtype=bool)
            data = data.where(xr.DataArray(others, dims=("site", "site_b")))
        found: Array = number(data, headline, keep=(REPEAT, *dims_of_numbers(dims))).values
        return found

    return numbers
