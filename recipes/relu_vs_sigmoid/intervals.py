"""Effects over seeds, their 95 % intervals, and what an interval says about a part of a claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["CONFIDENCE", "Estimate", "Part"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its standard error, which is None for a single seed."""

    mean: float
    standard_error: float | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """The estimate from one value a seed.

        >>> Estimate.of([1.0, 2.0, 3.0])
        Estimate(mean=2.0, standard_error=0.5773502691896258, seeds=3)
        """
        error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
        return cls(float(np.mean(values)), error, len(values))

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean by Student's t; None for a single seed.

        >>> [round(end, 3) for end in Estimate.of([1.0, 2.0, 3.0]).interval]
        [-0.484, 4.484]
        """
        if self.standard_error is None:
            return None
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.seeds - 1)) * self.standard_error
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Part:
    """An effect that a claim needs. It holds where the effect is `wanted` (``above``, ``not above``) `bound`.

    A lead over the bound of at most `margin` counts as none. With ``within`` it holds where the effect is at most
    `bound` away from 0.
    """

    effect: Estimate
    wanted: str = "above"
    bound: float = 0.0
    margin: float = 0.0

    @property
    def status(self) -> str:
        """``held`` if the whole interval is as wanted, ``not_held`` if none of it is, else ``open``.

        >>> [Part(Estimate(mean, 1.0, 100), margin=0.5).status for mean in (3.0, 1.0, -2.0)]
        ['held', 'open', 'not_held']
        """
        interval = self.effect.interval
        if interval is None:
            return "open"
        low, high = interval
        if self.wanted == "within":
            inside, outside = max(-low, high) <= self.bound, low > self.bound or high < -self.bound
            return "held" if inside else "not_held" if outside else "open"
        below, above = high <= self.bound + self.margin, low > self.bound
        if not below and not above:
            return "open"
        return "held" if below == (self.wanted == "not above") else "not_held"
