"""What is kept of the repeats of a measurement, and what follows from it.

Of each variable there are sums over the repeats, which add up over tasks. They are of differences from the measured
value, so that little is lost where a null lies far from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from probekit._measure.resampling.site_numbers import (
    REPEAT,
    describes_classes,
    dims_of_numbers,
    headline_of,
    numbers_of,
)
from probekit.metrics import Headline, Metric, Variables
from probekit.metrics.block import Array

__all__ = ["Sums", "Tally", "discoveries", "headline_variable", "merged"]

_HELD = 2**22  # bytes of values, of which a site's number is found at a time
_SUMS = ("number", "sum", "squares", "above", "below")
_VALUES = "values"
_PER_NODE = {"label", "node"}
_ROUNDING = 1e-12  # relative; within it a repeat's value counts as equal to the measured one


@dataclass(frozen=True)
class Sums:
    """The sums over the repeats of one variable, each of its shape.

    `number` counts the repeats that gave a number; `sum` and `squares` are those of the differences from `measured`,
    `above` and `below` count the repeats that are at least and at most that.
    """

    measured: Array
    number: Array
    sum: Array
    squares: Array
    above: Array
    below: Array

    @classmethod
    def of(cls, measured: Array, values: Array) -> Sums:
        """Those of a variable whose `values` (repeat, ...) are all there."""
        found = cls.none(measured)
        for value in values:
            found.add(value)
        return found

    @classmethod
    def none(cls, measured: Array) -> Sums:
        value = np.asarray(measured, np.float64)
        return cls(value, *(np.zeros(value.shape) for _ in _SUMS))

    def add(self, value: Array) -> None:
        with np.errstate(all="ignore"):
            apart = np.asarray(value, np.float64) - self.origin
            there = ~np.isnan(apart)
            self.number[...] += there
            self.sum[...] += np.where(there, apart, 0)
            self.squares[...] += np.where(there, apart**2, 0)
            self.above[...] += value >= self._edges[0]
            self.below[...] += value <= self._edges[1]

    @property
    def changes(self) -> bool:
        """Whether any repeat gave another value than was measured."""
        return bool((self.squares > 0).any())

    def null(self) -> dict[str, Array]:
        """The null's mean and deviation (ddof 1), and the two-sided p-value: twice the smaller tail, at most 1.

        A tail is (1 + the shuffles that are at least, or at most, as large as measured) / (1 + all shuffles).
        """
        with np.errstate(all="ignore"):
            tail = (1 + np.minimum(self.above, self.below)) / (1 + self.number)
            p = np.where(np.isnan(self.measured) | (self.number == 0), np.nan, np.minimum(1, 2 * tail))
            return {"null": self.mean, "null_std": np.sqrt(self.variance), "p": p}

    @property
    def mean(self) -> Array:
        mean: Array = self.origin + self.sum / self.number
        return mean

    @cached_property
    def origin(self) -> Array:
        """What differences are from: the measured value, or 0 where that isn't finite."""
        return np.where(np.isfinite(self.measured), self.measured, 0.0)

    @cached_property
    def _edges(self) -> tuple[Array, Array]:
        """The values within rounding of the measured one."""
        slack = _ROUNDING * np.abs(self.origin)
        return self.measured - slack, self.measured + slack

    @property
    def variance(self) -> Array:
        squares = self.squares - self.sum**2 / self.number
        variance: Array = np.maximum(squares, 0) / (self.number - 1)
        return variance


class Tally:
    """The sums of a metric's variables over repeats, and of its headline's variable every value.

    Values are kept as float32 differences from the measured one.

    Args:
        metric: whose headline's variable is kept, unless that is one number.
        measured: the variables of the samples as they are.
        null: whether these are repeats of a null. It has no variables of pairs of classes.
        whole: whether all nodes of the site are there. Instead of every value, its one number is then kept.
    """

    def __init__(self, metric: Metric, measured: Variables, *, null: bool, whole: bool) -> None:
        self._sums = {
            name: (dims, Sums.none(array))
            for name, (dims, array) in measured.items()
            if array.dtype.kind == "f" and not (null and "label_b" in dims)
        }
        self._kept, self._values = headline_variable(metric, measured), list[Array]()
        if self._kept is not None and not measured[self._kept][0]:
            self._kept = None
        self._numbers: Callable[[Array], Array] | None = None
        if self._kept is not None and whole:
            headline, dims = headline_of(metric, self._kept), measured[self._kept][0]
            self._numbers = numbers_of(headline, dims, spread=null and describes_classes(headline, dims))
        self._found: list[Array] = []

    def add(self, variables: Variables) -> None:
        for name, (_, sums) in self._sums.items():
            sums.add(variables[name][1])
        if self._kept is not None:
            with np.errstate(over="ignore"):  # to infinity, as an order of magnitude beyond 10³⁸ may
                apart = variables[self._kept][1] - self._sums[self._kept][1].origin
                self._values.append(apart.astype(np.float32))
            if self._numbers is not None and len(self._values) * self._values[0].nbytes > _HELD:
                self._reduce()

    def _reduce(self) -> None:
        if self._numbers is not None and self._values:
            origin = self._sums[str(self._kept)][1].origin
            self._found.append(self._numbers(origin + np.stack(self._values)))
            self._values.clear()

    @property
    def variables(self) -> Variables:
        """What `merged` puts together again."""
        found: Variables = {
            f"{kind}/{name}": (dims, getattr(sums, kind))
            for name, (dims, sums) in self._sums.items()
            for kind in ("measured", *_SUMS)
        }
        if self._kept is not None and self._numbers is not None:
            self._reduce()
            dims = dims_of_numbers(self._sums[self._kept][0])
            found[f"{_VALUES}/{self._kept}"] = (REPEAT, *dims), np.concatenate(self._found)
        elif self._kept is not None:
            dims = self._sums[self._kept][0]
            found[f"{_VALUES}/{self._kept}"] = (REPEAT, *dims), np.stack(self._values)
        return found


def merged(parts: Sequence[Variables]) -> tuple[dict[str, tuple[tuple[str, ...], Sums]], Variables]:
    """The sums of each variable, with its dims, from those of parts of the repeats; and what is kept of each repeat."""
    sums: dict[str, tuple[tuple[str, ...], Sums]] = {}
    values: Variables = {}
    for key, (dims, first) in parts[0].items():
        kind, _, name = key.partition("/")
        if kind == "measured":
            added = {each: sum(part[f"{each}/{name}"][1] for part in parts) for each in _SUMS}
            sums[name] = dims, Sums(first, **{each: np.asarray(array) for each, array in added.items()})
        elif kind == _VALUES:
            values[name] = dims, np.concatenate([part[key][1] for part in parts])
    return sums, values


def headline_variable(metric: Metric, variables: Mapping[str, tuple[tuple[str, ...], Array]]) -> str | None:
    """The variable of a metric's headline: the one that it declares, or else the one that bears its name."""
    declared: Headline | None = getattr(metric, "headline", None)
    name = metric.name if declared is None else declared.variable
    if name not in variables or variables[name][1].dtype.kind != "f":
        return None
    return name if declared is not None or _PER_NODE.issuperset(variables[name][0]) else None


def discoveries(p: Array) -> Array:
    """The p-values along the last axis, adjusted for their number (Benjamini and Hochberg 1995); NaN don't count.

    The smallest share of false discoveries among the nodes that are called different, if this node is among them.
    """
    found = np.full(p.shape, np.nan)
    for index in np.ndindex(p.shape[:-1]):
        found[index] = _adjusted(p[index])
    return found


def _adjusted(p: Array) -> Array:
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return adjusted
