"""Dissimilarities of the classes at a site, and how far rounding may have taken them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from probekit.metrics._kernels.class_moments import ClassMoments
from probekit.metrics._kernels.rounding import vector_error
from probekit.metrics._kernels.sample_batches import pieces, tensor_batches
from probekit.metrics.block import Array
from probekit.metrics.protocol import Samples, Spec

__all__ = ["ClassSpread", "Dissimilarity", "class_spread", "correlations", "dissimilarities"]

Dissimilarity: TypeAlias = Literal["correlation", "euclidean", "crossvalidated", "crossnobis"]
_OF_MEANS = ("correlation", "euclidean")


@dataclass(frozen=True)
class ClassSpread:
    """The `counts` (class) of samples, `means` (class, node), and `squares` (class): Σ ‖x − μ‖² in each class."""

    counts: Array
    means: Array
    squares: Array

    @classmethod
    def of(cls, counts: Tensor, means: Tensor, squares: Tensor) -> ClassSpread:
        return cls(counts.cpu().numpy(), means.cpu().numpy(), squares.cpu().numpy())

    def having(self, least: int) -> ClassSpread:
        """That of the classes that have so many samples."""
        there = self.counts >= least
        return ClassSpread(self.counts[there], self.means[there], self.squares[there])


def dissimilarities(site: ClassSpread, kind: Dissimilarity) -> tuple[Array, Array]:
    """The dissimilarity of every two classes (pair), and how far rounding may have taken it.

    Of classes that have a sample, or two where distinct samples are multiplied; none for fewer than two such classes.
    """
    found = site.having(1 if kind in _OF_MEANS else 2)
    if len(found.counts) < 2:
        return np.empty(0), np.empty(0)
    if kind == "correlation":
        return _uncorrelated(found.means, _error(found))
    distances, error = _euclidean(found.means, _error(found))
    return (distances, error) if kind == "euclidean" else _without_noise(found, distances, error)


def _error(site: ClassSpread) -> float:
    """How far rounding may have taken a class mean of a site: the longest vectors are the means and the deviations."""
    deviation = np.sqrt(site.squares.sum() / site.counts.sum())
    return vector_error(site.means.shape[1]) * float(np.linalg.norm(site.means, axis=1).max() + deviation)


@np.errstate(invalid="ignore", over="ignore")
def _euclidean(means: Array, error: float) -> tuple[Array, Array]:
    """The distance of every two means (pair), and how far rounding may have taken it."""
    distances = np.stack([np.linalg.norm(means - mean, axis=1) for mean in means])[np.triu_indices(len(means), 1)]
    return distances, np.full(len(distances), 2 * error)  # both ends move


@np.errstate(invalid="ignore", over="ignore")
def _without_noise(site: ClassSpread, distances: Array, error: Array) -> tuple[Array, Array]:
    """The squared distances less what the noise of the means adds to them on average."""
    noise = site.squares / (site.counts * (site.counts - 1))
    first, second = np.triu_indices(len(noise), 1)
    added = noise[first] + noise[second]
    return distances**2 - added, (2 * distances + error) * error + vector_error(site.means.shape[1]) * added


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
    return np.where(np.isnan(errors), np.nan, (1 - correlations(means))[first, second]), errors


@np.errstate(invalid="ignore")
def correlations(rows: Array) -> Array:
    """Pearson's correlation of every pair of rows, (row, row); NaN for a row whose values are all equal."""
    rows = rows - rows[:, :1]  # exactly 0 in such a row
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    table: Array = np.clip(rows @ rows.T, -1, 1)
    return table


def class_spread(samples: Samples, *, whitened: bool) -> ClassSpread:
    """The class means and the spread of a site, of nodes that are `whitened` by their covariance within classes."""
    metric = ClassMoments()
    state = metric.init(Spec(samples.nodes, samples.classes, torch.float64, torch.device("cpu")))
    for x, y in tensor_batches(samples):
        state = metric.update(state, x, y)
    count, means = state["count"], state["mean"]
    if not whitened:
        return ClassSpread.of(count, means, state["m2"].sum(1))
    squares, factor = torch.zeros_like(count, dtype=torch.float64), _factor(_covariance_within(samples, means))
    codes = torch.tensor(samples.codes)
    for here, x in pieces(samples):
        rest = torch.linalg.solve_triangular(factor, (x - means[codes[here]]).T, upper=False)
        squares.index_add_(0, codes[here], rest.square().sum(0))
    return ClassSpread.of(count, torch.linalg.solve_triangular(factor, means.T, upper=False).T.contiguous(), squares)


def _factor(covariance: Tensor) -> Tensor:
    """The Cholesky factor; NaN for infinite values."""
    if not covariance.isfinite().all():
        return torch.full_like(covariance, torch.nan)
    varying = covariance.diagonal() > 0
    covariance.diagonal()[~varying] = 1.0  # constant within every class: nothing tells in which unit to measure
    factor: Tensor = torch.linalg.cholesky(covariance)
    return factor


def _covariance_within(samples: Samples, means: Tensor) -> Tensor:
    """The covariance of the nodes within classes, shrunk to its diagonal by Schäfer and Strimmer (2005).

    Each correlation shrinks by the ratio of the sum of their variances to the sum of their squares.
    """
    nodes = samples.nodes
    products, squares = (torch.zeros(nodes, nodes, dtype=torch.float64) for _ in range(2))
    codes = torch.tensor(samples.codes)
    for here, x in pieces(samples):
        rest = x - means[codes[here]]
        products.addmm_(rest.T, rest)
        rest.square_()
        squares.addmm_(rest.T, rest)
    number, free = samples.number, samples.number - int(np.count_nonzero(np.bincount(samples.codes)))
    own = products.diagonal().clone()
    scale = own[:, None] * own
    squares.sub_(products.square().div_(number))  # number times the variance of each product
    squares.div_(scale.where(scale > 0, 1.0))
    uncertain = (squares.sum() - squares.diagonal().sum()) * number / max(number - 1, 1)
    related = products.square().div_(scale.where(scale > 0, 1.0))
    certain = related.sum() - related.diagonal().sum()
    shrunk = float((uncertain / certain).clamp(0, 1)) if certain > 0 else 1.0
    products.mul_((1 - shrunk) / max(free, 1))
    products.diagonal().copy_(own / max(free, 1))
    return products
