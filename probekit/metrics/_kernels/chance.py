"""What statistics of a sample are on average where activation and class are independent.

Let the labels of given samples be shuffled. The number K of samples of a class (`chosen` of `total`) among the samples
in a cell (`drawn` of `total`) is then hypergeometric, and expected values are sums over its distribution: no shuffle
has to be made.
"""

from __future__ import annotations

from functools import lru_cache
from math import log, pi, sqrt

import numpy as np
from scipy.special import digamma, gammaln

from probekit.metrics._kernels.class_pairs import in_order
from probekit.metrics.block import Array, Block, Codes

__all__ = [
    "beyond_chance",
    "expected_ks",
    "expected_variation",
    "grassberger",
    "ks_share",
    "ks_shares",
    "mean_deviation",
    "mean_of_x_log_x",
    "most_variation",
    "spread_by_halves",
]

_ROUNDING = 1e-12
_ROUNDED = 1.02  # of what is expected of more than 64 sizes of classes
_FEW = 2**14  # samples of a class, up to which more of them are looked at one by one
_ALIKE = 64  # sizes of classes that are told apart
_EXACT = 200.0  # expected numbers from which a series is exact to 1e-6
_WIDE = 12  # standard deviations of K beyond which its probability is 0 in float64
_ENTRIES = 2**20  # of a table that is in memory at a time
_KS = sqrt(pi / 2) * log(2)  # the mean of the largest |B(t)| of a Brownian bridge (Kolmogorov 1933)
_SHUFFLES = 512
_PLACES = 256  # at which the shuffles are looked at


def beyond_chance(distance: Array, expected: Array, largest: float = np.inf) -> Array:
    """A `distance` without the part that sampling adds to it, negative where it is less than `expected`.

    sgn(q) √|q| with q = D² − E², where E is what D is on average for independent classes: a distance and the sampling
    noise add up in squares. Where D is at most `largest`, q is divided by 1 − (E / largest)², so that what is that far
    apart stays so.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = distance - expected
        # The root of each factor, since a square may be infinite.
        root = np.sqrt(np.abs(apart)) * np.sqrt((distance + expected) / (1 - (expected / largest) ** 2))
        found: Array = np.where(np.abs(apart) <= _ROUNDING * expected, 0.0, np.copysign(root, apart))
    return found


def mean_deviation(total: Array | Codes | int, chosen: Array | Codes | int, drawn: Array | Codes) -> Array:
    """E|K − EK|, in the closed form of Diaconis and Zabell (1991)."""
    n, a, s = np.broadcast_arrays(np.asarray(total, float), np.asarray(chosen, float), np.asarray(drawn, float))
    above = np.floor(a * s / n) + 1  # the smallest K above its mean
    possible = (above <= np.minimum(a, s)) & (s - above <= n - a) & (s >= above)
    k = np.where(possible, above, np.maximum(0, a + s - n))
    logarithm = _log_choose(a, k) + _log_choose(n - a, s - k) - _log_choose(n, s)
    found: Array = np.where(possible, 2 * above * (n - a - s + above) / n * np.exp(logarithm), 0.0)
    return found


def expected_variation(together: Codes, samples: int, others: Codes) -> Array:
    """What cells add to the total variation of independent classes on average, by the samples in them.

    `together` (cell, class, node) are the samples of one class of so many `samples` and of each of `others` (class).
    Where these have more than 64 sizes, sizes within 1 % of each other count as one.
    """
    sizes, rows = np.unique(others, return_inverse=True)
    if len(sizes) > _ALIKE:
        sizes, rows = np.unique(np.rint(np.exp2(np.rint(np.log2(others) * _ALIKE) / _ALIKE)), return_inverse=True)
    tables = [_variations(samples, int(size)) for size in sizes]
    starts = np.cumsum([0, *map(len, tables)])[:-1]
    places = together
    if (sizes[rows] != others).any():
        places = np.rint(together * ((samples + sizes[rows]) / (samples + others))[:, None]).astype(np.int64)
    found: Array = np.concatenate(tables)[places + starts[rows][:, None]]
    return found


def most_variation(samples: int, others: int, cells: Array) -> Array:
    """The most that so many `cells` can add to the total variation of two independent classes on average, below 1.

    Its part in each cell, a mean deviation, is at most the standard one, ½ √(k (1/a + 1/b)) of k cells. For few
    samples, Lagrange's dual is less: Σ V(s) over cells that share the samples is at most λ Σ s + k max (V(s) − λ s)
    for every λ. Of larger classes it is less (Jensen's inequality). Both have room for numbers that are rounded, in
    each cell and where there are more than 64 sizes of classes.
    """
    standard = np.sqrt(cells * (1 / samples + 1 / others + cells / (2 * samples * others))) / 2
    together, slopes, above = _dual(min(samples, _FEW), min(others, _FEW))
    dual = (slopes * (together + cells) + cells * above).min(axis=0)
    most: Array = _ROUNDED * np.minimum(standard, dual)
    return most


@lru_cache(maxsize=64)
def _dual(samples: int, others: int) -> tuple[int, Array, Array]:
    """All samples, values of λ, and the most that V(s) − λ s is for each of them, (λ, 1)."""
    table, together = _variations(samples, others), samples + others
    slopes = np.geomspace(1e-3, 1, 64)[:, None] / together
    above = [(table - slope * np.arange(together + 1)).max(keepdims=True) for slope in slopes]
    return together, slopes, np.array(above)


@lru_cache(maxsize=4096)
def _variations(samples: int, others: int) -> Array:
    together = samples + others
    found: Array = mean_deviation(together, samples, np.arange(together + 1)) * (1 / samples + 1 / others) / 2
    return found


def _log_choose(n: Array, k: Array) -> Array:
    found: Array = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return found


def mean_of_x_log_x(chosen: Codes | Array, drawn: Codes | Array, total: Codes | Array | int) -> Array:
    """E[K ln K] of each element: entropies and informations of shuffled labels are sums of it (Vinh et al. 2010)."""
    triples = np.stack(np.broadcast_arrays(chosen, drawn, total), axis=-1).astype(np.int64)
    some, where = np.unique(triples.reshape(-1, 3), axis=0, return_inverse=True)
    found: Array = _of_triples(some)[where.reshape(-1)].reshape(triples.shape[:-1])
    return found


def _of_triples(triples: Codes) -> Array:
    a, b, n = triples.T.astype(np.float64)
    n = np.maximum(n, 1)
    mean = a * b / n
    variance = mean * (n - a) / n * (n - b) / np.maximum(n - 1, 1)
    found = np.zeros(len(triples))
    large = mean >= _EXACT
    if large.any():
        m, v = mean[large], variance[large]
        skew = v * (n[large] - 2 * a[large]) / n[large] * (n[large] - 2 * b[large]) / np.maximum(n[large] - 2, 1)
        found[large] = m * np.log(m) + v / (2 * m) - skew / (6 * m**2) + v**2 / (4 * m**3)
    rows = np.flatnonzero(~large & (mean > 0))
    first = np.maximum(np.maximum(0, a + b - n), np.floor(mean - _WIDE * np.sqrt(variance) - _WIDE))
    last = np.minimum(np.minimum(a, b), np.ceil(mean + _WIDE * np.sqrt(variance) + _WIDE))
    rows = rows[np.argsort((last - first)[rows], kind="stable")]  # of like width together
    start = 0
    while start < len(rows):
        together = max(1, _ENTRIES // int((last - first)[rows[start:]].min() + 1))
        part = rows[start : start + together]
        found[part] = _summed(first[part], last[part], a[part], b[part], n[part])
        start += len(part)
    return found


def _summed(first: Array, last: Array, a: Array, b: Array, n: Array) -> Array:
    k = first[:, None] + np.arange(int((last - first).max()) + 1)
    a, b, n = a[:, None], b[:, None], n[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log((a - k) * (b - k)) - np.log((k + 1) * (n - a - b + k + 1))  # ln P(K = k + 1) / P(K = k)
        ratio[k >= last[:, None]] = -np.inf
        logarithm = np.concatenate([np.zeros((len(k), 1)), np.cumsum(ratio[:, :-1], axis=1)], axis=1)
    weight = np.exp(logarithm - logarithm.max(axis=1, keepdims=True))
    found: Array = (weight * k * np.log(np.maximum(k, 1))).sum(axis=1) / weight.sum(axis=1)
    return found


def grassberger(counts: Codes) -> Array:
    """The entropy along the first axis of `counts`, in nats, less biased by few samples: Grassberger's (2003)."""
    k = np.arange(int(counts.max(initial=0)) + 1, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        terms = k * (digamma(k) + np.where(k % 2, -0.5, 0.5) * (digamma((k + 1) / 2) - digamma(k / 2)))
    terms[0] = 0.0
    samples = counts.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = np.log(samples) - in_order(terms[counts]) / samples
    return found


def expected_ks(samples: Array, others: Array) -> Array:
    """What the distance of Kolmogorov and Smirnov is on average for independent classes without ties.

    Kolmogorov's (1933) for many samples, and the next two terms as fitted to Gnedenko and Korolyuk's exact
    distribution (1951) for classes of one size: to 0.1 % there, to 3 % for classes of different sizes.
    """
    size = 2 / (1 / samples + 1 / others)
    found: Array = np.where(size > 1, _KS * np.sqrt(2 / size) - 0.5 / size + 0.155 / size**1.5, 1.0)
    return found


def ks_shares(block: Block, kept: Codes) -> Array:
    """By how much ties lower the distance that independent classes come to, as a factor of `expected_ks`: (node,).

    Distribution functions are compared only between tied values, as at a ReLU's 0. The factor is 1 without ties, and
    otherwise the ratio of means over shuffles that are drawn once, by a fixed seed, for all nodes.
    """
    factor, counts = np.ones(block.nodes), block.measured[kept]
    if len(kept) < 2:
        return factor
    codes = np.repeat(np.arange(block.classes), block.counts)
    neighbours = (codes[1:] == codes[:-1]) & np.isin(codes[1:], kept)
    tied = ((block.values[:, 1:] == block.values[:, :-1]) & neighbours).any(axis=1)
    for node in np.flatnonzero(tied):
        values = np.sort(np.concatenate([block[code][node] for code in kept]))
        ends = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, len(values))
        factor[node] = ks_share(ends, counts)
    return factor


def ks_share(ends: Codes, counts: Codes) -> float:
    """The factor of `ks_shares` at a node with ties, for classes of so many samples as `counts` (class,).

    `ends` are the numbers of samples up to each value, that value included.
    """
    walks = _shuffles(min(_PLACES, max(2, 2 * round(len(counts) / (1 / counts).sum()))))
    places = np.unique(np.rint(ends / ends[-1] * walks.shape[1]).astype(np.int64)).clip(min=1) - 1
    return float(walks[:, places].max(axis=1).mean() / walks.max(axis=1).mean())


@lru_cache(maxsize=16)
def _shuffles(places: int) -> Array:
    """|F_a − F_b| at so many ranks of the samples of two classes of one size, whose labels are shuffled."""
    steps = np.repeat([1.0, -1.0], -(-places // 2))
    drawn = np.random.default_rng(0).permuted(np.broadcast_to(steps, (_SHUFFLES, len(steps))), axis=1)
    found: Array = np.abs(drawn.cumsum(axis=1))
    return found


def spread_by_halves(values: Array) -> Array:
    """√n times the share of one class in the Wasserstein distance that independent classes come to, (node,).

    `values` (node, sample) are one class, sorted. If its n samples are divided by chance into halves, the distance of
    the halves is on average the sum of the gaps between neighbours, each times what |F_a − F_b| is there. NaN for a
    single sample, whose class has no spread that could be known.
    """
    number = values.shape[1]
    if number < 2:
        return np.full(len(values), np.nan)
    half = number // 2
    between = mean_deviation(number, half, np.arange(1, number)) * number / (half * (number - half))
    with np.errstate(invalid="ignore"):
        gaps = np.diff(values.astype(np.float64), axis=1)
    gaps[~np.isfinite(gaps)] = 0.0  # at infinities, which all classes share where their distance is finite
    found: Array = np.einsum("ni,i->n", gaps, between) / sqrt(1 / half + 1 / (number - half))
    return found
