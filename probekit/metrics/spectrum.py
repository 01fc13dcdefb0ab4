"""The number of directions that a site uses, from the spectrum of its covariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.metrics._kernels.covariance import Covariance, Spread
from probekit.metrics.block import Array
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import State, Variables

__all__ = ["EffectiveRank", "ParticipationRatio", "RankMe", "StableRank"]

_LEAST = 1e-12  # relative to the largest eigenvalue: smaller ones are rounding errors
_RANK_ME = 1e-7  # what RankMe adds to each share


@dataclass(frozen=True)
class EffectiveRank(Covariance):
    """Effective rank: number of directions that a site uses, weighted by their standard deviations.

    `effective_rank` (), float64, from 1 (all samples on one line) to the number of nodes (equal spread in every
    direction): exp(−Σ p ln p) with p = σ / Σσ, where σ² are the eigenvalues of the covariance of the nodes over the
    samples. Equivalently, σ are the singular values of the samples less their mean. The effective rank of Roy and
    Vetterli (2007) is that of a matrix as it is, which ``center=False`` takes: there the mean is a direction too, and
    of samples far from 0 it is nearly the only one. `rankme` is the same but for a constant. 0 for a site without
    spread: constant nodes, or one sample (of zeros alone, without centring). NaN without samples, and where a value is
    infinite or so large that its square is. Directions whose σ is less than a millionth of the largest don't count:
    rounding errors are of that size.

    It doesn't change when the nodes are rotated or all scaled alike, but a few nodes with large values lower it.
    Because directions weigh by σ, many directions of little spread count for much more than in `participation_ratio`.
    It can't exceed the number of samples less 1, so sites that are measured on few samples look smaller than they are:
    equal spread in 50 directions is 9 for 10 samples, 18 for 20, 40 for 50, 48 for 180 and 49.7 for 1,000. Compare
    sites by the same number of samples, several times that of the nodes; or by `participation_ratio`, which corrects
    for it. It ignores the classes.

    The state takes 8 bytes for each pair of nodes (5 MB at 800 nodes, 134 MB at 4,096), twice that while batches are
    added. Each sample takes one multiplication per pair. Of a store with fewer samples than nodes, all samples are
    kept, twice while they are added, and multiplied in pairs. The eigenvalues are computed once, in seconds for 4,096
    nodes or samples.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[0.0, 0, 1], [1, 2, 1], [2, 4, 1]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> pk.measure(tree, pk.metrics.EffectiveRank())["relu"]["effective_rank"].item()  # all on one line
    1.0
    """

    center: bool = True
    name: ClassVar[str] = "effective_rank"
    headline: ClassVar[Headline] = Headline(
        "effective_rank", None, "the samples spread over many directions", missing="it needs finite values"
    )

    def finalize(self, state: State) -> Variables:
        return {"effective_rank": ((), _of_table(state, _entropy_rank, center=self.center))}


@dataclass(frozen=True)
class RankMe(Covariance):
    """RankMe: number of directions that a site uses, the mean among them, weighted by their singular values.

    `rankme` (), float64: exp(−Σ p ln p) with p = σ / Σσ + 10⁻⁷, where σ are the singular values of the samples as they
    are, from which no mean is subtracted (Garrido et al. 2023, eq. 3). It is `effective_rank` with ``center=False``,
    but for the constant: use it to compare with other work, and `effective_rank` to ask how the samples spread. 0 where
    all values are 0. NaN without samples, and where a value is infinite or so large that its square is.

    It predicted how well self-supervised embeddings serve downstream, on the data that they were trained on. It can't
    exceed the number of samples: 50 equal directions around 0 are 10 for 10 samples, 40 for 50, 49.7 for 1,000; the
    authors take 25,600. It ignores the classes. Memory and time are those of `effective_rank`, with which it shares
    them.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[1.0, 0], [0, 1]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> round(pk.measure(tree, pk.metrics.RankMe())["relu"]["rankme"].item(), 4)  # less the mean it would be 1
    2.0
    """

    name: ClassVar[str] = "rankme"
    headline: ClassVar[Headline] = Headline(
        "rankme", None, "the samples lie in many directions from 0", missing="it needs finite values"
    )

    def finalize(self, state: State) -> Variables:
        return {"rankme": ((), _of_table(state, partial(_entropy_rank, added=_RANK_ME), center=False))}


@dataclass(frozen=True)
class StableRank(Covariance):
    """Stable rank: how many times the variance of the strongest direction a site has in all directions.

    `stable_rank` (), float64, from 1 (all samples on one line) to the number of nodes (equal variance in every
    direction): Σλ / max λ, where λ are the eigenvalues of the covariance of the nodes over the samples; so the squared
    Frobenius norm of the samples less their mean over their squared spectral norm (Rudelson and Vershynin 2007).
    ``center=False`` takes the samples as they are. 0 for a site without spread: constant nodes, or one sample. NaN
    without samples, and where a value is infinite or so large that its square is.

    The strongest direction alone decides it: 1 above all others gives a number near 1, however many those are. Few
    samples make the strongest direction stronger than it is: 50 equal directions come to 5 for 10 samples, 13 for 50,
    23 for 180 and 34 for 1,000. It ignores the classes. Memory and time are those of `effective_rank`, with which it
    shares them.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> pk.measure(tree, pk.metrics.StableRank())["relu"]["stable_rank"].item()
    1.25
    """

    center: bool = True
    name: ClassVar[str] = "stable_rank"
    headline: ClassVar[Headline] = Headline(
        "stable_rank", None, "no direction outweighs the others", missing="it needs finite values"
    )

    def finalize(self, state: State) -> Variables:
        return {"stable_rank": ((), _of_table(state, _stable_rank, center=self.center))}


@dataclass(frozen=True)
class ParticipationRatio(Covariance):
    """Participation ratio: number of directions that a site uses, weighted by variances, corrected for few samples.

    `participation_ratio` (), float64, from 1 (all samples on one line) to the number of nodes (equal variance in every
    direction): (Σλ)² / Σλ² = (tr Σ)² / tr Σ², where λ are the eigenvalues of the covariance Σ of the nodes (Gao et al.
    2017). Both are unbiased estimates (Himeno and Yamada 2014), from products of distinct samples, which makes the
    ratio nearly independent of the number of samples (Chun et al. 2025, who correct for rows in the same way). 50 equal
    directions come to 47 ± 12 for 10 samples, 50 ± 2 for 50; it may exceed the number of nodes by chance.
    ``biased=True`` takes the λ of the samples as they are: 7 for 10 samples, 24 for 50, 39 for 180, 48 for 1,000.

    0 for a site without spread: constant nodes, or one sample. NaN without samples, for fewer than 4 and where a single
    sample differs from the others (1 and 0 if biased), and where a value is infinite or so large that its square is.

    It doesn't change when the nodes are rotated or all scaled alike. Directions of large variance decide it. Directions
    of little variance hardly count, even if they are the ones that distinguish classes; `effective_rank` gives them
    more weight. It ignores the classes. Memory and time are those of `effective_rank`, with which it shares them.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> round(pk.measure(tree, pk.metrics.ParticipationRatio(biased=True))["relu"]["participation_ratio"].item(), 3)
    1.22
    """

    biased: bool = False
    version: ClassVar[int] = 2  # version 1 was biased
    name: ClassVar[str] = "participation_ratio"
    headline: ClassVar[Headline] = Headline(
        "participation_ratio",
        None,
        "the variance spreads over many directions",
        missing="it needs four samples, and finite values",
    )

    def finalize(self, state: State) -> Variables:
        spread = Spread(state)
        of_trace, squares = (spread.variances.square(), spread.squares) if self.biased else spread.unbiased_squares()
        if spread.count and spread.variances == 0:
            return {"participation_ratio": ((), np.asarray(0.0))}
        return {"participation_ratio": ((), np.asarray(float(of_trace / squares) if squares > 0 else np.nan))}


def _of_table(state: State, number: Callable[[Tensor, int], Tensor], *, center: bool) -> Array:
    """The `number` of the table of the spread and the samples; 0 for no spread, NaN for an undefined one."""
    spread = Spread(state)
    table = spread.table if center else spread.around_zero
    total = table.trace()
    if not spread.count or not total.isfinite():
        return np.asarray(np.nan)
    return np.asarray(float(number(table, spread.count)) if total > 0 else 0.0)


def _stable_rank(table: Tensor, count: int) -> Tensor:
    ratio: Tensor = table.trace() / torch.linalg.eigvalsh(table)[-1]
    return ratio


def _entropy_rank(table: Tensor, count: int, added: float = 0.0) -> Tensor:
    """exp of the entropy of the shares of the singular values, as many as nodes or samples, and `added` to each."""
    eigenvalues = torch.linalg.eigvalsh(table)[-count:]
    deviations = eigenvalues.where(eigenvalues > _LEAST * eigenvalues[-1], 0.0).sqrt()
    entropy: Tensor = torch.special.entr(deviations / deviations.sum() + added).sum()
    return entropy.exp()
