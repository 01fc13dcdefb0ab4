"""The number of directions that a site uses, from the spectrum of its covariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.metrics._kernels.scatter import merged_scatters, no_scatter, with_rows
from probekit.metrics.block import Array
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Parameters, Spec, State, Variables

__all__ = ["Covariance", "EffectiveRank", "ParticipationRatio"]

_LEAST = 1e-12  # relative to the largest eigenvalue: smaller ones are rounding errors


class Covariance(Parameters):
    """Base of metrics of a site's covariance: the state is `count` (), `mean` (node) and `scatter` (node, node).

    `scatter` is Σ (x − μ)(x − μ)ᵀ in float64, merged by the method of Chan, Golub and LeVeque (1983), which never
    subtracts two large sums. It takes 8 bytes for each pair of nodes (5 MB at 800 nodes, 134 MB at 4,096), twice that
    during an update, and one multiplication for each pair and sample.
    """

    scope: ClassVar[str] = "site"
    state_key: ClassVar[str] = "covariance"

    def init(self, spec: Spec) -> State:
        return no_scatter(spec.nodes, spec.device)

    def memory(self, spec: Spec, samples: int) -> int:
        return 2 * 8 * spec.nodes**2  # the scatter, and a new one or its decomposition

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return with_rows(state, x)

    def merge(self, a: State, b: State) -> State:
        return merged_scatters(a, b)


@dataclass(frozen=True)
class EffectiveRank(Covariance):
    """Effective rank: number of directions that a site uses, weighted by their standard deviations.

    `effective_rank` (), float64, from 1 (all samples on one line) to the number of nodes (equal spread in every
    direction): exp(−Σ p ln p) with p = σ / Σσ, where σ² are the eigenvalues of the covariance of the nodes over the
    samples. Equivalently, σ are the singular values of the samples less their mean (Roy and Vetterli 2007). 0 for a
    site without spread: constant nodes, or one sample. NaN without samples, and where a value is infinite or so large
    that its square is. Directions whose σ is less than a millionth of the largest don't count: rounding errors are of
    that size.

    It doesn't change when the nodes are rotated or all scaled alike, but a few nodes with large values lower it.
    Because directions weigh by σ, many directions of little spread count for much more than in `participation_ratio`.
    It can't exceed the number of samples less 1, so sites that are measured on few samples look smaller than they are.
    It ignores the classes.

    The state takes 8 bytes for each pair of nodes (5 MB at 800 nodes, 134 MB at 4,096), twice that while batches are
    added. Each sample takes one multiplication per pair. The eigenvalues are computed once; at 4,096 nodes that takes
    seconds.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[0.0, 0, 1], [1, 2, 1], [2, 4, 1]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> pk.measure(tree, pk.metrics.EffectiveRank())["relu"]["effective_rank"].item()  # all on one line
    1.0
    """

    name: ClassVar[str] = "effective_rank"
    headline: ClassVar[Headline] = Headline(
        "effective_rank", None, "the samples spread over many directions", missing="it needs finite values"
    )

    def finalize(self, state: State) -> Variables:
        return {"effective_rank": ((), _of_spread(state, _effective_rank))}


@dataclass(frozen=True)
class ParticipationRatio(Covariance):
    """Participation ratio: number of directions that a site uses, weighted by their variances.

    `participation_ratio` (), float64, from 1 (all samples on one line) to the number of nodes (equal variance in every
    direction): (Σλ)² / Σλ², where λ are the eigenvalues of the covariance of the nodes over the samples (Gao et al.
    2017). 0 for a site without spread: constant nodes, or one sample. NaN without samples, and where a value is
    infinite or so large that its square is.

    It doesn't change when the nodes are rotated or all scaled alike. Directions of large variance decide it. Directions
    of little variance hardly count, even if they are the ones that distinguish classes; `effective_rank` gives them
    more weight. It can't exceed the number of samples less 1. It ignores the classes.

    The state takes 8 bytes for each pair of nodes (5 MB at 800 nodes, 134 MB at 4,096), twice that while batches are
    added, and each sample takes one multiplication per pair. Measured together with `effective_rank`, it costs nothing
    more.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> round(pk.measure(tree, pk.metrics.ParticipationRatio())["relu"]["participation_ratio"].item(), 3)
    1.22
    """

    name: ClassVar[str] = "participation_ratio"
    headline: ClassVar[Headline] = Headline(
        "participation_ratio", None, "the variance spreads over many directions", missing="it needs finite values"
    )

    def finalize(self, state: State) -> Variables:
        return {"participation_ratio": ((), _of_spread(state, _participation_ratio))}


def _of_spread(state: State, number: Callable[[Tensor], Tensor]) -> Array:
    """The `number` of the scatter; 0 for a site without spread, NaN for an undefined spread."""
    spread = state["scatter"].trace()
    if not state["count"] or not spread.isfinite():
        return np.asarray(np.nan)
    return number(state["scatter"]).cpu().numpy() if spread > 0 else np.asarray(0.0)


def _effective_rank(scatter: Tensor) -> Tensor:
    eigenvalues = torch.linalg.eigvalsh(scatter)
    deviations = eigenvalues.where(eigenvalues > _LEAST * eigenvalues[-1], 0.0).sqrt()
    entropy: Tensor = torch.special.entr(deviations / deviations.sum()).sum()
    return entropy.exp()


def _participation_ratio(scatter: Tensor) -> Tensor:
    # The sum of the eigenvalues is the trace, and the sum of their squares that of all entries' squares.
    ratio: Tensor = scatter.trace() / torch.linalg.matrix_norm(scatter)
    return ratio.square()
