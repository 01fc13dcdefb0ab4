"""The intervals of a metric's variables at a site: where they end, and why there may be none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

import numpy as np
from scipy.special import stdtrit

from probekit._measure.metric_set import compares_classes
from probekit._measure.resampling.draws import CLASS_DIMS, Draws, Freedom
from probekit._measure.resampling.tally import Sums
from probekit.metrics import Headline, Metric
from probekit.metrics.block import Array
from probekit.metrics.ranges import range_of

__all__ = ["Interval", "Intervals"]


@dataclass(frozen=True)
class Interval:
    """The ends, each of the variable's shape, and why values that were measured have none."""

    low: Array
    high: Array
    missing: str

    @property
    def arrays(self) -> dict[str, Array]:
        """The ends by the endings of their variables."""
        return {"low": self.low, "high": self.high}

    @property
    def attrs(self) -> dict[str, str]:
        """The attributes of these variables."""
        return {"no_interval": self.missing} if self.missing else {}


@dataclass(frozen=True)
class Intervals:
    """How the intervals of a metric at a site follow from its repeats.

    These were made as `how` says: ``"bootstrap"`` or ``"jackknife"``. `bounds` are those of the site's activations,
    None where they aren't known.
    """

    metric: Metric
    draws: Draws
    how: str
    repeats: int
    confidence: float
    bounds: tuple[float, float] | None

    def of_variable(self, name: str, dims: Sequence[str], sums: Sums) -> Interval:
        """That of a variable; none for a class of a single unit, of which nothing tells how it varies."""
        by_class = CLASS_DIMS.intersection(dims)
        freedom = self.draws.freedom(dims, in_cells=self._in_cells) if by_class else self._of_all
        return self._of(name, dims, sums, freedom, range_of(self.metric, name, self.bounds))

    def of_site(self, name: str, headline: Headline, dims: Sequence[str], measured: Array, sums: Sums) -> Interval:
        """That of the one number that a headline makes of a variable, which has `measured` values along `dims`.

        None where a class of a single unit counts, and for the largest of the nodes: which it is depends on the
        samples, and draws of them don't show by how much it is too large.
        """
        if headline.over_nodes == "max":
            none = np.full(sums.measured.shape, np.nan)
            return Interval(none, none, "it is the largest of the nodes, which each have theirs")
        freedom = self._of_all
        if "label" in dims:
            others = tuple(axis for axis, dim in enumerate(dims) if dim != "label")
            counted = np.asarray(~np.isnan(measured).all(axis=others))
            freedom = self.draws.freedom_of_mean(counted, in_cells=self._in_cells)
        within = (-inf, inf) if headline.over_nodes == "sum" else range_of(self.metric, name, self.bounds)
        return self._of(name, (), sums, freedom, within)

    @property
    def _of_all(self) -> Freedom:
        """The freedom of a number of all samples, or of the classes, if the metric compares these."""
        several = self.draws.units.of_class > 1
        if compares_classes(self.metric) and several.any():
            return self.draws.freedom_of_mean(several, in_cells=self._in_cells)
        return self.draws.freedom((), in_cells=self._in_cells)

    @property
    def _in_cells(self) -> bool:
        return self.how == "bootstrap"

    def _of(
        self, name: str, dims: Sequence[str], sums: Sums, freedom: Freedom, within: tuple[float, float]
    ) -> Interval:
        with np.errstate(all="ignore"):
            middle, error, free = (self._jackknife if self.how == "jackknife" else self._bootstrap)(sums, freedom)
            reach = stdtrit(free, (1 + self.confidence) / 2) * error
            # Rounding may take an estimate out of its range, and not out of its interval.
            least, most = np.minimum(within[0], sums.measured), np.maximum(within[1], sums.measured)
            middle = np.clip(middle, least, most)
            low, high = np.maximum(middle - reach, least), np.minimum(middle + reach, most)
        none, missing = np.zeros(sums.measured.shape, np.bool_), list[str]()
        for why, there in self._reasons(name, dims, sums, freedom.free == 0, np.isfinite(low)):
            if (np.isfinite(sums.measured) & ~none & there).any():
                missing.append(why)
            none |= there
        return Interval(np.where(none, np.nan, low), np.where(none, np.nan, high), "; ".join(missing))

    def _reasons(
        self, name: str, dims: Sequence[str], sums: Sums, alone: Array, found: Array
    ) -> Sequence[tuple[str, Array]]:
        """Why there may be no interval, and where that is so."""
        called, needed = self.draws.units.called, getattr(self.metric, "interval_classes", {}).get(name, 0)
        classes = int((self.draws.units.of_class > 1).sum())
        lacking, fewer = f"some of the {self.repeats} draws gave no finite number", False
        if self.how == "jackknife":
            fewer, lost = self._loses_a_class, "there is no finite number"
            if fewer:
                lost = f"a class has fewer than min_count samples ({getattr(self.metric, 'min_count', None)})"
            lacking = f"without some of the {self.repeats} blocks of {called}s {lost}"
        return (
            (f"it needs {needed} classes of two {called}s, and there are {classes}", np.array(classes < needed)),
            (self._alone, alone),
            # That of some repeats alone would be another's, and so would be that of fewer classes.
            (lacking, ~found | (sums.number < self.repeats) | (fewer and not CLASS_DIMS.intersection(dims))),
        )

    @property
    def _alone(self) -> str:
        """Why nothing tells how a class varies."""
        called = self.draws.units.called
        if (self.draws.units.of_class == 1).any():
            return f"a class has one {called}, and nothing tells how that varies"
        return f"each group of within= has one {called} of a class, so that all draws are alike: ask for ci='jackknife'"

    @cached_property
    def _loses_a_class(self) -> bool:
        """Whether a class has too few samples for the metric when a block is left out, and enough otherwise."""
        units, needed = self.draws.units, getattr(self.metric, "min_count", None)
        if needed is None or units.labels is None:
            return False
        classes, number = units.labels[units.of], len(units.of_class)
        cells = self.draws.blocks(self.repeats) * number + classes
        in_blocks = np.bincount(cells, minlength=self.repeats * number).reshape(-1, number)
        samples = in_blocks.sum(axis=0)
        return bool(((samples >= needed) & (samples - in_blocks.max(axis=0) < needed)).any())

    def _bootstrap(self, sums: Sums, freedom: Freedom) -> tuple[Array, Array, Array]:
        """The middle, the standard error, and its degrees of freedom, of draws of units within their cells.

        The middle is the value, less the bias that the draws show if it is worth it: where it exceeds a quarter of the
        standard error (Efron and Tibshirani 1993, section 10.3); a smaller one is as well chance. A metric that is
        corrected for chance has taken its bias off already. Its draws are of samples that differ by chance, which is
        what they show then, and no bias. Draws within each cell vary too little, by the share of units that the cells'
        means take up.
        """
        free = np.where(freedom.free > 0, freedom.free, np.nan)
        error, bias = np.sqrt(sums.variance * freedom.units / free), sums.mean - sums.measured
        biased = (np.abs(bias) > error / 4) & (not getattr(self.metric, "corrected", False))
        return sums.measured - np.where(biased, bias, 0), error, free

    def _jackknife(self, sums: Sums, freedom: Freedom) -> tuple[Array, Array, Array]:
        """The same of what is left without each of the blocks; a class is in as many of them as it has units."""
        free = np.minimum(self.repeats - 1, freedom.free)
        return sums.measured, np.sqrt(sums.variance) * (self.repeats - 1) / np.sqrt(self.repeats), free
