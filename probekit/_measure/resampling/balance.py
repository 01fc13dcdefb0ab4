"""As many samples of every class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import xarray as xr

from probekit._measure.grouping import Observations
from probekit._measure.resampling.units import Units
from probekit._measure.site_source import Source
from probekit.errors import DataError

__all__ = ["balanced"]

_BALANCE = 3  # what random numbers are for, as those of `draws`


def balanced(
    sources: Mapping[str, Source], root: xr.Dataset, rows: Mapping[str, Observations], together: str | None, seed: int
) -> tuple[dict[str, Observations], dict[str, int]]:
    """The observations of as many samples of every class, and how many samples that is, by the sites' names.

    They are as many as the smallest class has that has any; rows that belong `together` are taken together.

    Raises DataError where there are no classes, or the rows of a sample have several.
    """
    found, each_class = {}, {}
    for key, source in sources.items():
        if rows[key].labels.values is None:
            raise DataError(
                "balance=True takes as many samples of every class, and the samples are not grouped (by=).",
                arguments=("balance", "by"),
            )
        units = Units.find(source, source.columns(root), rows[key], None, together)
        taken, each_class[source.name] = _taken(units, seed, source.name)
        found[key] = rows[key].only(taken)
    return found, each_class


def _taken(units: Units, seed: int, site: str) -> tuple[npt.NDArray[np.bool_], int]:
    if units.labels is None:
        raise DataError(
            f"Site {site!r}: rows of one {units.called} are in different groups, so as many {units.called}s of each "
            "can't be taken. Give together='row' to take rows by themselves.",
            arguments=("balance", "together"),
        )
    order = np.random.default_rng([seed, _BALANCE]).permutation(units.number)
    order = order[np.argsort(units.labels[order], kind="stable")]
    counts = np.bincount(units.labels)
    least = int(counts[counts > 0].min())
    turn = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    taken = np.zeros(units.number, np.bool_)
    taken[order[turn < least]] = True
    found: npt.NDArray[np.bool_] = taken[units.of]
    return found, least
