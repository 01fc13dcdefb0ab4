"""Kurtosis that outliers don't decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

import probekit as pk

__all__ = ["moors"]


@pk.metric
def moors(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Moors' kurtosis of each class at each node, from octiles: 1.233 of a normal distribution, 1 of a uniform one.

    `moors` (label, node), float64 from 0 on, without a unit: ((E7 − E5) + (E3 − E1)) / (E6 − E2), where E1 to E7 are
    the octiles (Moors 1988). NaN for a class without samples, and where half of a class or more has one value, as at a
    dead node.
    """
    e1, e2, e3, _, e5, e6, e7 = np.quantile(values.astype(np.float64), np.arange(1, 8) / 8, axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(e6 > e2, ((e7 - e5) + (e3 - e1)) / (e6 - e2), np.nan)
