"""What nodes and sites tell of a continuous column of the samples, such as an age: the target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.errors import PluginError
from probekit.metrics._kernels.row_sampling import draws
from probekit.metrics._kernels.scatter import add_rows, no_scatter
from probekit.metrics.block import Array
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Parameters, Samples, Spec, Variables

__all__ = ["Correlation", "RidgeProbe"]


@dataclass(frozen=True)
class Correlation(Parameters):
    """Correlation of each node with a continuous column of the samples: Pearson's and Spearman's.

    The column is the measurement's `target`: ``pk.measure(store, "correlation", target="age")``. Float64:

    - `correlation` (node), in [−1, 1]: Pearson's r, the linear relation;
    - `correlation_spearman` (node), in [−1, 1]: Pearson's r of the ranks, ties sharing their mean rank: any monotonic
      relation (Spearman 1904);
    - `correlation_r2` (node), in [0, 1]: the square of Pearson's r, the share of the node's variance that a line in the
      target explains.

    NaN at constant nodes, for a constant target, and with fewer than two samples; Pearson's also where a value is
    infinite. It ignores the classes. At n samples, r of an independent node is within ±2 / √n for 19 nodes of 20: the
    largest of many nodes lies beyond that.

    Pearson's r reads the samples twice. Spearman's keeps all of a site's values in memory; ``spearman=False`` leaves it
    out.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"age": ("sample", [1.0, 2, 3, 4])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[0.0, 4], [1, 3], [2, 2], [9, 1]]))})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, "relu": relu}), "correlation", target="age")["relu"]
    >>> m["correlation"].values.round(3), m["correlation_spearman"].values.round(3)
    (array([ 0.885, -1.   ]), array([ 1., -1.]))
    """

    spearman: bool = True
    name: ClassVar[str] = "correlation"
    needs_target: ClassVar[bool] = True
    headline: ClassVar[Headline] = Headline(
        "correlation_r2",
        "max",
        "some node follows the target",
        neutral=0.0,
        missing="nodes are constant, or a value is infinite",
    )

    def memory(self, spec: Spec, samples: int) -> int:
        return 8 * samples * (spec.nodes + 8) if self.spearman else 32 * spec.nodes

    def compute_samples(self, samples: Samples) -> Variables:
        r = _pearson(samples)
        found: Variables = {"correlation": (("node",), r), "correlation_r2": (("node",), r**2)}
        if self.spearman:
            found["correlation_spearman"] = (("node",), _spearman(samples))
        return found


def _pearson(samples: Samples) -> Array:
    """Pearson's correlation of each node with the target, in two passes."""
    target = _centred(samples.target)
    pivot, total = np.zeros(samples.nodes), np.zeros(samples.nodes)
    for start, x in _batches(samples):
        pivot = x[0] if start == 0 else pivot
        total += (x - pivot).sum(axis=0)  # exactly 0 at a constant node
    mean = pivot + total / max(1, samples.number)
    products, squares = np.zeros(samples.nodes), np.zeros(samples.nodes)
    for start, x in _batches(samples):
        apart = x - mean
        products += target[start : start + len(x)] @ apart
        squares += np.square(apart).sum(axis=0)
    return _ratio(products, squares, target)


def _spearman(samples: Samples) -> Array:
    """Pearson's correlation of the ranks."""
    rows = samples.take(np.arange(samples.number))
    target = _centred(_ranks(samples.target))
    found = np.empty(samples.nodes)
    for node in range(samples.nodes):
        ranks = _centred(_ranks(rows[:, node]))
        found[node] = _ratio(target @ ranks, ranks @ ranks, target)
    return found


def _ratio(products: Array, squares: Array, target: Array) -> Array:
    # The root of each, since the product of the squares may be too large.
    r = products / np.sqrt(squares) / np.sqrt(target @ target)
    return np.where(np.isfinite(r), np.clip(r, -1, 1), np.nan)


def _ranks(values: Array) -> Array:
    """The rank of each value, from 1; equal values share their mean rank."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


def _centred(values: Array) -> Array:
    centred: Array = values - values[:1]  # exactly 0 for equal values
    return centred - centred.mean() if len(centred) else centred


def _batches(samples: Samples) -> Iterator[tuple[int, Array]]:
    """All rows in float64, with the number of the first of each batch."""
    start = 0
    for x, _ in samples.batches():
        if len(x):
            yield start, x.astype(np.float64)
        start += len(x)


@dataclass(frozen=True)
class RidgeProbe(Parameters):
    """Share of the variance of a continuous column that a linear regression on a site explains on held-out samples.

    The column is the measurement's `target`: ``pk.measure(store, "ridge_probe", target="age")``.

    - `ridge_probe` (), float64, at most 1: R² = 1 − Σ(y − ŷ)² / Σ(y − ȳ)² over the held-out samples, with ŷ the
      prediction and ȳ their mean. 0 is what predicting that mean gives; below 0 the regression is worse than that;
    - `ridge_probe_held_out` (), int64: the number of held-out samples.

    The nodes and the target are standardised by the mean and the standard deviation of the training samples, and the
    regression minimises mean squared error + α‖w‖² (ridge regression, Hoerl and Kennard 1970). That is scikit-learn's
    ``Ridge(alpha=α·n)`` on n standardised samples. A sample is held out with probability `held_out`, by a random draw
    that depends only on `seed` and on its row in the store: the same samples at every site.

    NaN with fewer than two training or held-out samples, for a target that is constant in either, and where a value is
    infinite or so large that its square is. It ignores the classes. It reads the samples twice and needs memory for the
    square of the number of nodes. With more nodes than training samples, raise `alpha`. Where rows are tokens, tokens
    of one sample may be on both sides of the split, which makes R² too high.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> age = np.arange(200.0)
    >>> root = xr.Dataset(coords={"age": ("sample", age)})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.stack([age, np.sqrt(age)], axis=1))})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, "relu": relu}), "ridge_probe", target="age")["relu"]
    >>> round(m["ridge_probe"].item(), 3)
    1.0
    """

    alpha: float = 1e-3
    held_out: float = 0.25
    seed: int = 0
    name: ClassVar[str] = "ridge_probe"
    needs_target: ClassVar[bool] = True
    headline: ClassVar[Headline] = Headline(
        "ridge_probe",
        None,
        "a linear regression finds the target of new samples",
        neutral=0.0,
        missing="it needs two training and two held-out samples of different targets, and finite values",
    )

    def __post_init__(self) -> None:
        if not self.alpha > 0 or not 0 < self.held_out < 1:
            raise PluginError(
                f"RidgeProbe(alpha={self.alpha!r}, held_out={self.held_out!r}): alpha must be above 0, and held_out a "
                "share between 0 and 1."
            )

    def memory(self, spec: Spec, samples: int) -> int:
        return 3 * 8 * (spec.nodes + 1) ** 2  # the scatter, its standardised form, and the decomposition of that

    def compute_samples(self, samples: Samples) -> Variables:
        test = draws(samples.rows, self.seed) < self.held_out
        target = samples.target
        known = len(np.unique(target[test])) > 1 and len(np.unique(target[~test])) > 1
        value = self._explained(samples, target, test) if known else np.nan
        return {
            "ridge_probe": ((), np.asarray(value)),
            "ridge_probe_held_out": ((), np.asarray(test.sum())),
        }

    def _explained(self, samples: Samples, target: Array, test: Array) -> float:
        """R² on the samples of the mask `test`, of the regression on the others."""
        mean, weights = self._fitted(samples, target, ~test)
        wrong = 0.0
        for start, x in _batches(samples):
            here = test[start : start + len(x)]
            predicted = mean[-1] + (x[here] - mean[:-1]) @ weights
            wrong += float(np.square(target[start : start + len(x)][here] - predicted).sum())
        return 1 - wrong / float(np.square(_centred(target[test])).sum()) if np.isfinite(wrong) else float("nan")

    def _fitted(self, samples: Samples, target: Array, train: Array) -> tuple[Array, Array]:
        """The means of the nodes and, last, of the target, and the weight of each node, from the mask `train`."""
        state = no_scatter(samples.nodes + 1, torch.device("cpu"))
        for start, x in _batches(samples):
            here = train[start : start + len(x)]
            add_rows(state, torch.from_numpy(np.column_stack([x, target[start : start + len(x)]])[here]))
        covariance = state["scatter"] / state["count"]
        scale = covariance.diagonal().sqrt()
        scale = scale.where(scale != 0, 1.0)  # a constant node has no part
        standard = covariance / scale[:, None] / scale
        weights = _solved(standard[:-1, :-1], standard[:-1, -1], self.alpha) * scale[-1] / scale[:-1]
        return state["mean"].numpy(), weights.numpy()


def _solved(gram: Tensor, products: Tensor, alpha: float) -> Tensor:
    """The weights of the standardised nodes; NaN where a value was infinite."""
    if not gram.isfinite().all() or not products.isfinite().all():
        return torch.full_like(products, torch.nan)
    solved: Tensor = torch.linalg.solve(gram + alpha * torch.eye(len(gram), dtype=gram.dtype), products)
    return solved
