"""The distance of two sites' representations of the same samples, and the correlation of the spaces that they span."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit._beats import in_turn
from probekit.metrics._kernels.cross_scatters import CrossScatters, number_of_sites, pairs, state_bytes
from probekit.metrics._kernels.durations import eigenvalues, eigenvectors, singular_values, singular_vectors
from probekit.metrics._kernels.shuffled_subspaces import above_chance, number_of_draws, shuffled_products
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, share
from probekit.metrics.protocol import BATCH, Spec, State, Variables
from probekit.metrics.ranges import SHARE, SIZE, UP_TO_ONE, Ranges

__all__ = ["PWCCA", "SVCCA", "Procrustes"]

_TIED = 1e-6  # correlations that differ by less are the same
_NEAR = 1e-12  # squares of distances that are less are rounding errors
_LEAST = 1e-10  # relative to the largest eigenvalue: directions of less variance may be rounding errors


class _Compared(CrossScatters):
    """Base of metrics of two sites' cross-scatters that decompose them in the end."""

    corrected: bool

    def memory(self, spec: Sequence[Spec], samples: int) -> int:
        nodes = [each.nodes for each in spec]
        # A state and a new one, with the rows of a batch; or a table of each site, and those of two that are compared.
        batch, tables = 4 * 8 * min(BATCH, samples) * sum(nodes), 8 * sum(each**2 for each in nodes)
        return 2 * state_bytes(nodes) + max(batch, tables + 10 * 8 * max(nodes) ** 2)

    def seconds(self, specs: Sequence[Spec], samples: int) -> tuple[float, float]:
        of_sites, of_pairs = self._durations([each.nodes for each in specs])
        return super().seconds(specs, samples)[0], sum(of_sites) + sum(of_pairs)

    def _durations(self, nodes: Sequence[int]) -> tuple[list[float], list[float]]:
        """The seconds of the decomposition of each site, and of each pair of sites."""
        together = [(nodes[a], nodes[b], a == b) for _, a, b in pairs(len(nodes))]
        return [*map(self._of_site, nodes)], [0 if same else self._of_pair(a, b) for a, b, same in together]

    def _of_site(self, nodes: int) -> float:
        raise NotImplementedError

    def _of_pair(self, nodes: int, others: int) -> float:
        return sum(_parts(self._draws(nodes, others))) * self._of_one(nodes, others)

    def _of_one(self, nodes: int, others: int) -> float:
        """The seconds of the decomposition of one table of two sites."""
        raise NotImplementedError

    def _draws(self, nodes: int, others: int) -> int:
        return number_of_draws(nodes, others) if self.corrected else 0

    def _beyond_chance(self, found: Iterable[Tensor]) -> Tensor:
        """What the samples give, from that and what each draw gives."""
        value, *drawn = found
        return above_chance(value, torch.stack(drawn).mean(0)) if drawn else value


def _parts(draws: int) -> list[float]:
    """How long two sites' own table takes, and each draw: to make one takes about as long as to decompose it."""
    return [1.0, *[2.0] * draws]


def _told(tables: Iterable[Tensor], draws: int) -> Iterator[Tensor]:
    return in_turn(tables, _parts(draws))


@dataclass(frozen=True)
class Procrustes(_Compared):
    """Distance of two sites' representations of the samples after the best rotation: 0 if they are the same up to it.

    `procrustes` (site, site_b), float64 from 0, symmetric, 0 on the diagonal, √2 for unrelated sites: min ‖X − YQ‖ over
    orthogonal Q, with X and Y the samples at all nodes of the two sites, less their means and scaled to the Frobenius
    norm 1. It is √(2 − 2ν), with ν = ‖XᵀY‖₊ the sum of the singular values of their cross-scatter (Schönemann 1966;
    Ding et al. 2021, whose distance is its square; Williams et al. 2021, whose angle is arccos ν). A site of fewer
    nodes counts as one with further nodes that are 0. NaN for a site without spread: constant nodes, or one sample; for
    fewer than three samples (corrected); and where a value is infinite or so large that its square is.

    It doesn't change when a site's nodes are rotated, permuted or all scaled alike. Unlike 1 − `cka` it is a metric:
    symmetric, and no detour is shorter. The many directions of little variance count for more than in `cka`. It ignores
    the classes.

    With few samples even unrelated sites can be turned towards each other (Pospisil et al. 2024). By default ν is
    corrected, as an adjusted Rand index is (Hubert and Arabie 1985): (ν − ν₀) / (1 − ν₀), where ν₀ is what ν comes to
    if the samples of one site are shuffled. It is found from the variances of both sites, with a random rotation in the
    place of the shuffle. Unrelated sites then have √2 on average, about half of them more; what is the same up to
    rotation stays 0. Detours may then be shorter by chance. Means over 12 draws of two unrelated sites of 100 nodes:

    =========  ======  ======  ======  ======  ======
    samples    10      20      50      180     1,000
    =========  ======  ======  ======  ======  ======
    plain      0.220   0.319   0.498   0.900   1.213
    corrected  1.457   1.446   1.404   1.411   1.415
    deviation  0.115   0.059   0.020   0.008   0.002
    =========  ======  ======  ======  ======  ======

    Args:
        corrected: False for the distance of the samples themselves, from 0 to √2.

    The state takes 8 bytes for each pair of nodes, within a site and across sites, as that of `cka` while a model runs:
    L sites of N nodes take 4 L (L + 1) N² bytes, and twice that while batches are added. `svcca` and `pwcca` share it.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root, x = xr.Dataset(coords={"label": ("sample", [0, 1, 2])}), np.array([[1.0, 2], [3, 1], [0, 0]])
    >>> sites = {"a": x, "turned": x[:, ::-1] * 3, "other": x**2}
    >>> tree = {name: xr.Dataset({"activation": (("sample", "node"), each)}) for name, each in sites.items()}
    >>> metric = pk.metrics.Procrustes(corrected=False)
    >>> found = pk.measure(xr.DataTree.from_dict({"/": root, **tree}), metric)["procrustes"]
    >>> found.sel(site="a").values.round(2)
    array([0. , 0. , 0.3])
    """

    corrected: bool = True
    version: ClassVar[int] = 2  # version 1 wasn't corrected
    name: ClassVar[str] = "procrustes"
    ranges: ClassVar[Ranges] = {"procrustes": SIZE}
    headline: ClassVar[Headline] = Headline(
        "procrustes",
        None,
        "two sites arrange the samples differently",
        missing="it needs three samples, finite values, and nodes that aren't constant",
    )

    def finalize(self, state: State) -> Variables:
        sites, count = number_of_sites(state), int(state["count"])
        scatters = [state[f"cross_{a}_{a}"] for a in range(sites)]
        of_sites, of_pairs = self._durations([*map(len, scatters)])
        roots = [_spread(scatter) for scatter in in_turn(scatters, of_sites, then=sum(of_pairs))]
        table = np.full((sites, sites), np.nan)
        for key, a, b in in_turn(pairs(sites), of_pairs):
            if not len(roots[a]) or not len(roots[b]) or not state[key].isfinite().all():
                continue
            if a == b:
                table[a, a] = 0.0
                continue
            norms, number = roots[a].norm() * roots[b].norm(), self._draws(len(roots[a]), len(roots[b]))
            draws = shuffled_products(len(roots[a]), len(roots[b]), count - 1, norms, number)
            tables = chain([state[key]], (roots[a][:, None] * each * roots[b] for each in draws))
            shared = self._beyond_chance(torch.linalg.svdvals(each).sum() / norms for each in _told(tables, number))
            square = float(2 - 2 * shared)
            table[a, b] = table[b, a] = 0.0 if square <= _NEAR else np.sqrt(square)
        return {"procrustes": (("site", "site_b"), table)}

    def _of_site(self, nodes: int) -> float:
        return eigenvalues(nodes)

    def _of_one(self, nodes: int, others: int) -> float:
        return singular_values(nodes, others)


def _spread(scatter: Tensor) -> Tensor:
    """The roots of the eigenvalues; none for a site without spread, or of values that aren't finite."""
    if not scatter.isfinite().all():
        return scatter.new_empty(0)
    values: Tensor = torch.linalg.eigvalsh(scatter)
    return values[values > _LEAST * values[-1].clamp(min=0)].sqrt()


@dataclass(frozen=True)
class _CCA(_Compared):
    """Base of metrics of the canonical correlations of the directions that hold a share of each site's `variance`."""

    variance: float = 1.0
    corrected: bool = True
    limits: ClassVar[Limits] = {"variance": share(one=True)}
    name: ClassVar[str]

    @property
    def ranges(self) -> Ranges:
        return {self.name: UP_TO_ONE if self.corrected else SHARE}

    def finalize(self, state: State) -> Variables:
        count, sites = int(state["count"]), number_of_sites(state)
        scatters = [state[f"cross_{a}_{a}"] for a in range(sites)]
        of_sites, of_pairs = self._durations([*map(len, scatters)])
        found = [_Directions.of(each, self.variance) for each in in_turn(scatters, of_sites, then=sum(of_pairs))]
        table = np.full((sites, sites), np.nan)
        for key, a, b in in_turn(pairs(sites), of_pairs):
            if not 0 < found[a].number <= found[a].number + found[b].number < count or not found[b].number:
                continue
            if a == b:
                table[a, a] = 1.0
                continue
            number = self._draws(found[a].number, found[b].number)
            draws = shuffled_products(found[a].number, found[b].number, count - 1, state[key], number)
            products = chain([found[a].whiten.T @ state[key] @ found[b].whiten], draws)
            means = self._beyond_chance(self._means(each, found[a], found[b]) for each in _told(products, number))
            table[a, b], table[b, a] = means.tolist()
        return {self.name: (("site", "site_b"), table)}

    def _of_site(self, nodes: int) -> float:
        return eigenvectors(nodes)

    def _of_one(self, nodes: int, others: int) -> float:
        return singular_vectors(nodes, others)

    def _means(self, products: Tensor, here: _Directions, there: _Directions) -> Tensor:
        """The mean correlation of the first site and the second, and of the second and the first, (2,).

        `products` (direction, direction of the second) are those of their directions, scaled to length 1.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class _Directions:
    """The principal directions of a site: `roots` (direction) of their scatters, and `vectors` (node, direction)."""

    roots: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, scatter: Tensor, share: float) -> _Directions:
        """Those of most variance that hold such a share of it; none for a site without spread."""
        if not scatter.isfinite().all():
            return cls(scatter.new_empty(0), scatter.new_empty(len(scatter), 0))
        values, vectors = torch.linalg.eigh(scatter)
        values, vectors = values.flip(0), vectors.flip(1)
        values = values.where(values > _LEAST * values[0], 0.0)
        held = values.cumsum(0) - values  # by the directions before
        number = int(((held < share * values.sum()) & (values > 0)).sum())
        vectors = vectors[:, :number]
        # Of the two signs always the same, since draws are multiplied with them.
        return cls(values[:number].sqrt(), vectors * (1 - 2 * (vectors.pow(3).sum(0) < 0).to(vectors)))

    @property
    def number(self) -> int:
        return len(self.roots)

    @cached_property
    def whiten(self) -> Tensor:
        """What makes the samples at the nodes uncorrelated values of length 1, (node, direction)."""
        return self.vectors / self.roots


@dataclass(frozen=True)
class SVCCA(_CCA):
    """Mean correlation of the strongest directions of two sites, each rotated to agree best with the other's.

    `svcca` (site, site_b), float64, at most 1, symmetric, 1 on the diagonal: each site is reduced to the fewest
    principal directions that hold the share `variance` of its variance; the canonical correlations of these (Hotelling
    1936) are averaged, as many as the site with fewer directions has (singular vector CCA, Raghu et al. 2017).

    Any invertible linear map of the directions that are kept leaves it unchanged: a direction of little variance counts
    as much as the strongest, until it is dropped. It ignores the classes. NaN where the samples aren't more than the
    directions of both sites together, since some correlations are then 1 whatever the data are: take more samples or
    less `variance`. NaN also for a site without spread, and where a value is infinite or so large that its square is.

    With little more samples than that, the correlations ρ of unrelated sites are high. By default their mean is
    corrected: (ρ − ρ₀) / (1 − ρ₀), where ρ₀ is the mean if the samples of one site are shuffled, which depends on the
    numbers of samples and directions alone (Wachter 1980). Unrelated sites then have 0 on average, about half of them
    less. Sites that share some of their directions exactly come out too low: half of 10 directions are 0.42 for 50
    samples, 0.48 for 180 (plain: 0.64, 0.58). Means over 12 draws of two unrelated sites of 10 nodes; for fewer than 22
    samples they are NaN:

    =========  ======  ======  ======
    samples    50      180     1,000
    =========  ======  ======  ======
    plain      0.386   0.198   0.080
    corrected  0.002   0.000   -0.004
    deviation  0.027   0.014   0.007
    =========  ======  ======  ======

    Args:
        variance: the share of a site's variance that is kept.
        corrected: False for the correlations of the samples themselves, in [0, 1].

    The state is that of `procrustes`.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> x = np.random.default_rng(0).normal(size=(50, 2))
    >>> sites = {"a": x, "mapped": x @ np.array([[5, 1], [0, 0.1]]), "half": x * [1, 0]}
    >>> tree = {name: xr.Dataset({"activation": (("sample", "node"), each)}) for name, each in sites.items()}
    >>> found = pk.measure(xr.DataTree.from_dict(tree), pk.metrics.SVCCA(variance=1.0))["svcca"]
    >>> found.sel(site="a").values.round(2)
    array([1., 1., 1.])
    """

    variance: float = 0.99
    version: ClassVar[int] = 2  # version 1 wasn't corrected
    name: ClassVar[str] = "svcca"
    headline: ClassVar[Headline] = Headline(
        "svcca",
        None,
        "the strongest directions of two sites agree",
        neutral=0.0,
        missing="it needs more samples than both sites have directions, finite values, and nodes that aren't constant",
    )

    def _means(self, products: Tensor, here: _Directions, there: _Directions) -> Tensor:
        correlations: Tensor = torch.linalg.svdvals(products).clamp(max=1.0)
        return correlations.mean().expand(2)


@dataclass(frozen=True)
class PWCCA(_CCA):
    """Mean correlation of two sites' directions, weighted by how much of the first site they make up.

    `pwcca` (site, site_b), float64, at most 1, 1 on the diagonal: the canonical correlations of the two sites' nodes
    (Hotelling 1936), averaged with the weights ``Σ_j |⟨h, x_j⟩|``, where h are the canonical variates of `site` and x_j
    its nodes less their means, over the samples (projection-weighted CCA, Morcos, Raghu and Bengio 2018, eq. 3). It
    isn't symmetric: the weights are those of the row's site. If that has more directions than the other, those without
    a counterpart are left out. Where correlations are equal (to 10⁻⁶) any variates of the same space would do; those
    along its principal directions count.

    It counts weak directions for less than `svcca`, and for more than `cka`. It ignores the classes. NaN where the
    samples aren't more than the directions of both sites together, since some correlations are then 1 whatever the data
    are; for a site without spread; and where a value is infinite or so large that its square is. By default it is
    corrected for few samples as `svcca` is, and like it 0 for unrelated sites: the plain values of two sites of 10
    nodes are 0.39 for 50 samples, 0.20 for 180 and 0.08 for 1,000. The state is that of `procrustes`.

    Args:
        variance: 0.99 reduces each site to the principal directions that hold that share first.
        corrected: False for the correlations of the samples themselves, in [0, 1].

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> sites = {"a": x[:, :2] * [10, 1], "strong": x[:, [0, 2]], "weak": x[:, 1:]}
    >>> tree = {name: xr.Dataset({"activation": (("sample", "node"), each)}) for name, each in sites.items()}
    >>> found = pk.measure(xr.DataTree.from_dict(tree), pk.metrics.PWCCA())["pwcca"]
    >>> found.sel(site="a").values.round(1)
    array([1. , 0.9, 0.1])
    """

    version: ClassVar[int] = 2  # version 1 wasn't corrected
    name: ClassVar[str] = "pwcca"
    headline: ClassVar[Headline] = Headline(
        "pwcca",
        None,
        "the directions that make up one site are found in the other",
        neutral=0.0,
        missing="it needs more samples than both sites have directions, finite values, and nodes that aren't constant",
    )

    def _means(self, products: Tensor, here: _Directions, there: _Directions) -> Tensor:
        u, correlations, v = torch.linalg.svd(products, full_matrices=False)
        correlations = correlations.clamp(max=1.0)
        return torch.stack([_weighted(correlations, u.T, here), _weighted(correlations, v, there)])


def _weighted(correlations: Tensor, coefficients: Tensor, site: _Directions) -> Tensor:
    """The mean of the correlations, by the products of each canonical variate (variate, direction) with each node."""
    products = coefficients @ (site.roots[:, None] * site.vectors.T)
    weights = torch.cat([_weights(each) for each in products.split(_tied(correlations))])
    mean: Tensor = (weights * correlations).sum() / weights.sum()
    return mean


def _tied(correlations: Tensor) -> list[int]:
    """How many of the descending correlations are equal, for each that differs from the one before."""
    starts = torch.cat([correlations.new_ones(1, dtype=torch.bool), correlations.diff().abs() > _TIED]).nonzero()[:, 0]
    return torch.cat([starts, starts.new_tensor([len(correlations)])]).diff().tolist()


def _weights(products: Tensor) -> Tensor:
    """The weight of each canonical variate of equal correlation, from its products with the nodes, (variate, node)."""
    if len(products) > 1:
        _, values, directions = torch.linalg.svd(products, full_matrices=False)
        products = values[:, None] * directions
    return products.abs().sum(1)
