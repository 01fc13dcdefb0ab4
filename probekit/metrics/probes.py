"""Linear classifiers that are trained on the activations of a site."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probekit.errors import PluginError
from probekit.metrics._kernels.row_sampling import draws
from probekit.metrics._kernels.scatter import add_rows, no_scatter
from probekit.metrics.block import Array
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Parameters, Samples, Spec, Variables

__all__ = ["LinearProbe"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LinearProbe(Parameters):
    """Accuracy of a linear classifier of the classes on held-out samples, and of guessing the commonest class.

    A classifier is trained on the values of all nodes of a site, and predicts the classes of samples that it was not
    trained on (Alain and Bengio 2017):

    - `linear_probe` (), float64 in [0, 1]: the share of held-out samples that it classifies correctly;
    - `linear_probe_chance` (), float64 in [0, 1]: the share of held-out samples that have the class that is commonest
      among the training samples;
    - `linear_probe_held_out` (), int64: the number n of held-out samples; the accuracy's standard error is
      √(p (1 − p) / n).

    ``method="ridge"`` regresses one 0-or-1 target per class on the nodes by least squares, and predicts the class with
    the largest output. It reads the samples twice and needs memory for the square of the number of nodes and classes
    together, in float64. ``method="logistic"`` is scikit-learn's LogisticRegression (lbfgs, at most 1,000 steps; it
    warns where they aren't enough). It keeps all training samples in memory twice, as they are stored and in float64.

    `alpha` is the regularisation: the nodes are divided by one number, which makes their mean variance 1, and the
    methods minimise mean squared error + α‖W‖² and mean cross-entropy + ½α‖W‖², with free intercepts. Sites of
    different scale are therefore treated alike. A sample is held out with probability `held_out`, by a random draw that
    depends only on `seed` and on its row in the store: the same samples at every site, even when fewer are measured.

    Accuracy and chance are NaN with fewer than two classes among the training samples, and without held-out samples.
    The accuracy is also NaN where a value is infinite or so large that its square is. A held-out sample of a class that
    has no training samples counts as wrong.

    High accuracy means that the site contains the classes in linear form, not that the network uses them. Wide sites
    make it easier: with more nodes than training samples nearly anything can be separated in training, so only the
    held-out samples are evidence. Where rows are tokens, tokens of one sample may be on both sides of the split, which
    makes the accuracy too high.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", np.arange(100) % 2)})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.eye(2)[np.arange(100) % 2])})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, "relu": relu}), pk.metrics.LinearProbe())["relu"]
    >>> m["linear_probe"].item(), m["linear_probe_held_out"].item()
    (1.0, 24)
    """

    method: str = "ridge"
    alpha: float = 1e-3
    held_out: float = 0.25
    seed: int = 0
    name: ClassVar[str] = "linear_probe"
    headline: ClassVar[Headline] = Headline(
        "linear_probe",
        None,
        "a linear classifier finds the class of new samples",
        beside="linear_probe_chance",
        missing="it needs two classes among the training samples, held-out samples, and finite values",
    )

    def __post_init__(self) -> None:
        if self.method not in _METHODS or not self.alpha > 0 or not 0 < self.held_out < 1:
            raise PluginError(
                f"LinearProbe(method={self.method!r}, alpha={self.alpha!r}, held_out={self.held_out!r}): method must "
                "be 'ridge' or 'logistic', alpha above 0, and held_out a share between 0 and 1."
            )

    def memory(self, spec: Spec, samples: int) -> int:
        nodes, classes = spec.nodes, spec.classes
        if self.method == "ridge":  # the scatter, and its decomposition
            return 2 * 8 * (nodes + classes) ** 2
        return (
            3 * 8 * samples * nodes + 5 * 8 * samples * classes + 30 * 8 * classes * nodes
        )  # of lbfgs: its last steps

    def compute_samples(self, samples: Samples) -> Variables:
        test = draws(samples.rows, self.seed) < self.held_out
        trained = np.bincount(samples.codes[~test], minlength=samples.classes)
        accuracy = chance = np.nan
        if np.count_nonzero(trained) > 1 and test.any():
            accuracy = _accuracy(_METHODS[self.method](samples, ~test, self.alpha), samples, test)
            chance = np.mean(samples.codes[test] == trained.argmax())
        return {
            "linear_probe": ((), np.asarray(accuracy)),
            "linear_probe_chance": ((), np.asarray(chance)),
            "linear_probe_held_out": ((), np.asarray(test.sum())),
        }


@dataclass(frozen=True)
class _Classifier:
    """Predicts the one of the `classes` (class) for which ``(x − centre) @ weights + bias`` is largest."""

    classes: Tensor
    centre: Tensor
    weights: Tensor
    bias: Tensor

    def scores(self, x: Tensor) -> Tensor:
        return (x.double() - self.centre) @ self.weights + self.bias


def _accuracy(classifier: _Classifier, samples: Samples, test: Mask) -> float:
    hits = 0
    for x, y in _chosen(samples, test):
        scores = classifier.scores(x)
        if not scores.isfinite().all():
            return float("nan")
        hits += int((classifier.classes[scores.argmax(1)] == y).sum())
    return hits / int(test.sum())


def _chosen(samples: Samples, rows: Mask) -> Iterator[tuple[Tensor, Tensor]]:
    """The chosen rows in batches, and their classes."""
    start = 0
    for x, y in samples.batches():
        here = rows[start : start + len(x)]
        start += len(x)
        yield torch.from_numpy(x[here]), torch.from_numpy(y[here])


def _ridge(samples: Samples, train: Mask, alpha: float) -> _Classifier:
    """Ridge regression in one pass, from the scatter of the nodes and targets of the training rows."""
    nodes, classes = samples.nodes, torch.from_numpy(np.unique(samples.codes[train]))
    state = no_scatter(nodes + len(classes), torch.device("cpu"))
    for x, y in _chosen(samples, train):
        add_rows(state, torch.cat([x.double(), (y[:, None] == classes).double()], dim=1))
    gram, products = state["scatter"][:nodes, :nodes], state["scatter"][:nodes, nodes:]
    penalty = alpha * gram.trace() / nodes
    if penalty.isfinite() and penalty > 0:
        products = products.clone()
        gram.diagonal().add_(penalty)
        weights = torch.linalg.solve(gram, products)
    else:  # constant nodes give weights of 0, infinite values give NaN
        weights = penalty * products
    return _Classifier(classes, state["mean"][:nodes], weights, state["mean"][nodes:])


def _logistic(samples: Samples, train: Mask, alpha: float) -> _Classifier:
    from sklearn.linear_model import LogisticRegression  # slow to import, and only this method needs it

    codes = samples.codes[train]
    x, centre, scale = _scaled(samples.take(np.flatnonzero(train)))
    classes, counts = np.unique(codes, return_counts=True)
    if np.isfinite(scale) and scale > 0:
        fitted = LogisticRegression(C=1 / (alpha * len(x)), max_iter=1000).fit(x, codes)
        weights, bias = fitted.coef_.T / scale, fitted.intercept_
        if len(classes) == 2:  # scikit-learn fits one hyperplane, with the second class on its positive side
            weights, bias = weights * [0, 1], bias * [0, 1]
    else:
        weights, bias = np.full((samples.nodes, len(classes)), scale), counts / len(x)
    return _Classifier(*map(torch.from_numpy, (classes, centre, weights, bias)))


@np.errstate(over="ignore", invalid="ignore")
def _scaled(rows: Array) -> tuple[Array, Array, float]:
    """The rows (row, node) in float64, centred and divided by one number; their mean; that number."""
    x = rows.astype(np.float64)
    first = x[0].copy()
    x -= first  # exactly 0 at a constant node
    shift = x.mean(axis=0)
    x -= shift
    scale = float(np.sqrt(np.vdot(x, x) / x.size))
    x /= scale or 1
    return x, first + shift, scale


_METHODS = {"ridge": _ridge, "logistic": _logistic}
