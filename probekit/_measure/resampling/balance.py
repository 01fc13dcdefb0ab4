"""As many samples of every class."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from probekit._measure.grouping import Observations
from probekit._measure.resampling.units import Units
from probekit._measure.site_source import Source
from probekit.errors import DataError

__all__ = ["Balance"]

_BALANCE = 3  # what random numbers are for, as those of `draws`


@dataclass(frozen=True)
class Balance:
    """As many samples of every class as the smallest has that has any, drawn by `seed`.

    Rows that belong `together` are taken together.
    """

    together: str | None
    seed: int

    def check(self, rows: Observations) -> None:
        """Raise DataError where there are no classes."""
        if rows.labels.values is None:
            raise DataError(
                "balance=True takes as many samples of every class, and the samples are not grouped (by=).",
                arguments=("balance", "by"),
            )

    def of(self, source: Source, root: xr.Dataset, rows: Observations) -> Observations:
        """Those of the observations that are taken; DataError where the rows of a sample have several classes."""
        units = Units.find(source, source.columns(root), rows, None, self.together)
        if units.labels is None:
            raise DataError(
                f"Site {source.name!r}: rows of one {units.called} are in different groups, so as many {units.called}s "
                "of each can't be taken. Give together='row' to take rows by themselves.",
                arguments=("balance", "together"),
            )
        order = np.random.default_rng([self.seed, _BALANCE]).permutation(units.number)
        order = order[np.argsort(units.labels[order], kind="stable")]
        counts = np.bincount(units.labels)
        least = int(counts[counts > 0].min())
        turn = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        taken = np.zeros(units.number, np.bool_)
        taken[order[turn < least]] = True
        return replace(rows.only(taken[units.of]), of_class=least)
