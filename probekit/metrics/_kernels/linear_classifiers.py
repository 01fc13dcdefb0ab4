"""Linear classifiers that are trained on rows in batches: logistic regression, discriminant analysis, ridge."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from probekit._beats import current
from probekit.metrics._kernels.class_moments import ClassMoments
from probekit.metrics._kernels.scatter import add_rows, no_scatter
from probekit.metrics._kernels.splits import Mask
from probekit.metrics.block import Array, Codes
from probekit.metrics.protocol import Samples, Spec, State

__all__ = ["METHODS", "Classifier", "KeptRows", "MethodName", "Training", "kept_bytes", "penalised_solution"]

MethodName: TypeAlias = Literal["logistic", "lda", "ridge"]

_KEPT = 2**28  # bytes of rows that are kept in memory; more are read anew each time
_ROWS = 1024  # rows handled together in float64
_STEPS = 1000  # of a logistic regression at most
# The slope of a logistic regression's loss along any weight, at which it ends: as scikit-learn's does, and where it is
# only compared with others.
_SLOPE, _ROUGH_SLOPE = 1e-4, 1e-3
_STEP = 0.02  # of what is left of a logistic regression, since nobody knows how many steps it takes


def kept_bytes(samples: int, nodes: int, itemsize: int) -> int:
    """What `KeptRows` keeps of a site."""
    size = samples * nodes * itemsize
    return size if size <= _KEPT else 0


class KeptRows:
    """The rows of a site, which are read many times: kept in memory where they fit, else read anew."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self._kept: list[Array] | None = None

    def those(self, mask: Mask) -> Iterator[tuple[Tensor, Tensor]]:
        """The chosen rows in batches (batch, node), float64, and their places among all rows."""
        start = 0
        for x in self._batches():
            places = np.flatnonzero(mask[start : start + len(x)])
            for few in np.split(places, range(_ROWS, len(places), _ROWS)):
                if len(few):
                    yield torch.from_numpy(x[few].astype(np.float64)), torch.from_numpy(few + start)
            start += len(x)

    def _batches(self) -> Iterator[Array]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Array] | None = []
        for x, _ in self.samples.batches():
            if kept is not None:
                kept = [*kept, x.copy()] if kept_bytes(self.samples.number, self.samples.nodes, x.itemsize) else None
            yield x
        self._kept = kept


@dataclass(frozen=True)
class Classifier:
    """Predicts the one of the `classes` (class,) for which ``(x − centre) / scale @ weights + bias`` is largest."""

    classes: Codes
    centre: Tensor
    scale: Tensor
    weights: Tensor
    bias: Tensor

    def predict(self, rows: KeptRows, mask: Mask) -> Codes | None:
        """The class of each chosen row; None where a score isn't finite."""
        found = []
        for scores, _ in self._scores(rows, mask):
            if not scores.isfinite().all():
                return None
            found.append(scores.argmax(1).numpy())
        return self.classes[np.concatenate(found)] if found else np.empty(0, np.int64)

    def loss(self, rows: KeptRows, mask: Mask, codes: Codes, of_scores: Loss) -> float:
        """The sum of a loss over the chosen rows; those whose class it doesn't know have no part in it."""
        known, total = mask & np.isin(codes, self.classes), 0.0
        for scores, places in self._scores(rows, known):
            total += float(of_scores(scores, torch.from_numpy(np.searchsorted(self.classes, codes[places]))))
        return total

    def _scores(self, rows: KeptRows, mask: Mask) -> Iterator[tuple[Tensor, Tensor]]:
        """The score of each class (batch, class) in batches of the chosen rows, and their places among all rows."""
        for x, places in rows.those(mask):
            yield x.sub_(self.centre).div_(self.scale) @ self.weights + self.bias, places


class Training:
    """The training rows, those of `mask`, whose nodes are standardised; any classes can be fitted to them."""

    def __init__(self, rows: KeptRows, mask: Mask) -> None:
        self.rows, self.mask = rows, mask
        self.nodes = rows.samples.nodes

    @cached_property
    def number(self) -> int:
        return int(self.mask.sum())

    @cached_property
    def _moments(self) -> State:
        """The count, mean and sum of squares of each node."""
        return self._class_moments(np.zeros(len(self.mask), np.int64), 1)

    @cached_property
    def centre(self) -> Tensor:
        return self._moments["mean"][0]

    @cached_property
    def scale(self) -> Tensor:
        """The standard deviation of each node; 1 at a constant one, which has no part."""
        scale = (self._moments["m2"][0] / self.number).sqrt()
        return scale.where(scale != 0, 1.0)

    @cached_property
    def correlation(self) -> Tensor:
        """That of all pairs of nodes, (node, node)."""
        state = no_scatter(self.nodes, torch.device("cpu"))
        for x, _ in self.rows.those(self.mask):
            add_rows(state, x)
        return state["scatter"].div_(self.number).div_(self.scale[:, None]).div_(self.scale)

    @property
    def finite(self) -> bool:
        return bool(self.centre.isfinite().all() and self.scale.isfinite().all())

    def path(self, method: MethodName, codes: Codes, alphas: Sequence[float]) -> Iterator[Classifier]:
        """The classifier of the classes `codes` (row) of all rows at each α; none where a value is infinite.

        Of several α, logistic regressions are only as near to the solution as comparing them needs.
        """
        if not self.finite:
            return
        classes, places = np.unique(codes[self.mask], return_inverse=True)
        all_places = np.zeros(len(codes), np.int64)
        all_places[self.mask] = places
        for weights, bias in METHODS[method].path(self, all_places, len(classes), alphas):
            yield Classifier(classes, self.centre, self.scale, weights, bias)

    def fit(self, method: MethodName, codes: Codes, alpha: float) -> Classifier | None:
        """The classifier of the classes `codes` (row) of all rows; None where a value is infinite."""
        return next(self.path(method, codes, [alpha]), None)

    def standardised(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The training rows, standardised, in batches, and their places among all rows."""
        for x, places in self.rows.those(self.mask):
            yield x.sub_(self.centre).div_(self.scale), places

    def class_means(self, codes: Codes, classes: int) -> tuple[Tensor, Tensor]:
        """The mean of each class, standardised (class, node), and its share of the rows (class,)."""
        state = self._class_moments(codes, classes)
        return (state["mean"] - self.centre) / self.scale, state["count"] / self.number

    def _class_moments(self, codes: Codes, classes: int) -> State:
        metric, all_codes = ClassMoments(), torch.from_numpy(codes)
        state = metric.init(Spec(self.nodes, classes, torch.float64, torch.device("cpu")))
        for x, places in self.rows.those(self.mask):
            state = metric.update(state, x, all_codes[places])
        return state


Loss = Callable[[Tensor, Tensor], Tensor]  # of scores (row, class) and codes (row,): their sum over the rows
Solutions = Iterator[tuple[Tensor, Tensor]]  # weights (node, class) and bias (class,)


def _ridge(training: Training, codes: Codes, classes: int, alphas: Sequence[float]) -> Solutions:
    """Least squares of a 0-or-1 target for each class."""
    means, shares = training.class_means(codes, classes)
    for alpha in alphas:
        yield penalised_solution(training.correlation, alpha, (shares[:, None] * means).T), shares


def _lda(training: Training, codes: Codes, classes: int, alphas: Sequence[float]) -> Solutions:
    """Linear discriminant analysis with the covariance within the classes + α."""
    means, shares = training.class_means(codes, classes)
    weighted = shares[:, None].sqrt() * means
    within = torch.addmm(training.correlation, weighted.T, weighted, alpha=-1)
    for alpha in alphas:
        weights = penalised_solution(within, alpha, means.T)
        yield weights, shares.log() - (means * weights.T).sum(1) / 2


def _logistic(training: Training, codes: Codes, classes: int, alphas: Sequence[float]) -> Solutions:
    """Multinomial logistic regression by L-BFGS, as scikit-learn's, which reads the rows once a step.

    Each α begins where the one before it ended. Another than the first isn't given where it takes too many steps.
    """
    from scipy.optimize import minimize  # slow to import

    every, labels = training.number, torch.from_numpy(codes)

    def loss(free: Array, penalty: float) -> tuple[float, Array]:
        table = torch.from_numpy(free).view(-1, classes)
        total, slope = 0.0, torch.zeros_like(table)
        for z, places in training.standardised():
            log_shares = torch.log_softmax(torch.addmm(table[-1], z, table[:-1]), 1)
            y = labels[places][:, None]
            total -= float(log_shares.gather(1, y).sum())
            apart = log_shares.exp_().scatter_add_(1, y, log_shares.new_full((len(y), 1), -1.0))
            slope[:-1].addmm_(z.T, apart)
            slope[-1] += apart.sum(0)
        current().of(_STEP)(1)
        slope /= every
        slope[:-1] += penalty * table[:-1]
        return total / every + penalty / 2 * float(table[:-1].square().sum()), slope.numpy().ravel()

    options = {"maxiter": _STEPS, "gtol": _SLOPE if len(alphas) == 1 else _ROUGH_SLOPE, "ftol": 0}
    at = np.zeros((training.nodes + 1) * classes)
    for n, alpha in enumerate(alphas):
        # For two classes, α is for the one hyperplane between them, whose weights are the difference of the two's.
        penalty = 2 * alpha if classes == 2 else alpha
        found = minimize(loss, at, penalty, jac=True, method="L-BFGS-B", options=options)
        if found.nit >= _STEPS:
            if n:
                return
            warnings.warn(f"The logistic regression didn't converge in {_STEPS} steps: raise alpha.", stacklevel=2)
        at = found.x
        table = torch.from_numpy(at).view(-1, classes)
        yield table[:-1], table[-1]


def penalised_solution(gram: Tensor, alpha: float, products: Tensor) -> Tensor:
    """The solution of (gram + α) W = products."""
    penalised = gram.clone()
    penalised.diagonal().add_(alpha)
    solved: Tensor = torch.linalg.solve(penalised, products)
    return solved


def _cross_entropy(scores: Tensor, codes: Tensor) -> Tensor:
    return cross_entropy(scores, codes, reduction="sum")


def _mistakes(scores: Tensor, codes: Tensor) -> Tensor:
    return (scores.argmax(1) != codes).sum()


class Method(NamedTuple):
    """How a classifier is found at each of several α, and the loss by which they are compared on other rows.

    Mistakes tell less of few rows than cross-entropy, but only logistic regression's scores are made for that. `rises`
    as in `best_penalty`: the steps of a logistic regression are many where α is small, the others are solved at once.
    """

    path: Callable[[Training, Codes, int, Sequence[float]], Solutions]
    loss: Loss
    rises: int | None


METHODS: dict[MethodName, Method] = {
    "logistic": Method(_logistic, _cross_entropy, 2),
    "lda": Method(_lda, _mistakes, None),
    "ridge": Method(_ridge, _mistakes, None),
}
