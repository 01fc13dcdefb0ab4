"""The number of directions that a site uses, from the spectrum of its covariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.metrics._kernels.covariance import Covariance, Spread, rows_of_table
from probekit.metrics._kernels.durations import eigenvalues
from probekit.metrics._kernels.hsic import LEAST
from probekit.metrics._kernels.population_spectrum import population_spectrum
from probekit.metrics.block import Array
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Spec, State, Variables
from probekit.metrics.ranges import SIZE, Ranges

__all__ = ["EffectiveRank", "ParticipationRatio", "RankMe", "StableRank"]

_LEAST = 1e-12  # relative to the largest eigenvalue: smaller ones are rounding errors
_RANK_ME = 1e-7  # what RankMe adds to each share


class _Decomposed(Covariance):
    """Base of metrics of the eigenvalues of a site's covariance."""

    def seconds(self, spec: Spec, samples: int) -> tuple[float, float]:
        updates, products = super().seconds(spec, samples)
        return updates, products + eigenvalues(rows_of_table(spec))


@dataclass(frozen=True)
class EffectiveRank(_Decomposed):
    """Effective rank: number of directions that a site uses, weighted by their standard deviations.

    `effective_rank` (), float64, from 1 (all samples on one line) to the number of nodes (equal spread in every
    direction): exp(−Σ p ln p) with p = σ / Σσ, where σ² are the eigenvalues of the covariance of the nodes over the
    samples. Equivalently, σ are the singular values of the samples less their mean. The effective rank of Roy and
    Vetterli (2007) is that of a matrix as it is, which ``center=False`` takes: there the mean is a direction too, and
    of samples far from 0 it is nearly the only one. `rankme` is the same but for a constant. 0 for a site without
    spread: constant nodes, or one sample (of zeros alone, without centring). NaN for fewer than 4 samples with spread
    (corrected), without samples, and where a value is infinite or so large that its square is. Directions whose σ is
    less than a millionth of the largest don't count: rounding errors are of that size.

    Few samples seem to lie in few directions: no more than the samples less 1, of which some look stronger than they
    are. By default that is corrected: σ² are the variances of the population whose samples would have the eigenvalues
    that were found, by the law of Marchenko and Pastur (El Karoui 2008). It takes samples to be independent; where some
    have much more spread than others, or come in groups, as the tokens of a text do, it corrects too little. Means over
    20 draws of 50 normal nodes of equal variance, and the standard deviation of the corrected value:

    =========  ======  ======  ======  ======  ======
    samples    10      20      50      180     1,000
    =========  ======  ======  ======  ======  ======
    plain      8.7     17.9    39.6    48.1    49.7
    corrected  44.1    48.2    49.3    49.9    50.0
    deviation  6.0     2.1     0.4     0.1     0.0
    =========  ======  ======  ======  ======  ======

    Directions that the samples are too few to show can't be counted: with less than a tenth as many samples as nodes
    the result varies much.

    Args:
        center: False for the samples as they are, from which no mean is subtracted.
        corrected: False for the σ of the samples themselves.

    It doesn't change when the nodes are rotated or all scaled alike, but a few nodes with large values lower it.
    Because directions weigh by σ, many directions of little spread count for much more than in `participation_ratio`.
    It ignores the classes.

    The state takes 8 bytes for each pair of nodes (5 MB at 800 nodes, 134 MB at 4,096), twice that while batches are
    added. Each sample takes one multiplication per pair. Of a store with fewer samples than nodes, all samples are
    kept, twice while they are added, and multiplied in pairs. The eigenvalues are computed once, in seconds for 4,096
    nodes or samples.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1, 1])})
    >>> x = np.array([[0.0, 0, 1], [1, 2, 1], [2, 4, 1], [3, 6, 1]])
    >>> relu = xr.Dataset({"activation": (("sample", "node"), x)})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> round(pk.measure(tree, pk.metrics.EffectiveRank())["relu"]["effective_rank"].item(), 3)  # all on one line
    1.0
    """

    center: bool = True
    corrected: bool = True
    version: ClassVar[int] = 2  # version 1 wasn't corrected
    name: ClassVar[str] = "effective_rank"
    ranges: ClassVar[Ranges] = {"effective_rank": SIZE}
    headline: ClassVar[Headline] = Headline(
        "effective_rank",
        None,
        "the samples spread over many directions",
        missing="it needs four samples, and finite values",
    )

    def finalize(self, state: State) -> Variables:
        number: Callable[[Tensor, int], Tensor] = _entropy_rank
        if self.corrected:
            number = partial(_corrected_rank, nodes=Spread(state).nodes, center=self.center)
        return {"effective_rank": ((), _of_table(state, number, center=self.center))}


@dataclass(frozen=True)
class RankMe(_Decomposed):
    """RankMe: number of directions that a site uses, the mean among them, weighted by their singular values.

    `rankme` (), float64: exp(−Σ p ln p) with p = σ / Σσ + 10⁻⁷, where σ are the singular values of the samples as they
    are, from which no mean is subtracted (Garrido et al. 2023, eq. 3). It is `effective_rank` with ``center=False``,
    but for the constant: use it to compare with other work, and `effective_rank` to ask how the samples spread. 0 where
    all values are 0. NaN without samples, and where a value is infinite or so large that its square is.

    It predicted how well self-supervised embeddings serve downstream, on the data that they were trained on. Since it
    is for comparison with other work, few samples aren't corrected for: it can't exceed their number. Take as many as
    that work, such as the authors' 25,600, or ``effective_rank:center=False``, which corrects for them. 50 equal
    directions around 0:

    =======  ======  ======  ======  ======  ======
    samples  10      20      50      180     1,000
    =======  ======  ======  ======  ======  ======
    rankme   9.7     18.8    40.0    48.1    49.7
    =======  ======  ======  ======  ======  ======

    It ignores the classes. Memory and time are those of `effective_rank`, with which it shares them.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[1.0, 0], [0, 1]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> round(pk.measure(tree, pk.metrics.RankMe())["relu"]["rankme"].item(), 4)  # less the mean it would be 1
    2.0
    """

    name: ClassVar[str] = "rankme"
    ranges: ClassVar[Ranges] = {"rankme": SIZE}
    headline: ClassVar[Headline] = Headline(
        "rankme", None, "the samples lie in many directions from 0", missing="it needs finite values"
    )

    def finalize(self, state: State) -> Variables:
        return {"rankme": ((), _of_table(state, partial(_entropy_rank, added=_RANK_ME), center=False))}


@dataclass(frozen=True)
class StableRank(_Decomposed):
    """Stable rank: how many times the variance of the strongest direction a site has in all directions.

    `stable_rank` (), float64, from 1 (all samples on one line) to the number of nodes (equal variance in every
    direction): Σλ / max λ, where λ are the eigenvalues of the covariance of the nodes over the samples; so the squared
    Frobenius norm of the samples less their mean over their squared spectral norm (Rudelson and Vershynin 2007).
    ``center=False`` takes the samples as they are. 0 for a site without spread: constant nodes, or one sample. NaN
    without samples, and where a value is infinite or so large that its square is.

    The strongest direction alone decides it: 1 above all others gives a number near 1, however many those are. Few
    samples make the strongest direction stronger than it is, and the stable rank too small. Where the direction doesn't
    stand out, they don't tell by how much (Baik, Ben Arous and Péché 2005), so that it isn't corrected; the truth then
    lies between it and `participation_ratio`, which is corrected, and never below the stable rank. Where one direction
    stands out, the samples show it: 1 of variance 20 beside 49 of variance 1 have the stable rank 3.5. Means of draws:

    ===============  ======  ======  ======  ======  ======
    samples          10      20      50      180     1,000
    ===============  ======  ======  ======  ======  ======
    50 equal ones    5.0     7.8     13.4    22.2    33.6
    1 of them × 20   2.8     2.7     3.1     3.4     3.4
    ===============  ======  ======  ======  ======  ======

    It ignores the classes. Memory and time are those of `effective_rank`, with which it shares them.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> pk.measure(tree, pk.metrics.StableRank())["relu"]["stable_rank"].item()
    1.25
    """

    center: bool = True
    name: ClassVar[str] = "stable_rank"
    ranges: ClassVar[Ranges] = {"stable_rank": SIZE}
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

    @property
    def ranges(self) -> Ranges:
        return {"participation_ratio": SIZE} if self.biased else {}

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
    deviations = _eigenvalues(table, count).sqrt()
    entropy: Tensor = torch.special.entr(deviations / deviations.sum() + added).sum()
    return entropy.exp()


def _corrected_rank(table: Tensor, count: int, *, nodes: int, center: bool) -> Tensor:
    """The same of the population of the samples, of which the table is; NaN for fewer than 4."""
    if count < LEAST:
        return table.new_tensor(torch.nan)
    eigenvalues = _eigenvalues(table, count).cpu().numpy()
    variances, counts = population_spectrum(eigenvalues[eigenvalues > 0], count - center, nodes)
    shares = np.sqrt(variances) / (counts * np.sqrt(variances)).sum()
    return table.new_tensor(np.exp(-(counts * shares * np.log(shares)).sum()))


def _eigenvalues(table: Tensor, count: int) -> Tensor:
    eigenvalues: Tensor = torch.linalg.eigvalsh(table)[-count:]
    return eigenvalues.where(eigenvalues > _LEAST * eigenvalues[-1], 0.0)
