"""The observations of each site that are measured: of the selected samples, without NaN, as many of every class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import xarray as xr

from probekit._measure.grouping import Groups, Observations, Where, selected
from probekit._measure.resampling.balance import Balance
from probekit._measure.site_source import Source
from probekit.errors import DataError

__all__ = ["Observed", "differences"]


@dataclass(frozen=True)
class Observed:
    """What is asked for of the observations of sites in a tree with this `root`.

    They are those of the samples that `where` selects, in the groups of the column `by`. With `omit`, those with a NaN
    are left out; with a `balance`, as many of every class are taken of what is left.
    """

    root: xr.Dataset
    by: str | None
    where: Where | None = None
    omit: bool = False
    balance: Balance | None = None
    _selected: dict[object, Observations] = field(default_factory=dict, init=False, repr=False)
    _with_nan: dict[object, npt.NDArray[np.bool_]] = field(default_factory=dict, init=False, repr=False)

    def selected(self, sources: Mapping[str, Source]) -> dict[str, Observations]:
        """All that `where` selects, by the sites' keys.

        Raises DataError where they can't be grouped, or are to be balanced and have no groups.
        """
        return {key: self._selected_of(source) for key, source in sources.items()}

    def of_each(self, sources: Mapping[str, Source]) -> dict[str, Observations]:
        """Those that are measured at each site, by the sites' keys.

        Raises DataError where none is left, or where they can't be balanced.
        """
        return {key: self._chosen(source, [source], source.name) for key, source in sources.items()}

    def common(self, sources: Sequence[Source]) -> Observations:
        """Those that are measured of all sites; DataError where the sites' observations aren't the same."""
        fault = next(differences(sources, self.root), None)
        if fault is not None:
            raise DataError(
                f"Metrics that compare sites need the same observations of all of them, and {fault}. Choose sites that "
                "have a row for each sample (sites=), or measure positions='mean'.",
                arguments=("sites", "positions"),
            )
        return self._chosen(sources[0], sources, "all together")

    def _chosen(self, source: Source, sources: Sequence[Source], named: str) -> Observations:
        """The observations of a site that none of the `sources` has a NaN in."""
        rows = self._selected_of(source)
        if self.omit:
            rows = rows.without(np.any([self._nan(each) for each in sources], axis=0), named)
        return rows if self.balance is None else self.balance.of(source, self.root, rows)

    def _selected_of(self, source: Source) -> Observations:
        columns = source.columns(self.root)
        # The same rows of several sites are put in order once.
        alike = columns.are_the_roots and source.real is None
        kind = source.each if alike else (source.key, source.each)
        if kind not in self._selected:
            kept = selected(columns, source.rows, self.where)
            groups = Groups.of(columns, source.rows, self.by, self.where, kept)
            rows = Observations.of(source, groups, kept)
            if self.balance is not None:
                self.balance.check(rows)
            self._selected[kind] = rows
        return self._selected[kind]

    def _nan(self, source: Source) -> npt.NDArray[np.bool_]:
        """Which observations of a site have a NaN, for which it is read once."""
        kind = source.key, source.pooling if source.positions > 1 else ""
        if kind not in self._with_nan:
            self._with_nan[kind] = source.with_nan()
        return self._with_nan[kind]


def differences(sources: Sequence[Source], root: xr.Dataset) -> Iterator[str]:
    """How the observations of sites differ, as clauses."""
    first, columns = sources[0], sources[0].columns(root)
    for source in sources:
        if source.tokens:
            yield f"site {source.name!r} has a row for each token"
        if source.each != first.each or not np.array_equal(_real(source), _real(first)):
            yield "the sites differ in their positions"
        if source.rows != first.rows:
            yield f"site {source.name!r} has {source.rows} samples, and site {first.name!r} {first.rows}"
        for column in source.columns(root).differing_from(columns):
            yield f"sites {first.name!r} and {source.name!r} differ in the {column!r} of their samples"


def _real(source: Source) -> npt.NDArray[np.bool_]:
    """Which observations are no padding; nothing where all are."""
    return np.empty(0, np.bool_) if source.real is None else source.real
