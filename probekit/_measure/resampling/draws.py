"""The labels, weights and blocks of each repeat: they depend on the seed and the units alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import NamedTuple

import numpy as np

from probekit._measure.resampling.units import Units
from probekit.errors import DataError
from probekit.metrics.block import Array, Codes

__all__ = ["CLASS_DIMS", "Draws", "Freedom"]

CLASS_DIMS = frozenset({"label", "label_b"})

_SHUFFLE, _DRAW, _BLOCKS = range(3)  # what random numbers are for
_FEWEST = 4  # units of which blocks can be left out


class Freedom(NamedTuple):
    """How many `units` a variable rests on, and how many of them are `free` when the means that they have are known.

    They are arrays that broadcast with the variable.
    """

    units: Array
    free: Array


@dataclass(frozen=True)
class Draws:
    """The repeats of a site's observations."""

    units: Units
    seed: int
    site: str

    def order(self, repeat: int) -> Codes:
        """The unit whose label each unit gets, (unit,): a permutation within the strata."""
        rng = np.random.default_rng([self.seed, _SHUFFLE, repeat])
        shuffled = rng.permutation(self.units.number)
        if self._alike:
            return shuffled
        order = np.empty_like(shuffled)
        order[self._by_stratum] = shuffled[np.argsort(self.units.strata[shuffled], kind="stable")]
        return order

    def labels(self, repeat: int) -> Codes:
        """The class of each observation after a shuffle of the units' labels, (observation,)."""
        return self._labels[self.order(repeat)][self.units.of]

    def counts(self, repeat: int) -> Codes:
        """How often each observation is drawn, (observation,), when units are drawn with replacement.

        Every class, where units have one, and every stratum keeps its number of units.
        """
        order, starts, sizes = self._cells
        rng = np.random.default_rng([self.seed, _DRAW, repeat])
        drawn = starts + (rng.random(len(order)) * sizes).astype(np.int64)
        counts = np.bincount(order[drawn], minlength=len(order))
        return counts[self.units.of].astype(np.int64)

    def freedom(self, dims: Sequence[str], *, in_cells: bool) -> Freedom:
        """That of a variable with such dims: of all units, or of those of each class where it has a value for each.

        A pair of classes has that of the class with less. Where units have several classes it is that of all. Units
        that are drawn `in_cells`, of a class and a stratum, know the mean of each.
        """
        order, starts, _ = self._cells
        first, of_class = order[np.unique(starts)], self.units.of_class  # unit of each cell
        if self.units.labels is None or not CLASS_DIMS.intersection(dims):
            return Freedom(np.array(self.units.number), np.array(self.units.number - (len(first) if in_cells else 1)))
        cells = np.bincount(self.units.labels[first], minlength=len(of_class)) if in_cells else 1
        free = np.maximum(of_class - cells, 0)
        codes = np.indices([len(of_class) for dim in dims if dim in CLASS_DIMS])
        fewest = np.take_along_axis(codes, free[codes].argmin(0)[None], axis=0)[0]
        shape = [len(of_class) if dim in CLASS_DIMS else 1 for dim in dims]
        return Freedom(of_class[fewest].reshape(shape), free[fewest].reshape(shape))

    def freedom_of_mean(self, counted: Array, *, in_cells: bool) -> Freedom:
        """That of the mean over the `counted` classes (class,) of what each has, which mostly varies with the smallest.

        The degrees of freedom are Satterthwaite's (1946), and the units what they rest on, for classes that vary alike.
        Where units have several classes it is that of all.
        """
        if self.units.labels is None:
            return self.freedom((), in_cells=in_cells)
        of_class, free = (each[counted] for each in self.freedom(("label",), in_cells=in_cells))
        with np.errstate(divide="ignore", invalid="ignore"):  # a class of a single unit
            freedom = (1 / of_class).sum() ** 2 / (1 / (of_class**2 * free)).sum()
            return Freedom(freedom * (1 / free).sum() / (1 / of_class).sum(), freedom)

    def blocks(self, most: int) -> Codes:
        """The number of the block of each observation, (observation,), of up to `most` blocks of whole units.

        Every block has as good as the same number of units of each class and stratum. There are no more blocks than the
        root of the number of units: blocks of few units don't show how medians and ranks vary.

        Raises DataError where there are too few units.
        """
        if self.units.number < _FEWEST:
            raise DataError(
                f"Site {self.site!r} has {self.units.number} {self.units.called}s, too few for an interval: give at "
                f"least {_FEWEST}.",
                arguments=("ci", "together"),
            )
        number = max(2, min(most, isqrt(self.units.number)))
        order, starts, _ = self._cells
        rng = np.random.default_rng([self.seed, _BLOCKS])
        turn = order[np.lexsort((rng.random(len(order)), starts))]
        block = np.empty(len(order), np.int64)
        block[turn] = np.arange(len(order)) % number
        found: Codes = block[self.units.of]
        return found

    @cached_property
    def _labels(self) -> Codes:
        return self.units.of_labels(self.site)

    @cached_property
    def _alike(self) -> bool:
        return not self.units.strata.any()

    @cached_property
    def _by_stratum(self) -> Codes:
        return np.argsort(self.units.strata, kind="stable")

    @cached_property
    def _cells(self) -> tuple[Codes, Codes, Codes]:
        """The units in the order of their strata and classes; for each place, where its cell starts, and its size."""
        labels = np.zeros_like(self.units.strata) if self.units.labels is None else self.units.labels
        order = np.lexsort((labels, self.units.strata))
        pairs = np.stack([self.units.strata, labels])[:, order]
        first = np.append(True, (pairs[:, 1:] != pairs[:, :-1]).any(axis=0))
        starts, sizes = np.flatnonzero(first), np.diff(np.append(np.flatnonzero(first), len(order)))
        return order, np.repeat(starts, sizes), np.repeat(sizes, sizes)
