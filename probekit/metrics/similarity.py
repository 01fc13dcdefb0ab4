"""The similarity of the representations that two sites give the same samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.errors import PluginError
from probekit.metrics._kernels.class_moments import ClassMoments
from probekit.metrics._kernels.rounding import tied_ranks, vector_error
from probekit.metrics._kernels.scatter import centred, merged_mean
from probekit.metrics.block import Array
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Parameters, Spec, State, Variables

__all__ = ["CKA", "RSA"]


@dataclass(frozen=True)
class CKA(Parameters):
    """Similarity of two sites' representations of the samples, up to rotation: linear centred kernel alignment.

    `cka` (site, site_b), float64 in [0, 1]: ``‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖)``, with X and Y the samples' values at all nodes
    of the two sites, less their means, and Frobenius norms (Kornblith et al. 2019). Exact, from cross-scatters in
    float64 that merge by the method of Chan, Golub and LeVeque (1983); symmetric, 1 on the diagonal. NaN for a site
    without spread (constant nodes, or one sample), without samples, and where a value is infinite or so large that its
    square is.

    It doesn't change when a site's nodes are rotated, permuted or all scaled alike. The directions of most variance
    decide it: two sites may agree in those and differ in everything that distinguishes classes. With fewer samples than
    nodes it is high even for unrelated sites; shuffle the samples of one site to see how high. It ignores the classes.

    The state takes 8 bytes for each pair of nodes, within a site and across sites, each pair of sites once; and each
    sample takes one multiplication per such pair. L sites of N nodes take 4 L (L + 1) N² bytes, 282 MB for 10 sites of
    800 nodes, and twice that while batches are added. Choose sites, or pool wide ones.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root, x = xr.Dataset(coords={"label": ("sample", [0, 1, 2])}), np.array([[1.0, 2], [3, 1], [0, 0]])
    >>> sites = {name: xr.Dataset({"activation": (("sample", "node"), x * k)}) for k, name in enumerate("abc", 1)}
    >>> pk.measure(xr.DataTree.from_dict({"/": root, **sites}), pk.metrics.CKA())["cka"].sel(site="a").values
    array([1., 1., 1.])
    """

    scope: ClassVar[str] = "sites"
    name: ClassVar[str] = "cka"
    headline: ClassVar[Headline] = Headline(
        "cka",
        None,
        "two sites arrange the samples alike",
        neutral=0.0,
        missing="it needs finite values, and nodes that aren't constant",
    )

    def init(self, specs: Sequence[Spec]) -> State:
        device, float64 = specs[0].device, torch.float64
        state = {"count": torch.zeros((), dtype=torch.int64, device=device)}
        state |= {f"mean_{a}": torch.zeros(spec.nodes, dtype=float64, device=device) for a, spec in enumerate(specs)}
        return state | {
            key: torch.zeros(specs[a].nodes, specs[b].nodes, dtype=float64, device=device)
            for key, a, b in _pairs(len(specs))
        }

    def update(self, state: State, x: Sequence[Tensor], y: Tensor) -> State:
        if not len(y):
            return dict(state)
        new, rows = {"count": state["count"] + len(y)}, []
        for a, batch in enumerate(x):
            new[f"mean_{a}"], row = centred(state["count"], state[f"mean_{a}"], batch)
            rows.append(row)
        return new | {key: torch.addmm(state[key], rows[a].T, rows[b]) for key, a, b in _pairs(len(x))}

    def merge(self, a: State, b: State) -> State:
        new, rows = {"count": a["count"] + b["count"]}, []
        for n in range(_sites(a)):
            key = f"mean_{n}"
            new[key], row = merged_mean(a["count"], a[key], b["count"], b[key])
            rows.append(row)
        return new | {key: torch.addr(a[key] + b[key], rows[m], rows[n]) for key, m, n in _pairs(_sites(a))}

    def finalize(self, state: State) -> Variables:
        sites = _sites(state)
        norms = torch.stack([torch.linalg.matrix_norm(state[f"cross_{a}_{a}"]) for a in range(sites)])
        table = norms.new_empty(sites, sites)
        for key, a, b in _pairs(sites):
            norm = torch.linalg.matrix_norm(state[key])
            table[a, b] = table[b, a] = (norm / norms[a]) * (norm / norms[b])
        return {"cka": (("site", "site_b"), table.cpu().numpy())}


def _pairs(sites: int) -> Iterator[tuple[str, int, int]]:
    """Each pair of sites once, including a site with itself: the key of their cross-scatter, and the two sites."""
    return ((f"cross_{a}_{b}", a, b) for a, b in combinations_with_replacement(range(sites), 2))


def _sites(state: State) -> int:
    return sum(key.startswith("mean_") for key in state)


@dataclass(frozen=True)
class RSA(Parameters):
    """Similarity of the arrangement of classes at two sites: correlation of the dissimilarities of their class means.

    `rsa` (site, site_b), float64 in [−1, 1], symmetric, 1 on the diagonal. Within each site, every two classes have a
    dissimilarity of their means; `rsa` is the correlation of these dissimilarities between two sites, over all pairs of
    classes that have samples (representational similarity analysis, Kriegeskorte et al. 2008). By default the
    dissimilarity is 1 − the Pearson correlation of the two means over the nodes, and ranks are compared (Spearman's
    correlation, ties sharing their mean rank), as in that paper. ``dissimilarity="euclidean"`` takes the Euclidean
    distance of the means; ``ranks=False`` compares the dissimilarities themselves (Pearson's correlation).

    Dissimilarities that are equal but for rounding in float64 are tied, so that a scaled or rotated copy of a site has
    the rsa 1 with it. A mean μ over N nodes may have moved by e = (√N + 1) ε (max ‖μ‖ + σ), with ε = 2^−52 and σ the
    root mean square of the samples' distances from their means. A distance of two means has then moved by 2e, and a
    correlation by the sum of e / ‖μ − its average over the nodes‖ of both. Two dissimilarities are tied where they
    differ by no more than what both may have moved. Activations are taken as they are: what a network's own float32
    arithmetic leaves of equal numbers, as in a copy that it rotates, isn't tied.

    NaN with fewer than three classes, and for a site whose dissimilarities are all equal or undefined: at constant
    nodes, with a class mean that is the same at all nodes (by correlation), both up to rounding, and where a value is
    infinite.

    The state is the class means alone. RSA compares the arrangement of classes and is blind to the spread within them.
    With few classes it is uncertain (10 classes have 45 pairs, which aren't independent). Noise in the means makes
    dissimilarities larger and correlations smaller.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root, x = xr.Dataset(coords={"label": ("sample", [0, 1, 2])}), np.array([[0.0], [1], [4]])
    >>> sites = {f"x{k}": xr.Dataset({"activation": (("sample", "node"), x**k)}) for k in (1, 2)}
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, **sites}), pk.metrics.RSA("euclidean"))
    >>> m["rsa"].sel(site="x1").values  # at both sites class 2 is far from the others, and farthest from class 0
    array([1., 1.])
    """

    dissimilarity: str = "correlation"
    ranks: bool = True
    version: ClassVar[int] = 2  # version 1 ranked what rounding left of equal dissimilarities
    scope: ClassVar[str] = "sites"
    name: ClassVar[str] = "rsa"
    headline: ClassVar[Headline] = Headline(
        "rsa",
        None,
        "two sites arrange the classes alike",
        neutral=0.0,
        missing="it needs three classes whose dissimilarities differ, and finite values",
    )

    def __post_init__(self) -> None:
        if self.dissimilarity not in ("correlation", "euclidean"):
            raise PluginError(
                f"RSA(dissimilarity={self.dissimilarity!r}): dissimilarity must be 'correlation' or 'euclidean'."
            )

    def init(self, specs: Sequence[Spec]) -> State:
        return _sums([ClassMoments().init(spec) for spec in specs])

    def update(self, state: State, x: Sequence[Tensor], y: Tensor) -> State:
        return _sums([ClassMoments().update(_moments(state, n), batch, y) for n, batch in enumerate(x)], state)

    def merge(self, a: State, b: State) -> State:
        return _sums([ClassMoments().merge(_moments(a, n), _moments(b, n)) for n in range(_sites(a))], a, b)

    def finalize(self, state: State) -> Variables:
        there = (state["count"] > 0).cpu().numpy()
        sites = range(_sites(state))
        table = np.full((len(sites), len(sites)), np.nan)
        if np.count_nonzero(there) < 3:
            return {"rsa": (("site", "site_b"), table)}
        between = _euclidean if self.dissimilarity == "euclidean" else _uncorrelated
        found = [between(state[f"mean_{n}"].cpu().numpy()[there], _error(state, n)) for n in sites]
        known = np.array([np.isfinite(values).all() for values, _ in found])
        compared = [self._compared(*each) for each, defined in zip(found, known, strict=True) if defined]
        table[np.ix_(known, known)] = _correlations(np.stack(compared)) if compared else 0
        return {"rsa": (("site", "site_b"), table)}

    def _compared(self, values: Array, error: Array) -> Array:
        """What is correlated between sites: the ranks, or the dissimilarities themselves unless they are all equal."""
        ranks = tied_ranks(values, error)
        return ranks if self.ranks or (ranks == ranks[0]).all() else values


def _moments(state: State, site: int) -> State:
    """The class moments of a site with its means, and none of its second moments."""
    mean = state[f"mean_{site}"]
    return {"count": state["count"], "mean": mean, "m2": torch.zeros_like(mean)}


def _sums(moments: Sequence[State], *before: State) -> State:
    """What is kept of the moments of each site: the means, and the sum of all second moments, with those of before."""
    found = {"count": moments[0]["count"]}
    for n, state in enumerate(moments):
        found[f"mean_{n}"] = state["mean"]
        found[f"squares_{n}"] = sum((each[f"squares_{n}"] for each in before), state["m2"].sum())
    return found


def _error(state: State, site: int) -> float:
    """How far rounding may have taken a class mean of a site: the longest vectors are the means and the deviations."""
    mean = state[f"mean_{site}"]
    deviation = (state[f"squares_{site}"] / state["count"].sum()).sqrt()
    return vector_error(mean.shape[1]) * float(torch.linalg.vector_norm(mean, dim=1).max() + deviation)


@np.errstate(invalid="ignore", over="ignore")
def _euclidean(means: Array, error: float) -> tuple[Array, Array]:
    """The distance of every two means (pair), and how far rounding may have taken it."""
    distances = np.stack([np.linalg.norm(means - mean, axis=1) for mean in means])[np.triu_indices(len(means), 1)]
    return distances, np.full(len(distances), 2 * error)  # both ends move


@np.errstate(invalid="ignore", divide="ignore", over="ignore")
def _uncorrelated(means: Array, error: float) -> tuple[Array, Array]:
    """1 − the correlation of every two means, and how far rounding may have taken it; NaN for a mean without spread.

    The correlation is the product of two vectors of length 1, each of which moves by no more than its mean does,
    relative to the length of the mean less its average.
    """
    first, second = np.triu_indices(len(means), 1)
    moved = error / np.linalg.norm(means - means.mean(axis=1, keepdims=True), axis=1)
    moved[~(moved < 1)] = np.nan
    errors = moved[first] + moved[second]
    return np.where(np.isnan(errors), np.nan, (1 - _correlations(means))[first, second]), errors


@np.errstate(invalid="ignore")
def _correlations(rows: Array) -> Array:
    """Pearson's correlation of every pair of rows, (row, row); NaN for a row whose values are all equal."""
    rows = rows - rows[:, :1]  # exactly 0 in such a row
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    table: Array = np.clip(rows @ rows.T, -1, 1)
    return table
