"""Every metric that comes with probekit, on real activations: digits through an MLP trained on them and a ResNet-18.

The references are those of numpy, scipy and scikit-learn, or the formula written out, of activations that plain hooks
took; none is made with probekit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, zip_longest
from math import inf, lcm
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
import xarray as xr
from scipy import special, stats
from scipy.integrate import quad
from scipy.spatial.distance import cdist, pdist
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from sklearn.metrics import calinski_harabasz_score, mutual_info_score, roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import probekit as pk
from probekit import plugins
from probekit._measure.metric_set import resolved
from probekit.metrics import StreamingMetric

pytestmark = pytest.mark.slow

Array: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]
Variables: TypeAlias = dict[str, Any]
Along: TypeAlias = Callable[..., Any]  # an axis
Reference: TypeAlias = Callable[[Array, Array], Variables]

CLASSES = 10
PAIRS = np.triu_indices(CLASSES, 1)
SITES = {"mlp": ["1", "1:grad", "3"], "resnet": ["bn1", "layer1", "layer4"]}
SPECS = {"var": "var:ddof=1", "saturation": "saturation:bounds=(0,1)"}
SPECS |= {
    "linear_probe": "linear_probe:method='ridge',alpha=1e-3,shuffles=0",
    "knn_accuracy": "knn_accuracy:1,shuffles=0",
}
SPECS |= {"participation_ratio": "participation_ratio:biased=True"}
SPECS |= {name: f"{name}:corrected=False" for name in ("selectivity", "perplexity", "fisher")}
SPECS |= {name: f"{name}:corrected=False" for name in ("ks", "wasserstein", "dprime", "effective_rank")}
SPECS |= {name: f"{name}:corrected=False" for name in ("procrustes", "svcca", "pwcca")}
SPECS |= {"rsa": "rsa:'correlation'"}
SPECS |= {name: f"{name}:bins=32,corrected=False" for name in ("overlap", "entropy", "mutual_information")}
EACH = ["count", "mean", "std", "min", "max", "median", "sparsity", "selectivity", "fisher", "effective_rank"]
NODES = {"ks": 6, "wasserstein": 6, "auroc": 6, "overlap": 32, "entropy": 32, "mutual_information": 32}  # of slow loops

mean64: Along = partial(np.mean, dtype=np.float64)
var64: Along = partial(np.var, dtype=np.float64)


def of_classes(function: Along, x: Array, y: Array) -> Array:
    """What a function along the samples gives for each class, (label, ...)."""
    return np.stack([function(x[y == code], axis=0) for code in range(CLASSES)])


def per_class(name: str, function: Along) -> Reference:
    return lambda x, y: {name: of_classes(function, x, y)}


def shares(name: str, hits: Mask, y: Array) -> Variables:
    return {name: of_classes(np.mean, hits, y), f"{name}_node": hits.mean(0), f"{name}_site": hits.mean(0).mean()}


def saturation(x: Array, y: Array, low: float = 0, high: float = 1) -> Variables:
    return shares("saturation", (x <= np.float32(low + 0.05)) | (x >= np.float32(high - 0.05)), y)


def chosen_nodes(name: str, hits: Mask) -> Variables:
    return {name: hits.sum(), f"{name}_share": hits.mean()}


def selectivity(x: Array, y: Array) -> Variables:
    means = of_classes(mean64, x, y)
    *others, most = np.sort(means, axis=0)
    rest, signed = np.mean(others, axis=0), x.min(0) < 0
    return {
        "selectivity": np.where(signed, np.nan, (most - rest) / (most + rest + 1e-6)),
        "selectivity_preferred": (means == most) & (others[0] < most) & ~signed,
    }


def perplexity(x: Array, y: Array) -> Variables:
    with np.errstate(invalid="ignore"):  # dead nodes
        return {"perplexity": np.exp(stats.entropy(of_classes(np.sum, x > 0, y)))}


def cells(values: Array, y: Array, bins: int = 32) -> tuple[Array, Array, Array, Array]:
    """Edges and atoms of one node, and the samples of each class in bins and on atoms, (label, bin) and (label, atom).

    Atoms are values that 1 % of the samples share; bins have equal mass, each class weighing the same, by integers.
    """
    found, times = np.unique(values, return_counts=True)
    atoms = found[(times > 1) & (100 * times >= len(values))]
    on_atoms, loose = of_classes(np.sum, values[:, None] == atoms, y), ~np.isin(values, atoms)
    if not loose.any():
        return np.full(bins + 1, np.nan, values.dtype), atoms, np.zeros((CLASSES, bins), np.int64), on_atoms
    sizes, order = np.bincount(y).tolist(), np.flatnonzero(loose)[np.argsort(values[loose])]
    mass = list(accumulate(lcm(*sizes) // sizes[code] for code in y[order]))
    edges = values[order[[*(bisect_right(mass, edge * mass[-1] // bins) for edge in range(bins)), -1]]]
    in_bins = of_classes(lambda x, axis: np.histogram(x, edges)[0], values[loose], y[loose])
    return edges, atoms, in_bins, on_atoms


def counted(values: Array, y: Array) -> Array:
    """Samples in the cells of one node, (label, cell)."""
    return np.hstack(cells(values, y)[2:])


def histogram(x: Array, y: Array) -> Variables:
    edges, atoms, in_bins, on_atoms = zip(*(cells(values, y) for values in x.T), strict=True)
    each_atom = list(zip_longest(*atoms, fillvalue=np.nan))
    each_count = list(zip_longest(*(counts.T for counts in on_atoms), fillvalue=[0] * CLASSES))
    return {
        "histogram": np.stack(in_bins, axis=1),
        "histogram_edges": np.stack(edges),
        "histogram_atoms": np.array(each_count, np.int64).reshape(-1, x.shape[1], CLASSES).T,
        "histogram_atom": np.array(each_atom, x.dtype).reshape(-1, x.shape[1]).T,
    }


def kept(y: Array) -> Mask:
    """Which classes have the 10 samples that metrics of columns ask for."""
    return np.bincount(y) >= 10


def entropy(x: Array, y: Array) -> Variables:
    each = np.stack([stats.entropy(counted(values, y), base=2, axis=1) for values in x.T], axis=1)
    return {"entropy": np.where(kept(y)[:, None], each, np.nan)}


def mutual_information(x: Array, y: Array) -> Variables:
    """scikit-learn's, in bits."""
    found = np.empty(x.shape[1])
    for node, values in enumerate(x.T):
        table = counted(values, y)[kept(y)]
        found[node] = mutual_info_score(None, None, contingency=table) / np.log(2)
    return {"mutual_information": found}


def distances(name: str, table: Array, x: Array, among: Mask) -> Variables:
    """Of a table (label, label_b, node): the pairs of the classes chosen, their mean and their largest."""
    table = np.where((among[:, None] & among)[..., None], table, np.nan)
    of_nodes = {f"{name}_mean": np.nanmean(table[PAIRS], 0), f"{name}_max": np.nanmax(table[PAIRS], 0)}
    return {name: table, **of_nodes, f"{name}_constant": (x == x[0]).all(0)}


def overlap(x: Array, y: Array) -> Variables:
    pairs, rest = np.empty((CLASSES, CLASSES, x.shape[1])), np.full((CLASSES, x.shape[1]), np.nan)
    for node, values in enumerate(x.T):
        share = counted(values, y) / np.bincount(y)[:, None]
        pairs[..., node] = np.minimum(share[:, None], share).sum(-1)
        for code in np.flatnonzero(kept(y)):
            others = share[kept(y) & (np.arange(CLASSES) != code)].mean(0)
            rest[code, node] = np.minimum(share[code], others).sum()
    found = distances("overlap", pairs, x, kept(y))
    every, mean = found.pop("overlap"), found.pop("overlap_mean")
    return found | {"overlap": mean, "overlap_pairs": every, "overlap_rest": rest}


def two_samples(name: str, distance: Callable[[Array, Array], float]) -> Reference:
    """A distance of two samples at one node, for every pair of classes at every node."""

    def reference(x: Array, y: Array) -> Variables:
        table = np.zeros((CLASSES, CLASSES, x.shape[1]))
        for a, b in zip(*PAIRS, strict=True):
            table[a, b] = [distance(ours, theirs) for ours, theirs in zip(x[y == a].T, x[y == b].T, strict=True)]
        return distances(name, table + table.swapaxes(0, 1), x, kept(y))

    return reference


def auroc(x: Array, y: Array) -> Variables:
    """Pairs from rank sums, as Mann and Whitney; one class against the rest from scikit-learn."""
    sizes, table = np.bincount(y), np.empty((CLASSES, CLASSES, x.shape[1]))
    for a, b in np.ndindex(CLASSES, CLASSES):
        ranks = stats.rankdata(np.concatenate([x[y == b], x[y == a]]), axis=0)[: sizes[b]]
        table[a, b] = (ranks.sum(0) - sizes[b] * (sizes[b] + 1) / 2) / (sizes[a] * sizes[b])
    found, compared = distances("auroc", table, x, kept(y)), kept(y)[y]
    rest = np.full((CLASSES, x.shape[1]), np.nan)
    for code in np.flatnonzero(kept(y)):
        rest[code] = [roc_auc_score(y[compared] == code, values) for values in x[compared].T]
    return {"auroc": found["auroc"], "auroc_constant": found["auroc_constant"], "auroc_rest": rest}


def dprime(x: Array, y: Array) -> Variables:
    means, variances = of_classes(mean64, x, y), of_classes(var64, x, y)
    apart, spread = np.abs(means[:, None] - means), np.sqrt((variances[:, None] + variances) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        table = np.where((apart == 0) & (spread == 0), 0, apart / spread)
    return distances("dprime", table, x, kept(y))


def fisher(x: Array, y: Array) -> Variables:
    """From scipy's analysis of variance, which has no number for a constant node."""
    ratio, varies = np.zeros(x.shape[1]), (x != x[0]).any(0)
    f = stats.f_oneway(*(x[y == code][:, varies].astype(np.float64) for code in range(CLASSES))).statistic
    ratio[varies] = f * (CLASSES - 1) / (len(x) - CLASSES)
    return {"fisher": ratio}


def of_nearest_mean(x: Array, y: Array) -> Any:
    """Each row's own class has the mean of its other rows; the variance of a mean is taken from squared distances."""
    x, counts = x.astype(np.float64), np.bincount(y)
    means, rows = of_classes(mean64, x, y), np.arange(len(y))
    variance = np.square(x - means[y]).sum() / (len(x) - CLASSES)
    apart = cdist(x, means, "sqeuclidean") - variance / counts
    without = (counts[y][:, None] * means[y] - x) / (counts[y] - 1)[:, None]
    apart[rows, y] = np.square(x - without).sum(1) - variance / (counts[y] - 1)
    return (apart.argmin(1) == y).mean()


def separability(x: Array, y: Array) -> Variables:
    within = (np.bincount(y) @ of_classes(var64, x, y)).sum()
    return {
        "separability": (len(x) * var64(x, axis=0).sum() - within) / within - (CLASSES - 1) / (len(x) - CLASSES),
        "separability_calinski_harabasz": calinski_harabasz_score(x.astype(np.float64), y),
        "separability_nearest_mean": of_nearest_mean(x, y),
    }


def neural_collapse(x: Array, y: Array) -> Variables:
    means, counts = of_classes(mean64, x, y), np.bincount(y)
    apart = means - means.mean(0)
    covariances = [np.cov(x[y == code].T, dtype=np.float64) for code in range(CLASSES)]
    noise = np.array([np.trace(covariance) for covariance in covariances]) / counts
    centring = np.eye(CLASSES) - 1 / CLASSES
    products = centring @ (apart @ apart.T - np.diag(noise)) @ centring
    reliability = np.trace(products) / np.square(apart).sum()
    inverse = np.linalg.pinv(apart / np.sqrt(CLASSES), rcond=1e-12)  # (MᵀM)⁺ = M⁺(M⁺)ᵀ, which loses fewer digits
    plug_in = np.trace(inverse.T @ np.mean(covariances, axis=0) @ inverse) / CLASSES
    norms = np.sqrt(np.diag(products).clip(0))
    lengths = np.where(norms > 0, norms, np.nan)
    cosines = (products / lengths / lengths[:, None])[PAIRS]
    known = 1 if reliability >= 0.5 else np.nan
    return {
        "neural_collapse_nc1": plug_in / reliability if reliability > 0 else inf,
        "neural_collapse_nc2_norms": stats.variation(norms) * known,
        "neural_collapse_nc2_cosines": np.abs(cosines + 1 / (CLASSES - 1)).mean() * known,
        "neural_collapse_nc4": of_nearest_mean(x, y),
        "neural_collapse_reliability": reliability,
    }


def cdnv(x: Array, y: Array) -> Variables:
    means, counts = of_classes(mean64, x, y), np.bincount(y)
    variance = of_classes(partial(var64, ddof=1), x, y).sum(1)
    squares, noise = cdist(means, means, "sqeuclidean"), (variance / counts)[:, None] + variance / counts
    distance, spread = squares - noise, (variance[:, None] + variance) / 2
    within = sum(c * var64(x[y == code], axis=0) for code, c in enumerate(counts))

    def below(t: float, a: int, b: int) -> float:
        """E[exp(−t S)] of the mean S of two classes' variances, of χ² variables with the shares of the nodes."""
        return float(np.prod([(1 + within / within.sum() * t / f) ** (-f / 2) for f in counts[[a, b]] - 1]))

    excess = [quad(below, 0, np.inf, (a, b), epsabs=0, epsrel=1e-10)[0] for a, b in zip(*PAIRS, strict=True)]
    table = np.where(distance > 0, spread / np.where(distance > 0, distance, 1), inf)
    np.fill_diagonal(table, np.nan)
    return {
        "cdnv": table[PAIRS].mean(),
        "cdnv_median": np.median(table[PAIRS]),
        "cdnv_inverse": ((squares[PAIRS] / excess - noise[PAIRS]) / spread[PAIRS]).mean(),
        "cdnv_pairs": table,
    }


def directions(x: Array) -> Array:
    return x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)


def alignment(x: Array, y: Array) -> Variables:
    f = directions(x)
    within = np.array([pdist(f[y == code], "sqeuclidean").mean() for code in range(CLASSES)])
    between = [cdist(f[y == a], f[y == b], "sqeuclidean").mean() for a, b in zip(*PAIRS, strict=True)]
    return {"alignment": within.mean(), "alignment_between": np.mean(between), "alignment_classes": within}


def uniformity(x: Array, y: Array) -> Variables:
    return {
        "uniformity": np.log(np.exp(-2 * pdist(directions(x), "sqeuclidean")).mean()),
        "uniformity_floor": np.log(special.hyp0f1(x.shape[1] / 2, 4.0)) - 4,
        "uniformity_size": np.int64(len(x)),
    }


def knn_accuracy(x: Array, y: Array) -> Variables:
    """By the nearest sample, so that no two are equally near."""
    apart = cdist(x.astype(np.float64), x.astype(np.float64))
    np.fill_diagonal(apart, inf)
    hits = y[apart.argmin(1)] == y
    shares, counts = of_classes(np.mean, hits, y), np.bincount(y)
    return {
        "knn_accuracy": hits.mean(),
        "knn_accuracy_chance": counts.max() / len(y),
        "knn_accuracy_se": np.sqrt(hits.var() / len(y)),
        "knn_accuracy_balanced": shares.mean(),
        "knn_accuracy_balanced_chance": 1 / CLASSES,
        "knn_accuracy_balanced_se": np.sqrt((shares * (1 - shares) / counts).sum()) / CLASSES,
        "knn_accuracy_size": np.int64(len(y)),
    }


def deviations(x: Array) -> Array:
    """The singular values of at least a millionth of the largest: what is less is of rounding."""
    found = np.linalg.svd(x - mean64(x, axis=0), compute_uv=False)
    return found.compress(found > 1e-6 * found[0])


def participation_ratio(x: Array, y: Array) -> Variables:
    return {"participation_ratio": (deviations(x) ** 2).sum() ** 2 / (deviations(x) ** 4).sum()}


def top_samples(x: Array, y: Array) -> Variables:
    order = np.argsort(-x, axis=0, kind="stable")[:10]
    return {"top_samples": order.T, "top_samples_value": np.take_along_axis(x, order, 0).T}


def draws(x: Array) -> Array:
    """The number that each row of a store draws by the seed 0."""
    return np.random.default_rng(np.random.SeedSequence(0, spawn_key=(0,))).random(len(x))


def held_out(x: Array, y: Array) -> Mask:
    """Of each class the quarter of the rows whose draws are least."""
    held, drawn = np.zeros(len(y), bool), draws(x)
    for code in range(CLASSES):
        of_class = np.flatnonzero(y == code)
        held[of_class[drawn[of_class].argsort()][: int(len(of_class) / 4 + 0.5)]] = True
    return held


def linear_probe(x: Array, y: Array) -> Variables:
    held = held_out(x, y)
    z = StandardScaler().fit(x[~held].astype(np.float64)).transform(x.astype(np.float64))
    fitted = Ridge(alpha=1e-3 * (~held).sum()).fit(z[~held], np.eye(CLASSES)[y[~held]])
    hits, codes = fitted.predict(z[held]).argmax(1) == y[held], y[held]
    shares = of_classes(np.mean, hits, codes)
    counts = np.bincount(codes)
    return {
        "linear_probe": hits.mean(),
        "linear_probe_chance": (codes == np.bincount(y[~held]).argmax()).mean(),
        "linear_probe_se": np.sqrt(hits.var() / len(hits)),
        "linear_probe_effective_size": float(len(hits)),
        "linear_probe_balanced": shares.mean(),
        "linear_probe_balanced_chance": 1 / CLASSES,
        "linear_probe_balanced_se": np.sqrt((shares * (1 - shares) / counts).sum()) / CLASSES,
        "linear_probe_balanced_effective_size": min(
            shares.mean() * (1 - shares.mean()) / ((shares * (1 - shares) / counts).sum() / CLASSES**2),
            CLASSES**2 / (1 / counts).sum(),
        ),
        "linear_probe_alpha": 1e-3,
        "linear_probe_held_out": held.sum(),
    }


def silhouette(x: Array, y: Array) -> Variables:
    """Rousseeuw's; also with the nearest class by every other sample of each class, and its distance by the others."""
    own, counts, half = np.eye(CLASSES, dtype=bool)[y], np.bincount(y), np.zeros(len(y), int)
    for code in range(CLASSES):
        half[y == code] = np.arange(counts[code]) % 2
    apart = cdist(x.astype(np.float64), x.astype(np.float64))
    a = (apart @ own)[own] / (counts[y] - 1)
    means = [np.where(own, inf, apart[:, h] @ own[h] / own[h].sum(0)) for h in (half == 0, half == 1)]
    b = np.where(own, inf, apart @ own / counts).min(1)
    crossed = [np.take_along_axis(means[1 - h], means[h].argmin(1)[:, None], 1)[:, 0] for h in (0, 1)]
    each, halves = (b - a) / np.maximum(a, b), np.mean([(c - a) / np.maximum(a, c) for c in crossed], axis=0)
    return {
        "silhouette": of_classes(np.mean, each, y),
        "silhouette_site": each.mean(),
        "silhouette_crossfit": halves.mean(),
        "silhouette_size": np.int64(len(each)),
    }


def gradient_norm(x: Array, y: Array) -> Variables:
    sizes = np.abs(x.astype(np.float64))
    return {"gradient_norm": sizes.mean(0), "gradient_norm_site": np.linalg.norm(sizes, axis=1).mean()}


def cka(x: Sequence[Array], y: Array) -> Variables:
    """By the samples' kernels without their diagonals, whose rows and columns are centred (Székely and Rizzo 2014)."""
    kernels = []
    for site in x:
        rows = site - mean64(site, axis=0)
        kernel, n = rows @ rows.T, len(rows)
        np.fill_diagonal(kernel, 0)
        sums = kernel.sum(0)
        kernel = kernel - (sums[:, None] + sums) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(kernel, 0)
        kernels.append(kernel.ravel())
    table = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in kernels] for a in kernels]
    return {"cka": np.array(table), "cka_batch": np.int64(len(x[0]))}


def rankme(x: Array, y: Array) -> Variables:
    roots = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    shares = roots / roots.sum() + 1e-7
    return {"rankme": np.exp(-(shares * np.log(shares)).sum())}


def twonn(x: Array, y: Array) -> Variables:
    """Facco et al. (2017), of 2,000 samples at most."""
    some = x[np.sort(np.argsort(draws(x))[:2000])].astype(np.float64)
    apart = np.sort(cdist(some, some), axis=1)
    apart = apart[apart[:, 1] > 0]
    ratios = np.log(np.sort(apart[:, 2] / apart[:, 1]))[: int(0.9 * len(apart))]
    heights = -np.log(1 - np.arange(1, len(ratios) + 1) / len(apart))
    slope = ratios @ heights / (ratios @ ratios)
    return {"twonn": slope, "twonn_error": slope / np.sqrt(len(apart)), "twonn_size": np.int64(len(apart))}


def of_pairs(name: str, function: Callable[[Array, Array], float]) -> Callable[..., Variables]:
    """What a function of the centred samples of two sites gives."""

    def found(x: Sequence[Array], y: Array) -> Variables:
        sites = [site - mean64(site, axis=0) for site in x]
        return {name: np.array([[function(a, b) for b in sites] for a in sites])}

    return found


def _rotated(a: Array, b: Array) -> float:
    a, b = (each / np.linalg.norm(each) for each in (a, b))
    square = 2 - 2 * np.linalg.svd(a.T @ b, compute_uv=False).sum()
    return float(np.sqrt(square)) if square > 1e-12 else 0.0


def _basis(x: Array, share: float) -> Array:
    """Orthonormal values of the samples along the principal directions that hold a share of the variance."""
    u, roots, _ = np.linalg.svd(x, full_matrices=False)
    number = int((np.cumsum(roots**2) < share * (roots**2).sum()).sum()) + 1 if share < 1 else len(roots)
    return u[:, : min(number, int((roots > 1e-5 * roots[0]).sum()))]


def _canonical(a: Array, b: Array, share: float, weighted: bool) -> float:
    of_a, of_b = _basis(a, share), _basis(b, share)
    if of_a.shape[1] + of_b.shape[1] >= len(a):
        return np.nan
    u, correlations, _ = np.linalg.svd(of_a.T @ of_b, full_matrices=False)
    weights = np.abs((of_a @ u).T @ a).sum(1) if weighted else None
    return float(np.average(correlations, weights=weights))


procrustes = of_pairs("procrustes", _rotated)
svcca = of_pairs("svcca", partial(_canonical, share=0.99, weighted=False))
pwcca = of_pairs("pwcca", partial(_canonical, share=1.0, weighted=True))


def rsa(x: Sequence[Array], y: Array) -> Variables:
    dissimilarities = np.stack([pdist(of_classes(mean64, site, y), "correlation") for site in x])
    return {"rsa": stats.spearmanr(dissimilarities, axis=1).statistic}


# Each with its relative tolerance: 0 where nothing is rounded, since it is counted or picked out; 1e-12 for sums in
# float64; more where these cancel (near means), or where the metric has the squares of the reference's numbers.
REFERENCES: dict[str, tuple[Reference, float]] = {
    "count": (lambda x, y: {"count": np.bincount(y)[:, None].repeat(x.shape[1], 1)}, 0),
    "mean": (per_class("mean", mean64), 1e-12),
    "std": (per_class("std", partial(np.std, dtype=np.float64)), 1e-12),
    "var": (per_class("var", partial(var64, ddof=1)), 1e-12),
    "min": (per_class("min", np.min), 0),
    "max": (per_class("max", np.max), 0),
    "median": (per_class("median", np.median), 0),
    "quantile": (per_class("quantile", partial(np.quantile, q=[0.25, 0.5, 0.75])), 0),
    "histogram": (histogram, 0),
    "sparsity": (lambda x, y: shares("sparsity", x <= 0, y), 1e-15),
    "dead": (lambda x, y: chosen_nodes("dead", x.max(0) <= 0), 0),
    "always_on": (lambda x, y: chosen_nodes("always_on", x.min(0) > 0), 0),
    "saturation": (saturation, 1e-15),
    "selectivity": (selectivity, 1e-12),
    "perplexity": (perplexity, 1e-12),
    "entropy": (entropy, 1e-12),
    "mutual_information": (mutual_information, 1e-12),
    "overlap": (overlap, 1e-12),
    "ks": (two_samples("ks", lambda a, b: float(stats.ks_2samp(a, b, method="asymp").statistic)), 1e-12),
    "wasserstein": (two_samples("wasserstein", lambda a, b: float(stats.wasserstein_distance(a, b))), 1e-12),
    "auroc": (auroc, 1e-12),
    "dprime": (dprime, 1e-10),
    "fisher": (fisher, 1e-12),
    "separability": (separability, 1e-12),
    "neural_collapse": (neural_collapse, 1e-7),
    "effective_rank": (lambda x, y: {"effective_rank": np.exp(stats.entropy(deviations(x)))}, 1e-9),
    "participation_ratio": (participation_ratio, 1e-11),
    "rankme": (rankme, 1e-5),
    "stable_rank": (lambda x, y: {"stable_rank": (deviations(x) ** 2).sum() / deviations(x)[0] ** 2}, 1e-9),
    "twonn": (twonn, 1e-6),
    "top_samples": (top_samples, 0),
    "linear_probe": (linear_probe, 1e-12),
    "silhouette": (silhouette, 1e-9),
    "knn_accuracy": (knn_accuracy, 1e-12),
    "cdnv": (cdnv, 1e-9),
    "alignment": (alignment, 1e-9),
    "uniformity": (uniformity, 1e-9),
    "gradient_norm": (gradient_norm, 1e-12),
}
OF_SITES: dict[str, tuple[Callable[[Sequence[Array], Array], Variables], float]] = {
    "cka": (cka, 1e-12),
    "rsa": (rsa, 1e-12),
    "procrustes": (procrustes, 1e-6),
    "svcca": (svcca, 1e-6),
    "pwcca": (pwcca, 1e-5),
}
TOLERANCES = {name: rtol for name, (_, rtol) in [*REFERENCES.items(), *OF_SITES.items()]}
METRICS = [SPECS.get(name, name) for name in TOLERANCES]


@dataclass(frozen=True)
class Real:
    """A model and its data, what plain hooks took at its sites, and what probekit measured of its store."""

    model: nn.Module
    data: tuple[Tensor, Tensor]
    options: dict[str, Any]
    taken: dict[str, Array]
    x: dict[str, Array]
    path: Path
    stored: xr.DataTree

    @property
    def y(self) -> Array:
        return self.data[1].numpy()


def measured(path: Path, model: nn.Module, data: tuple[Tensor, Tensor], size: int, taken: dict[str, Array]) -> Real:
    options: dict[str, Any] = {"sites": list(taken), "batch_size": size}
    pk.capture(model, data, path, **options)
    x = {site: pooled(activations) for site, activations in taken.items()}
    return Real(model, data, options, taken, x, path, pk.measure(path, METRICS))


def pooled(taken: Array) -> Array:
    """The observations (sample, node): the means of maps over their positions."""
    flat = taken.reshape(*taken.shape[:2], -1)
    return flat.mean(2, dtype=np.float64).astype(np.float32) if taken.ndim > 2 else taken


def of_positions(taken: Array, y: Array) -> tuple[Array, Array]:
    """The observations (observation, node) and their classes: all positions of maps."""
    maps = taken.reshape(*taken.shape[:2], -1)
    return np.moveaxis(maps, 1, 2).reshape(-1, maps.shape[1]), y.repeat(maps.shape[2])


def hooked(model: nn.Module, x: Tensor, sites: Sequence[str], size: int) -> dict[str, Array]:
    """What the modules at the sites give, in batches of `size`."""
    given: dict[str, list[Tensor]] = {site: [] for site in sites}

    def keep(site: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        given[site].append(output.clone())  # before a ReLU writes over it

    handles = [model.get_submodule(site).register_forward_hook(partial(keep, site)) for site in sites]
    with torch.no_grad():
        for batch in x.split(size):
            model(batch)
    for handle in handles:
        handle.remove()
    return {site: torch.cat(outputs).numpy() for site, outputs in given.items()}


def gradients(model: nn.Sequential, x: Tensor, y: Tensor, size: int) -> Array:
    """Those of each sample's cross-entropy with respect to what the first ReLU gives."""
    found: list[Tensor] = []
    for batch, codes in zip(x.split(size), y.split(size), strict=True):
        hidden = model[:2](batch).detach().requires_grad_()
        loss = nn.functional.cross_entropy(model[2:](hidden), codes, reduction="sum")
        found += torch.autograd.grad(loss, hidden)
    return torch.cat(found).numpy()


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    return torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target, dtype=torch.int64)


def trained(x: Tensor, y: Tensor) -> nn.Sequential:
    torch.manual_seed(0)
    first, second, last = nn.Linear(64, 32), nn.Linear(32, 16), nn.Linear(16, CLASSES)
    model = nn.Sequential(first, nn.ReLU(), second, nn.Sigmoid(), last)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Real:
    """All digits through an MLP that was trained on them."""
    x, y = digits()
    model = trained(x, y)
    forward = hooked(model, x, ["1", "3"], 256)
    taken = {"1": forward["1"], "1:grad": gradients(model, x, y, 256), "3": forward["3"]}
    return measured(tmp_path_factory.mktemp("mlp") / "acts.zarr", model, (x, y), 256, taken)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Real:
    """299 digits through a ResNet-18 with random weights; of the last class too few to be compared."""
    x, y = digits()
    some = ((y < CLASSES - 1) | ((y == CLASSES - 1).cumsum(0) <= 6)).nonzero().flatten()[:299]
    images = nn.functional.interpolate(x[some].view(-1, 1, 8, 8).expand(-1, 3, -1, -1), size=32, mode="bilinear")
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    taken = hooked(model, images, SITES["resnet"], 100)
    return measured(tmp_path_factory.mktemp("resnet") / "acts.zarr", model, (images, y[some]), 100, taken)


@pytest.fixture(params=SITES)
def real(request: pytest.FixtureRequest) -> Real:
    found: Real = request.getfixturevalue(request.param)
    return found


def assert_agree(found: xr.Dataset, expected: Variables, rtol: float) -> None:
    """In the names of all variables, shape, dtype and number."""
    assert set(found.data_vars) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].values, np.asarray(values), rtol, 0, err_msg=name, strict=True)


def of_metric(results: xr.Dataset, name: str) -> xr.Dataset:
    return results[[str(key) for key, variable in results.data_vars.items() if variable.attrs["metric"] == name]]


def test_every_metric_that_comes_with_probekit_has_a_reference() -> None:
    built_in = {
        name for name, plugin in plugins.find(plugins.METRICS).items() if plugin.distribution == "probekit-torch"
    }
    # The tests of these metrics compare them with scipy and scikit-learn.
    elsewhere = {"correlation", "ridge_probe"}  # these data have no column of numbers
    elsewhere |= {"skewness", "kurtosis", "lifetime_sparseness", "population_sparseness", "dormant", "feature_entropy"}
    elsewhere |= {"coactivation", "node_correlation"}
    assert built_in == {*TOLERANCES, *elsewhere}


def test_what_is_taken_is_near_products_of_matrices_in_float64(mlp: Real) -> None:
    first, bias, second, second_bias, last, last_bias = (p.detach().double().numpy() for p in mlp.model.parameters())
    relu = np.maximum(mlp.data[0].double().numpy() @ first.T + bias, 0)
    sigmoid = special.expit(relu @ second.T + second_bias)
    error = special.softmax(sigmoid @ last.T + last_bias, axis=1) - np.eye(CLASSES)[mlp.y]
    gradient = (error @ last * sigmoid * (1 - sigmoid)) @ second
    for site, expected in {"1": relu, "1:grad": gradient, "3": sigmoid}.items():
        np.testing.assert_allclose(mlp.taken[site], expected, rtol=0, atol=1e-5)
    assert ((error + np.eye(CLASSES)[mlp.y]).argmax(1) == mlp.y).mean() > 0.95


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize(("store", "site"), [(store, site) for store, sites in SITES.items() for site in sites])
def test_a_metric_of_a_site_is_that_of_its_reference(
    store: str, site: str, name: str, request: pytest.FixtureRequest
) -> None:
    real: Real = request.getfixturevalue(store)
    (reference, rtol), found = REFERENCES[name], of_metric(real.stored[site].dataset, name)
    counts = name in {
        "sparsity",
        "dead",
        "always_on",
        "saturation",
        "perplexity",
    }  # each position of a map
    x, y = of_positions(real.taken[site], real.y) if counts else (real.x[site], real.y)
    if name in NODES:
        nodes = np.random.default_rng(0).permutation(x.shape[1])[: NODES[name]]
        x, found = x[:, nodes], found.isel(node=nodes)
    assert_agree(found, reference(x, y), rtol)


@pytest.mark.parametrize("name", OF_SITES)
def test_sites_are_compared_as_by_the_reference(real: Real, name: str) -> None:
    reference, rtol = OF_SITES[name]
    np.testing.assert_array_equal(real.stored.coords["site"], list(real.x))
    assert_agree(of_metric(real.stored.dataset, name), reference(list(real.x.values()), real.y), rtol)


def test_a_model_as_it_runs_has_the_numbers_of_its_store(real: Real) -> None:
    streaming = [spec for spec in METRICS if isinstance(resolved(spec)[0], StreamingMetric)]
    live = pk.measure_live(real.model, real.data, streaming, **real.options).to_dict()
    found = {name: variable for dataset in live.values() for name, variable in dataset.data_vars.items()}
    assert {variable.attrs["metric"] for variable in found.values()} == {spec.split(":")[0] for spec in streaming}
    for path, dataset in live.items():
        for name, variable in dataset.data_vars.items():
            expected, rtol = real.stored[path].dataset[name], TOLERANCES[variable.attrs["metric"]]
            np.testing.assert_allclose(variable, expected, rtol, 0, err_msg=f"{path} {name}", strict=True)


def test_without_bounds_those_of_the_module_are_known(mlp: Real) -> None:
    found = pk.measure(mlp.path, "saturation", sites=["1", "3"])
    for site, high in {"1": inf, "3": 1}.items():
        assert_agree(found[site].dataset, saturation(mlp.x[site], mlp.y, high=high), 1e-15)


@pytest.mark.parametrize("positions", ["max", "each"])
@pytest.mark.parametrize("name", EACH)
def test_positions_are_pooled_or_observations(resnet: Real, positions: Any, name: str) -> None:
    """All 19,136 of them are added up in several batches, which the samples of a site alone are too few for."""
    found = pk.measure(resnet.path, SPECS.get(name, name), sites="layer1", positions=positions)
    maps = resnet.taken["layer1"]
    x, y = (maps.max((2, 3)), resnet.y) if positions == "max" else of_positions(maps, resnet.y)
    assert_agree(found["layer1"].dataset, REFERENCES[name][0](x, y), TOLERANCES[name])
