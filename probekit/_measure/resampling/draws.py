"""The labels, weights and blocks of each repeat: they depend on the seed and the units alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import numpy as np

from probekit._measure.resampling.units import Units
from probekit.errors import DataError
from probekit.metrics.block import Codes

__all__ = ["Draws"]

_SHUFFLE, _DRAW, _BLOCKS = range(3)  # what random numbers are for
_FEWEST = 4  # units of which blocks can be left out


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

    @property
    def cells(self) -> int:
        """How many classes and strata there are, each of which units are drawn from."""
        return len(np.unique(self._cells[1]))

    def blocks(self, most: int) -> Codes:
        """The number of the block of each observation, (observation,), of up to `most` blocks of whole units.

        Every block has as good as the same number of units of each class and stratum. There are no more blocks than the
        root of the number of units: blocks of few units don't show how medians and ranks vary.

        Raises DataError where there are too few units.
        """
        if self.units.number < _FEWEST:
            raise DataError(
                f"Site {self.site!r} has {self.units.number} {self.units.called}s, too few for an interval.",
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
