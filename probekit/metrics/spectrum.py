"""How many directions a site uses: the spectrum of its covariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.metrics._kernels.scatter import merged_scatters, no_scatter, with_rows
from probekit.metrics.block import Array
from probekit.metrics.protocol import Parameters, Spec, State, Variables

__all__ = ["Covariance", "EffectiveRank", "ParticipationRatio"]

_LEAST = 1e-12  # of the largest eigenvalue: below it they are of rounding


class Covariance(Parameters):
    """Base of metrics of a site's covariance: the state is `count` (), `mean` (node) and `scatter` (node, node).

    `scatter` is Σ (x − μ)(x − μ)ᵀ in float64, merged as Chan, Golub and LeVeque (1983) do, so that no two large sums
    are subtracted. It takes 8 bytes for each pair of nodes (5 MB at 800 nodes, 134 MB at 4,096), twice that while
    it is updated, and as many multiplications for each sample as there are pairs.
    """

    scope: ClassVar[str] = "site"
    state_key: ClassVar[str] = "covariance"

    def init(self, spec: Spec) -> State:
        return no_scatter(spec.nodes, spec.device)

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return with_rows(state, x)

    def merge(self, a: State, b: State) -> State:
        return merged_scatters(a, b)


@dataclass(frozen=True)
class EffectiveRank(Covariance):
    """Number of directions that a site uses, each by its share of the standard deviation: effective rank.

    `effective_rank` (), float64, from 1 (all samples on one line) to the number of nodes (as much spread in every
    direction): exp(−Σ p ln p) with p = σ / Σσ, where σ² are the eigenvalues of the covariance of the nodes over the
    samples; equally, σ are the singular values of the samples less their mean (Roy and Vetterli 2007). 0 for a site
    without spread: constant nodes, or one sample. NaN without samples, and where a value is infinite or so large that
    its square is. A direction whose σ is less than a millionth of the largest counts for nothing: rounding leaves as
    much.

    It doesn't change when the nodes are rotated or all scaled alike, but a few nodes with large values lower it. As it
    counts by σ, many directions of little spread count for much more than in `participation_ratio`. It can't be above
    the number of samples less 1, so that sites measured on few samples look smaller than they are. The classes
    play no part in it.

    It costs 8 bytes for each pair of nodes (5 MB at 800 nodes, 134 MB at 4,096), twice that while batches are added;
    a multiplication for each pair and sample; and, once, the eigenvalues, which at 4,096 nodes take seconds.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[0.0, 0, 1], [1, 2, 1], [2, 4, 1]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> pk.measure(tree, pk.metrics.EffectiveRank())["relu"]["effective_rank"].item()  # all on one line
    1.0
    """

    name: ClassVar[str] = "effective_rank"

    def finalize(self, state: State) -> Variables:
        return {"effective_rank": ((), _of_spread(state, _effective_rank))}


@dataclass(frozen=True)
class ParticipationRatio(Covariance):
    """Number of directions that a site uses, each by its share of the variance: participation ratio.

    `participation_ratio` (), float64, from 1 (all samples on one line) to the number of nodes (as much variance in
    every direction): (Σλ)² / Σλ², where λ are the eigenvalues of the covariance of the nodes over the samples
    (Gao et al. 2017). 0 for a site without spread: constant nodes, or one sample. NaN without samples, and where a
    value is infinite or so large that its square is.

    It doesn't change when the nodes are rotated or all scaled alike. Directions of large variance decide it: many of
    little variance may carry what tells classes apart, and hardly count; `effective_rank` counts them for more. It
    can't be above the number of samples less 1. The classes play no part in it.

    It costs 8 bytes for each pair of nodes (5 MB at 800 nodes, 134 MB at 4,096), twice that while batches are added;
    and a multiplication for each pair and sample. Beside `effective_rank` it is free.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> round(pk.measure(tree, pk.metrics.ParticipationRatio())["relu"]["participation_ratio"].item(), 3)
    1.22
    """

    name: ClassVar[str] = "participation_ratio"

    def finalize(self, state: State) -> Variables:
        return {"participation_ratio": ((), _of_spread(state, _participation_ratio))}


def _of_spread(state: State, number: Callable[[Tensor], Tensor]) -> Array:
    """The `number` of the scatter over its trace; 0 for a site without spread, NaN where the spread isn't known."""
    spread = state["scatter"].trace()
    if not state["count"] or not spread.isfinite():
        return np.asarray(np.nan)
    return number(state["scatter"] / spread).cpu().numpy() if spread > 0 else np.asarray(0.0)


def _effective_rank(scatter: Tensor) -> Tensor:
    eigenvalues = torch.linalg.eigvalsh(scatter)
    deviations = eigenvalues.where(eigenvalues > _LEAST * eigenvalues[-1], 0.0).sqrt()
    entropy: Tensor = torch.special.entr(deviations / deviations.sum()).sum()
    return entropy.exp()


def _participation_ratio(scatter: Tensor) -> Tensor:
    # Without the eigenvalues: their sum is the trace, here 1, and that of their squares the sum of all squares.
    squares: Tensor = scatter.square().sum()
    return 1 / squares
