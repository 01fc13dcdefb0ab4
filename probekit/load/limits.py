"""Which samples of a data set are taken where not all are."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from types import NoneType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from probekit.errors import DataError, check_choice, check_kind

__all__ = ["Limit", "LimitOrder"]

LimitOrder: TypeAlias = Literal["stratified", "first"]
_ORDERS = ("stratified", "first")


class Limit:
    """At most so many samples: each class's share of them, drawn under `seed`, or the first.

    Raises DataError if it leaves none.
    """

    def __init__(self, samples: int | None, order: LimitOrder = "stratified", seed: int = 0) -> None:
        check_kind("limit", samples, (Integral, NoneType), "a number of samples, or None for all")
        check_kind("seed", seed, Integral, "a whole number")
        check_choice("limit_order", order, _ORDERS, DataError)
        if samples is not None and samples < 1:
            raise DataError(
                f"limit={samples} leaves no samples. Give 1 or more, or leave it out.", arguments=("limit",)
            )
        self._samples, self._order, self._seed = samples, order, seed

    @property
    def words(self) -> str:
        """What is taken, for a store."""
        if self._samples is None:
            return "none"
        order = "the first" if self._order == "first" else f"each class's share, drawn under seed {self._seed}"
        return f"{self._samples} samples, {order}"

    def rows(self, samples: int, labels: Sequence[Any] | npt.NDArray[Any] | None) -> npt.NDArray[np.int64] | None:
        """Which of so many samples are taken, in ascending order; None for all. `labels` are theirs, if they have any.

        >>> Limit(3).rows(6, [0, 0, 0, 0, 1, 1]).tolist()
        [2, 3, 5]
        """
        if self._samples is None or self._samples >= samples:
            return None
        if self._order == "first":
            return np.arange(self._samples)
        generator = np.random.default_rng(self._seed)
        codes = np.zeros(samples, np.int64) if labels is None else np.unique(labels, return_inverse=True)[1]
        counts = np.bincount(codes)
        wanted = _shares(counts, self._samples, generator)
        shuffled = generator.permutation(samples)
        # Within its class, each sample's place in the shuffled order; those before the class's share are taken.
        by_class = shuffled[np.argsort(codes[shuffled], kind="stable")]
        places = np.arange(samples) - np.repeat(np.cumsum(counts) - counts, counts)
        taken: npt.NDArray[np.int64] = np.sort(by_class[places < np.repeat(wanted, counts)])
        return taken


def _shares(counts: npt.NDArray[np.int64], total: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """So many samples among classes of these sizes, by largest remainders; where they suffice, one of each at least."""
    exact = counts * total / counts.sum()
    shares = np.floor(exact).astype(np.int64)
    exact += 1e-9 * generator.random(len(counts))  # which of equals get one more
    if total >= len(counts):
        shares = np.maximum(shares, np.minimum(counts, 1))
    while shares.sum() < total:
        shares[np.argmax(np.where(shares < counts, exact - shares, -np.inf))] += 1
    while shares.sum() > total:  # where rare classes got one each
        shares[np.argmax(np.where(shares > 1, shares - exact, -np.inf))] -= 1
    whole: npt.NDArray[np.int64] = shares
    return whole
