"""What nodes and sites tell of a continuous column of the samples, such as an age: the target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import ClassVar

import numpy as np
import torch

from probekit._beats import in_turn
from probekit.metrics._kernels.linear_classifiers import KeptRows, Training, kept_bytes, penalised_solution
from probekit.metrics._kernels.penalties import PENALTIES, best_penalty, validation_rows
from probekit.metrics._kernels.sample_batches import PIECE, pieces
from probekit.metrics._kernels.splits import SPLIT_LIMITS, Mask, Split, check_folds, generators_of
from probekit.metrics.block import Array, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits
from probekit.metrics.protocol import Parameters, Samples, Spec, Variables
from probekit.metrics.ranges import CORRELATION, SHARE, SIZE, UP_TO_ONE, Ranges

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
    ranges: ClassVar[Ranges] = {
        "correlation": CORRELATION,
        "correlation_spearman": CORRELATION,
        "correlation_r2": SHARE,
    }
    needs_target: ClassVar[bool] = True
    headline: ClassVar[Headline] = Headline(
        "correlation_r2",
        "max",
        "some node follows the target",
        neutral=0.0,
        missing="nodes are constant, or a value is infinite",
    )

    def memory(self, spec: Spec, samples: int) -> int:
        # The values, and the order and ranks of those of a node; sums, and a few rows in float64.
        rows = samples * (spec.dtype.itemsize * spec.nodes + 12 * 8) if self.spearman else 0
        return rows + 8 * spec.nodes * (6 + 4 * min(PIECE, samples))

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
    for here, rows in pieces(samples):
        x = rows.numpy()
        pivot = x[0] if here.start == 0 else pivot
        total += (x - pivot).sum(axis=0)  # exactly 0 at a constant node
    mean = pivot + total / max(1, samples.number)
    products, squares = np.zeros(samples.nodes), np.zeros(samples.nodes)
    for here, rows in pieces(samples):
        apart = rows.numpy() - mean
        products += target[here] @ apart
        squares += np.square(apart).sum(axis=0)
    return _ratio(products, squares, target)


def _spearman(samples: Samples) -> Array:
    """Pearson's correlation of the ranks."""
    rows = samples.take(np.arange(samples.number))
    target = _centred(_ranks(samples.target))
    found = np.empty(samples.nodes)
    for node in in_turn(range(samples.nodes)):
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


@dataclass(frozen=True)
class RidgeProbe(Parameters):
    """Share of the variance of a continuous column that a linear regression on a site explains on held-out samples.

    The column is the measurement's `target`: ``pk.measure(store, "ridge_probe", target="age")``. All are ():

    - `ridge_probe`, float64, at most 1: R² = 1 − Σ(y − ŷ)² / Σ(y − ȳ)² over the held-out rows, with ŷ the prediction
      and ȳ their mean. 0 is what predicting that mean gives; below 0 the regression is worse than that;
    - `ridge_probe_chance`, float64, at most 0: R² of predicting the mean of the training rows;
    - `ridge_probe_shuffled`, float64: R² of regressions on shuffled targets, the mean over `shuffles` of them; below 0
      by what the regression finds in noise; not given for ``shuffles=0``;
    - `ridge_probe_alpha`, float64: the penalty α, the geometric mean where parts in turn have several;
    - `ridge_probe_held_out`, int64: the number of held-out rows.

    The nodes and the target are standardised by the mean and the standard deviation of the training rows, and the
    regression minimises mean squared error + α‖w‖² (ridge regression, Hoerl and Kennard 1970). That is scikit-learn's
    ``Ridge(alpha=α·n)`` on n standardised rows.

    `alpha` is α. By default it is chosen for each site: of the decades from 100 to 1e-6, it is the one with the least
    squared error on a quarter of the training units when the others are trained on; 1 where there is one unit alone.
    The regression then takes all training rows. The held-out rows have no part in the choice; shuffled targets are
    trained on with the same α.

    The share `held_out` of the samples is held out, or each of `folds` parts in turn. The rows of a sample, such as
    tokens, stay on one side; so do all rows with the same value in the column `split_by`. The random choice depends
    only on `seed` and on the sample's place in the store, so sites with the same rows are split alike. Shuffling deals
    the targets out anew among the training samples and among the held-out ones (among rows, where targets differ within
    a sample).

    NaN with fewer than two training or held-out rows, for a target that is constant in either, and where a value is
    infinite or so large that its square is. It ignores the classes. It reads the rows a few times, of which it keeps up
    to 256 MiB in memory, and needs memory for the square of the number of nodes. Version 2 had α = 1e-3 by default;
    version 1 split by row.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> age = np.arange(200.0)
    >>> root = xr.Dataset(coords={"age": ("sample", age)})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.stack([age, np.sqrt(age)], axis=1))})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, "relu": relu}), "ridge_probe", target="age")["relu"]
    >>> round(m["ridge_probe"].item(), 3)
    1.0
    """

    alpha: float | None = None
    held_out: float = 0.25
    seed: int = 0
    folds: int | None = None
    split_by: str | None = None
    shuffles: int = 1
    limits: ClassVar[Limits] = SPLIT_LIMITS
    name: ClassVar[str] = "ridge_probe"
    ranges: ClassVar[Ranges] = {
        "ridge_probe_alpha": SIZE,
        "ridge_probe": UP_TO_ONE,
        "ridge_probe_shuffled": UP_TO_ONE,
        "ridge_probe_chance": (-inf, 0.0),
    }
    needs_target: ClassVar[bool] = True
    version: ClassVar[int] = 3
    headline: ClassVar[Headline] = Headline(
        "ridge_probe",
        None,
        "a linear regression finds the target of new samples",
        neutral=0.0,
        missing="it needs two training and two held-out samples of different targets, and finite values",
    )

    def memory(self, spec: Spec, samples: int) -> int:
        check_folds(self.folds, samples)
        rows = kept_bytes(samples, spec.nodes, spec.dtype.itemsize) + 64 * samples
        return rows + 4 * 8 * (spec.nodes + 1) ** 2 + 3 * 8 * 1024 * spec.nodes

    def compute_samples(self, samples: Samples) -> Variables:
        values, codes = np.unique(samples.target, return_inverse=True)
        split = Split.of(samples.units, np.zeros_like(codes), self.seed)
        masks = split.masks(self.held_out, self.folds)
        test = np.any([np.zeros(len(codes), bool), *masks], axis=0)
        known = len(np.unique(codes[test])) > 1 and all(len(np.unique(codes[~mask])) > 1 for mask in masks)
        found = dict.fromkeys(["ridge_probe", "ridge_probe_chance", "ridge_probe_alpha"], np.nan)
        found |= {"ridge_probe_shuffled": np.nan} if self.shuffles else {}
        if known:
            rows = KeptRows(samples)
            first = in_turn(masks, [1.0] * len(masks), then=len(masks))
            alphas = [self.alpha or _chosen(rows, split, ~mask, samples.target) for mask in first]
            errors = self._errors(rows, Split.of(samples.units, codes, self.seed), values, codes, masks, alphas)
            squares = np.square(_centred(samples.target[test])).sum()
            # The shuffled targets of held-out rows are the same numbers, but where units differ in their rows.
            explained = [1 - error / squares if np.isfinite(error) else np.nan for error in errors]
            found["ridge_probe"], found["ridge_probe_chance"] = explained[1], explained[0]
            found["ridge_probe_alpha"] = float(10 ** np.log10(alphas).mean())
            if self.shuffles:
                found["ridge_probe_shuffled"] = float(np.mean(explained[2:]))
        variables: Variables = {name: ((), np.asarray(value)) for name, value in found.items()}
        return variables | {"ridge_probe_held_out": ((), np.asarray(test.sum()))}

    def _errors(
        self, rows: KeptRows, split: Split, values: Array, codes: Codes, masks: list[Mask], alphas: list[float]
    ) -> Array:
        """The squared errors on the held-out rows: of the training mean, the regression, and of shuffled targets."""
        errors, generators = np.zeros(2 + self.shuffles), generators_of(self.seed, self.shuffles)
        for mask, alpha in zip(in_turn(masks), alphas, strict=True):
            training = Training(rows, ~mask)
            errors[0] += np.square(values[codes][mask] - values[codes][~mask].mean()).sum()
            targets = [codes, *(split.shuffled(codes, mask, each) for each in generators)]
            for n, dealt in enumerate(in_turn(targets), 1):
                errors[n] += next(_squared_errors(training, values[dealt], mask, [alpha]), np.nan)
        return errors


def _chosen(rows: KeptRows, split: Split, training: Mask, target: Array) -> float:
    """The α with the least error on a part of the training rows, when the others are trained on."""
    validation = validation_rows(split, training)
    if not validation.any():
        return best_penalty([])
    return best_penalty(_squared_errors(Training(rows, training & ~validation), target, validation, PENALTIES))


def _squared_errors(training: Training, target: Array, test: Mask, alphas: Iterable[float]) -> Iterator[float]:
    """The sum of the squared errors on the rows of `test` at each α; none where a value is infinite."""
    if not training.finite or not training.correlation.isfinite().all():
        return
    of_rows = torch.from_numpy(target)
    centre = float(target[training.mask].mean())
    products = torch.zeros(training.nodes, dtype=torch.float64)
    for z, places in training.standardised():
        products += z.T @ (of_rows[places] - centre)
    for alpha in alphas:
        weights = penalised_solution(training.correlation, alpha, products / training.number)
        error = 0.0
        for x, places in training.rows.those(test):
            z = x.sub_(training.centre).div_(training.scale)
            error += float((of_rows[places] - centre - z @ weights).square().sum())
        yield error
