"""Which observations of a site are measured, and the group of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from probekit._measure.site_source import Source
from probekit._results.assemble import Labels
from probekit._store.layout import CLASS_NAME, ROW, SAMPLE
from probekit.errors import DataError, near
from probekit.metrics.block import Array, Codes, Grouping

__all__ = ["Groups", "Observations", "Where", "selected"]

Where: TypeAlias = Mapping[str, Any] | npt.ArrayLike | xr.DataArray
Mask: TypeAlias = npt.NDArray[np.bool_]

_CORRECT = ("correct", "prediction", "label")  # a column that follows from the two others


@dataclass(frozen=True)
class Groups:
    """The group of each sample as a code, and what the groups are called."""

    by: str | None
    codes: Codes
    labels: Labels

    @classmethod
    def of(cls, store: xr.Dataset, by: str | None) -> Groups:
        """The samples of a store's root grouped by one of its columns.

        The groups of `label` are all its classes, those without samples too; of another column, the values it has.
        There is a single group for `by` None, and by label where the store has none. Where a store has a `prediction`
        and a `label`, `correct` tells whether they agree.

        Raises:
            DataError: there is no such column, it isn't one of integers, bools or strings, or there are no samples.
        """
        if SAMPLE not in store.sizes or not store.sizes[SAMPLE]:
            raise DataError("The store holds no samples, so there is nothing to measure.")
        if by is None or (by == "label" and by not in store.variables):
            return cls(None, np.zeros(store.sizes[SAMPLE], np.int64), Labels(None, ("",)))
        values = _column(store, by)
        if by == "label" and CLASS_NAME in store.variables:
            return cls._of_classes(values, tuple(map(str, store.variables[CLASS_NAME].values)))
        if values.dtype.kind not in "iubO":
            raise DataError(
                f"Samples can't be grouped by {by!r}: its values are {values.dtype}, not codes or names.",
                arguments=("by",),
            )
        labels, codes = np.unique(values, return_inverse=True)
        return cls(by, codes.astype(np.int64), Labels(labels, tuple(map(str, labels))))

    def of_tokens(self, site: xr.Dataset) -> Groups:
        """The same groups of the rows of a token site, which has the samples' columns beside each row."""
        if self.by is None or self.labels.values is None:
            return replace(self, codes=np.zeros(site.sizes[ROW], np.int64))
        codes = np.searchsorted(self.labels.values, _column(site, self.by, ROW))
        return replace(self, codes=codes.astype(np.int64))

    @classmethod
    def _of_classes(cls, codes: Array, names: tuple[str, ...]) -> Groups:
        if codes.min() < 0 or codes.max() >= len(names):
            raise DataError(
                f"Labels go from {codes.min()} to {codes.max()}, but the store names {len(names)} classes, "
                f"0 to {len(names) - 1}."
            )
        return cls("label", codes.astype(np.int64), Labels(np.arange(len(names)), names))


def _column(store: xr.Dataset, name: str, dim: str = SAMPLE) -> Array:
    columns = [str(column) for column, variable in store.variables.items() if variable.dims == (dim,)]
    derived, *sources = _CORRECT
    if name == derived not in columns and {*sources} <= {*columns}:
        agree: Array = store.variables[sources[0]].values == store.variables[sources[1]].values
        return agree
    if name not in columns:
        raise DataError(
            f"The store has no column {name!r} to group or choose samples by; it has {', '.join(columns) or 'none'}."
            f"{near(name, columns)} Or group by none with by=None.",
            arguments=("by", "where"),
        )
    values = store.variables[name].values
    return values.astype(object) if values.dtype.kind in "UT" else values


def selected(store: xr.Dataset, where: Where | None) -> Mask | None:
    """Which samples of a store's root `where` selects, (sample,) bool; None where that is all of them.

    Raises:
        DataError: a column that there isn't, a mask that doesn't fit the samples, or no sample is left.
    """
    if where is None:
        return None
    mask = _mask(where, store.sizes[SAMPLE]) if not isinstance(where, Mapping) else _matching(store, where)
    if not mask.any():
        raise DataError(
            f"where={where!r} selects none of the {len(mask)} samples, so there is nothing to measure.",
            arguments=("where",),
        )
    return mask


def _matching(store: xr.Dataset, where: Mapping[str, Any]) -> Mask:
    """The samples whose columns have the values, or one of the values, that `where` gives."""
    mask = np.ones(store.sizes[SAMPLE], dtype=bool)
    for name, wanted in where.items():
        mask &= np.isin(_column(store, name), np.atleast_1d(np.asarray(wanted)))
    return mask


def _mask(where: Any, samples: int) -> Mask:
    mask = np.asarray(where)
    if mask.dtype != bool or mask.shape != (samples,):
        raise DataError(
            f"where= takes a mask of {samples} bools, one per sample, or a mapping of columns to the values that are "
            f"wanted; it is {mask.dtype} of shape {mask.shape}.",
            arguments=("where",),
        )
    return mask


@dataclass(frozen=True)
class Observations:
    """The observations of a site that are measured: `codes` has the group of each, `numbers` its row in the store.

    `kept` (observation) tells them among all that the site has; it is None where all are measured. `omitted` of the
    others were left out for a NaN.
    """

    labels: Labels
    codes: Codes
    numbers: Codes
    kept: Mask | None = None
    omitted: int = 0

    @classmethod
    def of(cls, source: Source, groups: Groups, samples: Mask | None, root: xr.Dataset) -> Observations:
        """The observations of the `samples` that are selected."""
        kept = samples
        if source.tokens:
            groups = groups.of_tokens(source.site)
            kept = samples if samples is None else samples[_sample_of_each_row(source.site, root)]
        everything = cls(groups.labels, groups.codes, np.arange(source.rows))._repeated(source.each)
        return everything if kept is None else everything._those(np.repeat(kept, source.each))

    def without(self, nan: Mask, site: str) -> Observations:
        """These, but for the observations with a NaN; `nan` (observation) is for all that the `site` has.

        Raises DataError if none is left.
        """
        if not nan.any():
            return self
        at = np.zeros(len(nan), np.int64)
        at[np.flatnonzero(self.kept) if self.kept is not None else slice(None)] = np.arange(len(self.codes))
        kept = ~nan if self.kept is None else self.kept & ~nan
        places = at[kept]
        omitted = len(self.codes) - len(places)
        if not len(places):
            raise DataError(f"Site {site!r}: all {omitted} observations hold a NaN, so there is nothing to measure.")
        return replace(self, codes=self.codes[places], numbers=self.numbers[places], kept=kept, omitted=omitted)

    def _repeated(self, each: int) -> Observations:
        if each == 1:
            return self
        return replace(self, codes=np.repeat(self.codes, each), numbers=np.repeat(self.numbers, each))

    def _those(self, kept: Mask) -> Observations:
        return replace(self, codes=self.codes[kept], numbers=self.numbers[kept], kept=kept)

    @property
    def number(self) -> int:
        return len(self.codes)

    @cached_property
    def grouping(self) -> Grouping:
        return Grouping.of(self.codes, self.labels.number)

    def read(self, source: Source, start: int, stop: int) -> Iterator[tuple[int, Array, Codes]]:
        """Those of the nodes `start` to `stop`, in order: (number of the first one, values, their groups)."""
        first_chosen = 0
        for first, x in source.read(start, stop):
            chosen = x if self.kept is None else x[self.kept[first : first + len(x)]]
            yield first_chosen, chosen, self.codes[first_chosen : first_chosen + len(chosen)]
            first_chosen += len(chosen)


def _sample_of_each_row(site: xr.Dataset, root: xr.Dataset) -> Codes:
    """The index of each token's sample among the samples, by its id."""
    ids, rows = root.variables["sample_id"].values, site.variables["sample_id"].values
    unique, places = np.unique(ids, return_index=True)
    if len(unique) < len(ids):
        raise DataError(
            "Samples that share an id can't be told apart by their tokens, so where= can't choose them.",
            arguments=("where",),
        )
    found: Codes = places[np.searchsorted(unique, rows)]
    return found
