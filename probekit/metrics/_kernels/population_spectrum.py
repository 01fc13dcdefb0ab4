"""The variances that a population has along its directions, from those of few samples.

Few samples spread equal variances apart: the eigenvalues of their covariance follow the law of Marchenko and Pastur
(1967), which Silverstein (1995) writes for any population. With v(x) = (1/m) Σ 1 / (l + x) over the m eigenvalues l of
the samples' products, zeros among them, and c(t) the number of the population's directions of variance t,

    1 / v(x) − x = (1/m) Σ c(t) t / (1 + t v(x))    for every x > 0.

That is linear in c, so the c that fit best are a problem of least squares without negative values, as El Karoui (2008)
solves it.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from probekit.metrics.block import Array

__all__ = ["population_spectrum"]

_LEAST = 1e-8  # relative to the largest: variances that are less aren't told from 0
_VARIANCES = 100  # from the largest down to that
_PLACES = 100  # at which the equation is to hold
_BEYOND = 20.0  # the largest of them, relative to the largest eigenvalue
_DIGITS = 12  # of eigenvalues, so that the last bits of a sum don't change which variances fit best
_NUMBER, _SUM = 1e3, 10.0  # weights of the number of directions and of the sum of variances, which are known


def population_spectrum(eigenvalues: Array, freedom: int, nodes: int) -> tuple[Array, Array]:
    """The variances of a population, relative to the largest eigenvalue, and how many directions have each of them.

    `eigenvalues` are those of the products of the samples that aren't 0; `freedom` is the number of samples, less 1
    where their mean was subtracted. All directions together are at most as many as `nodes`, of which some may not vary;
    and as many as there are eigenvalues, where more samples show no further one.
    """
    found = np.round(eigenvalues / eigenvalues.max(), _DIGITS)
    directions = len(found) if len(found) < freedom else nodes
    variances = np.geomspace(_LEAST, 1, _VARIANCES)
    places = np.geomspace(_LEAST, _BEYOND, _PLACES)
    shares = (found / (found + places[:, None])).sum(axis=1) / freedom
    left = places * shares / (1 - shares)  # 1 / v − x
    right = variances / (1 + variances * ((1 - shares) / places)[:, None]) / freedom
    constant = np.zeros(_PLACES)  # what doesn't vary leaves no trace
    rows = np.vstack(
        [
            np.column_stack([right / left[:, None], constant]),
            np.full(_VARIANCES + 1, _NUMBER / directions),
            np.append(_SUM * variances / found.sum(), 0.0),
        ]
    )
    counts, _ = nnls(rows, np.concatenate([np.ones(_PLACES), [_NUMBER, _SUM]]), maxiter=1000 * _VARIANCES)
    return variances, counts[:-1]
