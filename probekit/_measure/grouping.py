"""Which observations of a site are measured, and the group of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from numbers import Number
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from probekit._measure.site_source import Source
from probekit._results.assemble import Labels
from probekit._store.class_names import places_of
from probekit._store.layout import SAMPLE
from probekit._store.sample_columns import SampleColumns
from probekit.errors import DataError
from probekit.metrics.block import Array, Codes, Grouping

__all__ = ["Groups", "Observations", "Where", "selected"]

Where: TypeAlias = Mapping[str, Any] | npt.ArrayLike | xr.DataArray
Mask: TypeAlias = npt.NDArray[np.bool_]

CLASSES = ("label", "prediction")  # columns whose codes are those of the classes
_FEW = 30  # different values of a column, up to which each can be a group
_MOST_RANGES = 64  # that an error proposes
_KINDS = ((str, "strings"), (Number, "numbers"))


@dataclass(frozen=True)
class Groups:
    """The group of each row of a site as a code, and what the groups are called."""

    by: str | None
    codes: Codes
    labels: Labels

    @classmethod
    def of(cls, columns: SampleColumns, rows: int, by: str | None, where: Where | None, kept: Mask | None) -> Groups:
        """The `rows` of a site grouped by one of their columns; `where` selects those that are `kept`.

        The groups of `label` are all its classes, those without samples too; of another column, the values it has; of
        ``target:5``, five ranges of the numbers that the selected samples have in the column `target`, each with as
        many samples as the others, as far as samples that share a value allow it. There is a single group for `by`
        None, and by label where there are none. Where there is a `prediction` and a `label`, `correct` tells whether
        they agree.

        Raises:
            DataError: there is no such column, or it isn't one of integers, bools or strings.
        """
        if by is None or (by == "label" and not columns.has(by)):
            return cls(None, np.zeros(rows, np.int64), Labels(None, ("",)))
        column, colon, bins = by.rpartition(":")
        if colon and not columns.has(by):
            return cls._of_ranges(columns, column, bins, by, where, kept)
        values, names = _column(columns, by, "by"), columns.class_names
        if by == "label" and names is not None and _are_codes(values):
            return cls._of_classes(values.astype(np.int64), names)
        # The values of samples without a row at a site of tokens are groups too.
        everywhere = np.concatenate([values, *(_text(each.values) for each in columns.of_all_samples(by))])
        _check_groups(everywhere, by)
        labels = np.unique(everywhere)
        known = names if by in CLASSES and names is not None and _are_codes_of(labels, names) else None
        called = tuple(str(each) if known is None else known[int(each)] for each in labels)
        return cls(by, np.searchsorted(labels, values).astype(np.int64), Labels(labels, called))

    @classmethod
    def _of_ranges(
        cls, columns: SampleColumns, name: str, bins: str, by: str, where: Where | None, kept: Mask | None
    ) -> Groups:
        """The numbers of a column in ranges between their quantiles; each begins at its lower end."""
        values = _column(columns, name, "by")
        if not bins.isdecimal() or int(bins) < 2 or values.dtype.kind not in "iuf":
            raise DataError(
                f"by is {by!r}, and {name!r} holds {values.dtype}. Ranges of a column of numbers are asked for as "
                "'target:5', for five.",
                arguments=("by",),
            )
        of_samples = _of_selected(columns, name, values, where, kept)
        if not np.isfinite(of_samples).all():
            raise DataError(
                f"{int((~np.isfinite(of_samples)).sum())} samples have no finite {name!r}, so they belong to no range. "
                "Leave them out with where=, by a column that tells them from the others or, in Python, a mask.",
                arguments=("by", "where"),
            )
        edges = _edges(of_samples, int(bins))
        if edges is None:
            raise DataError(_too_few_values(of_samples, name, int(bins)), arguments=("by",))
        labels = tuple(f"{low} to {high}" for low, high in pairwise(_told_apart(edges)))
        codes = np.searchsorted(edges[1:-1], values, side="right").astype(np.int64)
        return cls(by, codes, Labels(np.array(labels), labels))

    @classmethod
    def _of_classes(cls, codes: Codes, names: tuple[str, ...]) -> Groups:
        if codes.min(initial=0) < 0 or codes.max(initial=0) >= len(names):
            raise DataError(
                f"Labels go from {codes.min()} to {codes.max()}, but the store names {len(names)} classes, "
                f"0 to {len(names) - 1}."
            )
        return cls("label", codes, Labels(np.arange(len(names)), names))


def _of_selected(columns: SampleColumns, name: str, values: Array, where: Where | None, kept: Mask | None) -> Array:
    """Of a column, whose values at the rows are given, those of the selected samples; of tokens, one a sample.

    A sample without a row counts, too, unless `where` asks for what only rows have.
    """
    every = [] if name in columns.own else columns.of_all_samples(name)
    if not every:
        return values if kept is None else values[kept]
    of_samples: Array = every[0].values
    asked = where if isinstance(where, Mapping) else ()
    if kept is not None and any(column in columns.own for column in asked):
        return np.asarray(of_samples[np.unique(columns.samples_of_rows(np.flatnonzero(kept)))])
    chosen = selected(columns.samples, len(of_samples), where)
    return of_samples if chosen is None else np.asarray(of_samples[chosen])


def _edges(values: Array, bins: int) -> Array | None:
    """The ends of ranges of as many values each; None where some range would have more than twice those of another.

    Without ties, each has at most one more than another.
    """
    ordered = np.sort(values).astype(np.float64)
    # Quantiles in whole numbers, since an edge that is off by a rounding error leaves its own sample out.
    at, rest = np.divmod(np.arange(bins + 1) * (len(values) - 1), bins)
    above = ordered[np.minimum(at + 1, len(values) - 1)]
    edges = ordered[at] + (above - ordered[at]) * (rest / bins)
    if len(np.unique(edges)) < len(edges):
        return None
    sizes = np.bincount(np.searchsorted(edges[1:-1], values, side="right"), minlength=bins)
    return edges if sizes.max() <= 2 * sizes.min() else None


def _too_few_values(values: Array, name: str, bins: int) -> str:
    """Why values can't be cut into ranges, and what can be done."""
    if len(values) < bins:
        return f"{len(values)} samples are too few for {bins} ranges of {name!r}. Ask for fewer ranges."
    different = len(np.unique(values))
    most = min(bins - 1, different, _MOST_RANGES)
    fewer = next((number for number in range(most, 1, -1) if _edges(values, number) is not None), None)
    ways = [] if fewer is None else [f"ask for fewer ranges, by='{name}:{fewer}'"]
    ways += [f"group by the values themselves, by={name!r}"] if different <= _FEW and values.dtype.kind in "iu" else []
    ways = ways or ["group by a column that has the groups that you mean"]
    advice = ", or ".join(ways)
    return (
        f"Too many samples share a value of {name!r} to cut it into {bins} ranges of as many samples each: of "
        f"{len(values)} samples with {different} different values, the largest range would have more than twice as "
        f"many as the smallest. {advice[0].upper()}{advice[1:]}."
    )


def _told_apart(edges: Array) -> list[str]:
    """Different numbers with as few digits as tell all of them apart, and at least four."""
    texts = ([f"{edge:.{digits}g}" for edge in edges] for digits in range(4, 18))
    return next(each for each in texts if len({*each}) == len(each))


def _column(columns: SampleColumns, name: str, argument: str) -> Array:
    try:
        return _text(columns.find(name).values)
    except DataError as error:
        instead = " Or group by none with by=None." if argument == "by" else ""
        raise DataError(f"{error}{instead}", arguments=(argument,)) from error


def _text(values: Array) -> Array:
    return values.astype(object) if values.dtype.kind in "UT" else values


def _are_codes_of(values: Array, names: Sequence[str]) -> bool:
    return _are_codes(values) and bool(((values >= 0) & (values < len(names))).all())


def _are_codes(values: Array) -> bool:
    """Whether the values are integers, also as the floats that xarray makes of them beside a missing one."""
    return values.dtype.kind in "iub" or (values.dtype.kind == "f" and bool((values % 1 == 0).all()))


def _check_groups(values: Array, by: str) -> None:
    if values.dtype.kind not in "iubO":
        raise DataError(
            f"Samples can't be grouped by {by!r}: its values are {values.dtype}, not codes or names. Ranges of numbers "
            f"are asked for as '{by}:5', for five.",
            arguments=("by",),
        )
    if _kind(values) is None:
        at, odd = next((at, value) for at, value in enumerate(values.tolist()) if not isinstance(value, str))
        raise DataError(
            f"Samples can't be grouped by {by!r}: its value {odd!r} at {at} has no place among the others. Give every "
            "sample a string, such as 'unknown', or every sample an integer.",
            arguments=("by",),
        )


def _kind(values: Array) -> str | None:
    """Whether the values are all ``"strings"`` or all ``"numbers"``; None for a mixture."""
    if values.dtype.kind != "O":
        return "strings" if values.dtype.kind in "UT" else "numbers"
    kinds = {next((kind for of, kind in _KINDS if isinstance(value, of)), None) for value in values}
    return kinds.pop() if len(kinds) == 1 else None


def selected(columns: SampleColumns, rows: int, where: Where | None) -> Mask | None:
    """Which of a site's rows `where` selects, (row,) bool; None where that is all of them.

    Raises:
        DataError: a column that there isn't, a mask that doesn't fit the samples, or no row is left.
    """
    if where is None:
        return None
    mask = _matching(columns, rows, where) if isinstance(where, Mapping) else _masked(columns, rows, where)
    if not mask.any():
        asked = f"where={_plain(where)}" if isinstance(where, Mapping) else "The mask of where="
        raise DataError(
            f"{asked} selects none of the {len(mask)} {columns.dim}s, so there is nothing to measure.",
            arguments=("where",),
        )
    return mask


def _plain(where: Mapping[str, Any]) -> dict[str, Any]:
    """The selection as Python's own values, as which a message shows it."""
    return {name: np.asarray(wanted).tolist() for name, wanted in where.items()}


def _matching(columns: SampleColumns, rows: int, where: Mapping[str, Any]) -> Mask:
    """The rows whose columns have the values, or one of the values, that `where` gives."""
    mask = np.ones(rows, dtype=bool)
    for name, wanted in where.items():
        values, given = _column(columns, name, "where"), np.atleast_1d(np.asarray(wanted))
        names = columns.class_names if name in CLASSES and _are_codes(values) else None
        if names is not None and _kind(given) != "numbers":
            given = np.array(places_of(wanted, range(len(names)), names, "where"))
        elif _kind(values) != _kind(given) and {_kind(values), _kind(given)} == {"strings", "numbers"}:
            asked, have = ", ".join(map(repr, given.tolist())), values[:1].tolist()[0]
            raise DataError(
                f"where= asks for {name!r} {asked}, but its values are {_kind(values)}, such as {have!r}.",
                arguments=("where",),
            )
        mask &= np.isin(values, given)
    return mask


def _masked(columns: SampleColumns, rows: int, where: Any) -> Mask:
    mask, samples = np.asarray(where), columns.root.sizes.get(SAMPLE, rows)
    if mask.dtype != bool or mask.shape != (samples,):
        raise DataError(
            f"where= takes a mask of {samples} bools, one per sample, or a mapping of columns to the values that are "
            f"wanted; it is {mask.dtype} of shape {mask.shape}.",
            arguments=("where",),
        )
    if isinstance(where, xr.DataArray) and _is_in_order(columns, where):
        return mask
    if SAMPLE not in columns.root.sizes:
        return mask
    found: Mask = columns.of_rows(xr.Variable((SAMPLE,), mask), "mask of where=").values
    return found


def _is_in_order(columns: SampleColumns, mask: xr.DataArray) -> bool:
    """Whether the columns that go along with a mask show that its samples are the site's, one by one."""
    beside = SampleColumns("where", mask.coords.to_dataset(), xr.Dataset())
    for name in columns.samples.differing_from(beside):
        raise DataError(
            f"where= is a mask of samples of which {name!r} differs from that of site {columns.name!r}, so their order "
            "is another. Select that site alone (sites=) and take the mask from it.",
            arguments=("where", "sites"),
        )
    return columns.dim == SAMPLE and any(name in columns.names for name in beside.names)


@dataclass(frozen=True)
class Observations:
    """The observations of a site that are measured.

    `of_rows` has the group of each row, of which each is `each` observations, side by side. `kept` (observation) tells
    those that are measured among all that the site has; it is None where all are. `omitted` of the others were left
    out for a NaN. Where classes are balanced, `of_class` samples of each were taken. `shuffled` has other groups for
    those that are measured, which a null asks for.
    """

    labels: Labels
    of_rows: Codes
    each: int = 1
    kept: Mask | None = None
    omitted: int = 0
    of_class: int | None = None
    shuffled: Codes | None = None

    @classmethod
    def of(cls, source: Source, groups: Groups, kept: Mask | None) -> Observations:
        """The observations of the rows that are `kept`, all of them for None, but for padding."""
        chosen, real = None if kept is None else np.repeat(kept, source.each), source.real
        chosen = real if chosen is None else chosen if real is None else chosen & real
        return cls(groups.labels, groups.codes, source.each, chosen)

    def without(self, nan: Mask, site: str) -> Observations:
        """These, but for the observations with a NaN; `nan` (observation) is for all that the `site` has.

        Raises DataError if none is left.
        """
        if not nan.any():
            return self
        kept = ~nan if self.kept is None else self.kept & ~nan
        omitted = self.number - int(kept.sum())
        if omitted == self.number:
            raise DataError(f"Site {site!r}: all {omitted} observations hold a NaN, so there is nothing to measure.")
        return replace(self, kept=kept, omitted=omitted)

    def only(self, chosen: Mask) -> Observations:
        """Those of these that are `chosen` (observation)."""
        kept = chosen if self.kept is None else self.kept.copy()
        if self.kept is not None:
            kept[self.kept] = chosen
        return replace(self, kept=kept, shuffled=None if self.shuffled is None else self.shuffled[chosen])

    @cached_property
    def number(self) -> int:
        return len(self.of_rows) * self.each if self.kept is None else int(self.kept.sum())

    @cached_property
    def codes(self) -> Codes:
        """The group of each observation."""
        return self._of_observations(self.of_rows) if self.shuffled is None else self.shuffled

    @cached_property
    def numbers(self) -> Codes:
        """The row of each observation in the store."""
        return self._of_observations(np.arange(len(self.of_rows)))

    def _of_observations(self, of_rows: Codes) -> Codes:
        all_of_them = of_rows if self.each == 1 else np.repeat(of_rows, self.each)
        return all_of_them if self.kept is None else all_of_them[self.kept]

    @cached_property
    def grouping(self) -> Grouping:
        return Grouping.of(self.codes, self.labels.number)

    def read(
        self, source: Source, start: int, stop: int, places: Codes | None = None
    ) -> Iterator[tuple[int, Array, Codes]]:
        """Those of the nodes `start` to `stop`, in order: (number of the first one, values, their groups).

        With ascending `places`, only the chunk rows that hold some of them are read.
        """
        height = source.chunk[0]
        firsts = np.arange(0, source.rows, height)
        # How many of those that are measured come before each chunk row.
        before = firsts * self.each if self.kept is None else np.append(0, np.cumsum(self.kept))[firsts * self.each]
        chosen_rows = range(len(firsts)) if places is None else np.unique(before.searchsorted(places, "right") - 1)
        for number in chosen_rows:
            row, first_chosen = int(firsts[number]), int(before[number])
            x = source.values(slice(row, row + height), slice(start, stop))
            # Where positions are observations, the groups of all of them would be large: they are made as they go.
            codes = np.repeat(self.of_rows[row : row + len(x) // self.each], self.each)
            if self.kept is not None:
                kept = self.kept[row * self.each : row * self.each + len(x)]
                x, codes = x[kept], codes[kept]
            if self.shuffled is not None:
                codes = self.shuffled[first_chosen : first_chosen + len(x)]
            yield first_chosen, x, codes
