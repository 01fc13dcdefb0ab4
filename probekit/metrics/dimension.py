"""The intrinsic dimension of a site's samples, from the distances of nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from probekit._beats import in_turn
from probekit.metrics._kernels.row_sampling import draws
from probekit.metrics.block import Array
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, at_least, share
from probekit.metrics.protocol import Parameters, Samples, Spec, Variables
from probekit.metrics.ranges import SIZE, Ranges

__all__ = ["TwoNN"]

_CANDIDATES = 8  # nearest neighbours by rounded distances, of which the two nearest are found by exact ones
_ROWS = 256  # whose distances are computed together


@dataclass(frozen=True)
class TwoNN(Parameters):
    """Intrinsic dimension: the number of coordinates that tell neighbouring samples apart, also on a curved surface.

    With r₁ and r₂ the Euclidean distances of a sample to its nearest and second nearest neighbour, log(r₂ / r₁) is
    exponential with the dimension d as its rate wherever the samples are evenly dense on that scale (Facco et al. 2017,
    TwoNN):

    - `twonn` (), float64: the slope of −log(1 − F) over log(r₂ / r₁), of a line through 0, where F is the empirical
      distribution of the ratios, without the share `discard` of the largest;
    - `twonn_error` (), float64: the estimate over the square root of the number of ratios, the standard error of a
      rate;
    - `twonn_size` (), int64: the number of samples that have a ratio.

    At most `size` samples are used, a random choice that depends only on `seed` and on a sample's row in the store.
    More samples see a finer scale, where noise has more dimensions; compare sites at the same size. Of samples that are
    equal to another (r₁ = 0) nothing is known, and they are left out: NaN where fewer than 3 ratios are left, or all
    are 1, and where a value is infinite or so large that its square is.

    In many dimensions any number of samples is too few, since neighbours are then at the edge of the data, and it comes
    out too low. No correction holds for data of any shape, so there is none: compare it with that of normal samples of
    as many rows and of the rank that `participation_ratio`, which is corrected, gives. Means over draws of equal normal
    directions:

    =============  =====  =====  ======  ======
    samples        50     200    1,000   2,000
    =============  =====  =====  ======  ======
    5 directions   4.9    5.2    4.9     5.1
    10 directions  8.8    8.8    9.4     9.3
    20 directions  12.9   15.3   16.3    16.3
    50 directions  25.2   28.3   31.0    32.5
    =============  =====  =====  ======  ======

    It doesn't change when the nodes are rotated or all scaled alike, and it ignores the classes. The samples are kept
    in memory, in float64.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> angle = np.random.default_rng(0).random(1000) * 6
    >>> circle = xr.Dataset({"activation": (("sample", "node"), np.column_stack([np.sin(angle), np.cos(angle)]))})
    >>> round(pk.measure(xr.DataTree.from_dict({"circle": circle}), pk.metrics.TwoNN())["circle"]["twonn"].item(), 1)
    1.0
    """

    size: int = 2000
    discard: float = 0.1
    seed: int = 0
    limits: ClassVar[Limits] = {"size": at_least(3), "discard": share(zero=True), "seed": at_least(0)}
    name: ClassVar[str] = "twonn"
    ranges: ClassVar[Ranges] = {"twonn": SIZE, "twonn_error": SIZE}
    headline: ClassVar[Headline] = Headline(
        "twonn",
        None,
        "neighbouring samples differ in many directions",
        beside="twonn_error",
        missing="it needs three samples that differ from all others, and finite values",
    )

    def memory(self, spec: Spec, samples: int) -> int:
        rows = min(self.size, samples)
        return 3 * 8 * rows * spec.nodes + _ROWS * (3 * 8 * rows + 2 * 8 * _CANDIDATES * spec.nodes)

    def compute_samples(self, samples: Samples) -> Variables:
        chosen = np.sort(np.argsort(draws(samples.rows, self.seed), kind="stable")[: self.size])
        x = samples.take(chosen).astype(np.float64)
        nearest = _two_nearest(x) if len(x) > 2 else np.zeros((0, 2))
        known = (nearest[:, 0] > 0) & np.isfinite(nearest).all(axis=1)
        found, ratios = np.nan, np.log(nearest[known, 1] / nearest[known, 0])
        if len(ratios) > 2 and ratios.any() and np.isfinite(nearest).all():
            found = _slope(np.sort(ratios), self.discard)
        return {
            "twonn": ((), np.asarray(found)),
            "twonn_error": ((), np.asarray(found / np.sqrt(max(1, len(ratios))))),
            "twonn_size": ((), np.asarray(len(ratios))),
        }


@np.errstate(invalid="ignore", over="ignore")
def _two_nearest(x: Array) -> Array:
    """The distances of each of the rows `x` to its nearest and second nearest, (row, 2)."""
    x = x - x[0]
    x -= x.mean(axis=0)
    squares, found = (x**2).sum(axis=1), np.empty((len(x), 2))
    count = min(_CANDIDATES, len(x) - 1)
    for start in in_turn(range(0, len(x), _ROWS)):
        rows = x[start : start + _ROWS]
        around = squares - 2 * (rows @ x.T)  # the same for all of a row but for a constant, up to rounding
        around[np.arange(len(rows)), np.arange(start, start + len(rows))] = np.inf
        near = np.argpartition(around, count - 1, axis=1)[:, :count]
        exact = np.stack([np.linalg.norm(x[near[:, n]] - rows, axis=1) for n in range(count)], axis=1)
        found[start : start + len(rows)] = np.sort(exact, axis=1)[:, :2]
    return found


def _slope(ratios: Array, discard: float) -> float:
    """The slope of the line through 0 that fits −log(1 − F) of the ascending ratios by least squares."""
    kept = max(2, int(len(ratios) * (1 - discard)))
    x, y = ratios[:kept], -np.log1p(-np.arange(1, kept + 1) / len(ratios))
    below = np.isfinite(y)  # F is 1 at the largest, where none is discarded
    x, y = x[below], y[below]
    return float(x @ y / (x @ x)) if x.any() else float("nan")
