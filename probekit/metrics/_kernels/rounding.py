"""What rounding leaves of equal numbers: bounds of its errors, and ranks that don't depend on it."""

from __future__ import annotations

import numpy as np

from probekit.metrics.block import Array

__all__ = ["tied_ranks", "vector_error"]


def vector_error(nodes: int) -> float:
    """How far rounding in float64 takes a vector of `nodes` values, or a mean of such, relative to the longest vector.

    Values that are computed, such as those of a scaled copy of a site, are rounded to u = ε / 2 each, which moves a
    vector by no more than u of its length. Those of a rotated copy come of sums over `nodes` products, each rounded
    too: by the usual statistical bound (Higham and Mary 2019) these errors add up to √nodes u, not to nodes u. So do
    those of the sums of a mean. The result is twice both, (√nodes + 1) ε.
    """
    return float((np.sqrt(nodes) + 1) * np.finfo(np.float64).eps)


def tied_ranks(values: Array, error: Array) -> Array:
    """The rank of each of the `values`, from 1, of which each is known to within its `error`.

    From the least value on, those whose intervals (value ± error) meet that of the first one are tied, and share the
    mean of their ranks; the next value begins the next tie. Ties don't grow from neighbour to neighbour.

    >>> tied_ranks(np.array([3.0, 1.0, 1.1, 1.2]), np.full(4, 0.06))
    array([4. , 1.5, 1.5, 3. ])
    """
    order = np.argsort(values, kind="stable")
    below, above = values[order] - error[order], values[order] + error[order]
    # For each value, where the first one begins that is apart from it.
    after = np.maximum.accumulate(below).searchsorted(above, "right").tolist()
    starts = [0]
    while starts[-1] < len(after):
        starts.append(max(after[starts[-1]], starts[-1] + 1))
    sizes = np.diff(starts)
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(np.cumsum(sizes) - (sizes - 1) / 2, sizes)
    return ranks
