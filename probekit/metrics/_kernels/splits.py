"""Splits of the rows of a site into training and held-out rows: by unit, balanced over the classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from probekit.errors import PluginError
from probekit.metrics._kernels.row_sampling import draws
from probekit.metrics.block import Array, Codes
from probekit.metrics.limits import Limits, above, at_least, share

__all__ = ["SPLIT_LIMITS", "Mask", "MeanOfGroups", "Split", "check_folds", "generators_of", "wilson"]

Mask = npt.NDArray[np.bool_]

# Of the parameters of a probe, which fits weights to a part of the rows.
SPLIT_LIMITS: Limits = {
    "alpha": above(0),
    "held_out": share(),
    "seed": at_least(0),
    "folds": at_least(2),
    "shuffles": at_least(0),
}


@dataclass(frozen=True)
class Split:
    """Rows that stay together in units, each of which has a class and a random number.

    `of_rows` (row,) is the place of each row's unit among all units; `codes` (unit,) the class that is commonest among
    the unit's rows, the one that comes first of several; `numbers` (unit,) draws that depend on the unit and the seed
    alone, so that sites with the same units are split alike. `pure` tells whether every unit is of a single class.
    """

    of_rows: Codes
    codes: Codes
    numbers: Array
    pure: bool

    @classmethod
    def of(cls, units: Codes, codes: Codes, seed: int) -> Split:
        unique, of_rows = np.unique(units, return_inverse=True)
        of_rows = of_rows.astype(np.int64)
        width = int(codes.max(initial=0)) + 1
        both, first, counts = np.unique(of_rows * width + codes, return_index=True, return_counts=True)
        order = np.lexsort((first, -counts, both // width))
        unit = both[order] // width
        commonest = order[np.diff(unit, prepend=-1) > 0]
        return cls(of_rows, both[commonest] % width, draws(unique, seed), len(both) == len(unique))

    @property
    def number(self) -> int:
        """The number of units."""
        return len(self.codes)

    def masks(self, share: float, folds: int | None) -> list[Mask]:
        """The held-out rows of each split: a share of them once, or each of so many folds in turn.

        Raises PluginError for more folds than units, where there are several.
        """
        if self.number > 1:
            check_folds(folds, self.number)
        masks = [self.held_out(share)] if folds is None else [*self.folds(folds)]
        return [mask for mask in masks if mask.any()]

    def held_out(self, share: float, among: Mask | None = None) -> Mask:
        """The held-out rows: of the units of each class this share, at least one where there are two.

        With `among`, they are taken from the units of these rows.
        """
        units = np.arange(self.number) if among is None else np.unique(self.of_rows[among])
        place, count = _place_in_class(self.codes[units], self.numbers[units])
        held = np.clip(np.floor(share * count + 0.5), count > 1, np.maximum(count - 1, 0))
        mask: Mask = np.isin(self.of_rows, units[place < held])
        return mask

    def folds(self, number: int) -> Iterator[Mask]:
        """The held-out rows of each of so many folds, into which the units of each class are dealt."""
        first = np.full(int(self.codes.max(initial=0)) + 1, np.inf)
        np.minimum.at(first, self.codes, self.numbers)
        # Classes in an order of their own, so that renumbering them changes nothing.
        fold = np.empty(self.number, np.int64)
        fold[np.lexsort((self.numbers, first[self.codes]))] = np.arange(self.number) % number
        for each in range(number):
            yield (fold == each)[self.of_rows]

    def shuffled(self, codes: Codes, held_out: Mask, rng: np.random.Generator) -> Codes:
        """The classes of the rows, dealt out anew among the units of the training rows, and among those held out.

        Where units have several classes, they are dealt out among the rows.
        """
        of_units = np.zeros(self.number, bool)
        of_units[self.of_rows[held_out]] = True
        dealt, chosen = (self.codes.copy(), of_units) if self.pure else (codes.copy(), held_out)
        for part in (~chosen, chosen):
            dealt[part] = rng.permutation(dealt[part])
        return dealt[self.of_rows] if self.pure else dealt


def check_folds(folds: int | None, units: int) -> None:
    """Raise PluginError for more folds than there are units, or rows, to deal into them."""
    if folds is not None and folds > units:
        raise PluginError(
            f"folds={folds} takes as many samples, or groups of split_by=, and there are {units}. Give fewer folds"
        )


def _place_in_class(codes: Codes, numbers: Array) -> tuple[Codes, Codes]:
    """The place of each unit in its class in the order of the draws, and the number of units of its class."""
    order = np.lexsort((numbers, codes))
    counts = np.bincount(codes)
    starts = np.cumsum(counts) - counts
    place = np.empty(len(codes), np.int64)
    place[order] = np.arange(len(codes)) - starts[codes[order]]
    return place, counts[codes]


def _shared(folds: int | None) -> float:
    """How many times the variance of independent rows those of so many folds have."""
    return 1.0 if folds is None else 1 + folds / (folds - 1)


def wilson(share: Array, size: Array, confidence: float) -> tuple[Array, Array]:
    """The score interval of a share of `size` independent rows (Wilson 1927): it has a width at 0 and 1, too."""
    z = float(ndtri((1 + confidence) / 2))
    with np.errstate(invalid="ignore"):
        middle = (share + z**2 / (2 * size)) / (1 + z**2 / size)
        reach = z / (1 + z**2 / size) * np.sqrt(share * (1 - share) / size + (z / (2 * size)) ** 2)
    return np.clip(middle - reach, 0, share), np.clip(middle + reach, share, 1)


def generators_of(seed: int, number: int) -> list[np.random.Generator]:
    """Random generators for so many shufflings."""
    return [np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, n))) for n in range(number)]


@dataclass(frozen=True)
class MeanOfGroups:
    """The mean over groups of the mean of each group's rows; with a single group, the mean of the rows.

    `of_rows` (row,) is the group of each row, `counts` (group,) has the rows of each.
    """

    of_rows: Codes
    counts: Codes

    @classmethod
    def of(cls, groups: Codes) -> MeanOfGroups:
        return cls(*np.unique(groups, return_inverse=True, return_counts=True)[1:])

    @property
    def number(self) -> int:
        """The number of groups."""
        return len(self.counts)

    def of_values(self, values: Array) -> float:
        return float(self._of_groups(values).mean()) if self.number else float("nan")

    def error(self, values: Array, units: Codes, folds: int | None = None) -> float:
        """Its standard error, where rows of a unit aren't independent.

        √Σ_u (Σ_{i ∈ u} d_i)² over the units u, d_i being the part of row i in the mean's deviation (Liang and Zeger
        1986); in a single group with a unit for each row, that is the usual √(variance / n). What classifiers give that
        were trained on K `folds` but one has 1 + K / (K − 1) times that variance: they share training rows (Nadeau and
        Bengio 2003, with a K-th of the rows held out).
        """
        if not self.number:
            return float("nan")
        parts = (values - self._of_groups(values)[self.of_rows]) / (self.counts[self.of_rows] * self.number)
        of_units = np.unique(units, return_inverse=True)[1]
        return float(np.sqrt(_shared(folds) * np.square(np.bincount(of_units, parts)).sum()))

    def effective_size(self, hits: Array, units: Codes, folds: int | None = None) -> float:
        """How many independent rows give a share of `hits`, 0 or 1, the standard error that it has (Kish 1965).

        At most, and where all hits are the same, as many as if each unit were one row of each of its groups; less by
        what the `folds` share.
        """
        if not self.number or not np.isfinite(hits).all():
            return float("nan")
        both = np.unique(units * self.number + self.of_rows) % self.number
        most = self.number**2 / (1 / np.bincount(both, minlength=self.number)).sum() / _shared(folds)
        share, error = self.of_values(hits), self.error(hits, units, folds)
        return float(min(most, share * (1 - share) / error**2 if error else most))

    def _of_groups(self, values: Array) -> Array:
        means: Array = np.bincount(self.of_rows, values, self.number) / self.counts
        return means
