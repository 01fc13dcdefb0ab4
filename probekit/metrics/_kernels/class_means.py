"""The class means of a site, and whether each sample is nearest to that of its own class."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from probekit.metrics._kernels.class_moments import ClassMoments
from probekit.metrics._kernels.rounding import vector_error
from probekit.metrics._kernels.sample_batches import PIECE, pieces, tensor_batches
from probekit.metrics.protocol import Samples, Spec, State

__all__ = ["class_moments", "own_mean_share", "unit_batches", "unit_bytes"]


def class_moments(samples: Samples) -> State:
    """The state of `ClassMoments` after all samples, in one pass: `count` (class), `mean` and `m2` (class, node)."""
    metric = ClassMoments()
    state = metric.init(Spec(samples.nodes, samples.classes, torch.float64, torch.device("cpu")))
    for x, y in tensor_batches(samples):
        state = metric.update(state, x, y)
    return state


def unit_batches(samples: Samples) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """All rows in float64, their classes, and the group of each: consecutive rows of one unit and class.

    No group is cut by the end of a batch, which has `PIECE` rows or the rest of a unit.
    """
    units, codes = samples.units, samples.codes
    begins = np.append(np.flatnonzero(np.diff(units, prepend=units[:1] - 1)), len(units))
    left, start = torch.empty(0, samples.nodes, dtype=torch.float64), 0
    for _, x in pieces(samples):
        rows = torch.cat([left, x]) if len(left) else x
        end = start + len(rows)
        whole = int(begins[np.searchsorted(begins, end, side="right") - 1]) - start
        if whole > 0:
            here = slice(start, start + whole)
            run = np.searchsorted(begins, np.arange(start, start + whole), side="right")
            groups = np.unique(run * samples.classes + codes[here], return_inverse=True)[1]
            yield rows[:whole], torch.tensor(codes[here]), torch.from_numpy(groups.reshape(-1))
            start += whole
        left = rows[max(whole, 0) :].clone()  # a view would keep all of them


def unit_bytes(spec: Spec, samples: int) -> int:
    """What `class_moments` and the users of `unit_batches` take: states, and a batch with its means and scores."""
    batch = 8 * min(PIECE, samples) * (8 * spec.nodes + 4 * spec.classes)  # more than that of a state's update
    return ClassMoments().memory(spec, 0) + batch + 64 * samples


def own_mean_share(samples: Samples, state: State) -> float:
    """The share of rows that are nearest to the mean of their own class; `state` comes from `class_moments`.

    A row's own class has the mean without the row's unit (the consecutive rows of it), in closed form. From each
    squared distance the part is taken that comes from the few samples of the mean, s² / n (Aoshima and Yata 2014), with
    s² the variance within the classes: otherwise the mean of a row less would seem farther. Means that are equally
    near, up to rounding, count in equal parts; a row without others of its class counts as wrong.

    NaN with fewer than two classes that have samples, without a class of two units, and where a value is infinite.
    """
    there, count = state["count"].nonzero().flatten(), state["count"].double()
    means, spare = state["mean"][there], float(count.sum()) - len(there)
    if len(there) < 2 or spare <= 0 or not state["m2"][there].isfinite().all():
        return float("nan")
    centre = means.mean(0)
    means, variance = means - centre, float(state["m2"][there].sum()) / spare
    offsets = (variance / count[there] - means.square().sum(1)) / 2
    longest = torch.linalg.vector_norm(means, dim=1).amax()
    of_code = torch.full_like(state["count"], -1)
    of_code[there] = torch.arange(len(there))
    hits, known, error = 0.0, False, vector_error(samples.nodes)
    for x, y, groups in unit_batches(samples):
        own = of_code[y]
        away = torch.linalg.vector_norm(x, dim=1).amax() * error  # how far rounding moves a row or a mean
        x -= centre
        scores = torch.addmm(offsets, x, means.T)
        sums = torch.zeros(int(groups.max()) + 1, x.shape[1], dtype=torch.float64).index_add_(0, groups, x)
        without = torch.bincount(groups)[groups]
        others = count[y] - without
        mean = means[own].mul_(count[y][:, None]).sub_(sums[groups]).div_(others.clamp(min=1)[:, None])
        score = (x * mean).sum(1) + (variance / others.clamp(min=1) - mean.square().sum(1)) / 2
        scores.scatter_(1, own[:, None], score.where(others > 0, -torch.inf)[:, None])
        # Each factor of a product moves by the error, while the other is as long as it is here.
        moved = 2 * away * (torch.linalg.vector_norm(x, dim=1) + longest) * (1 + 1 / others.clamp(min=1))
        near = scores >= (scores.amax(1) - moved)[:, None]
        hits += float((near.gather(1, own[:, None])[:, 0] / near.sum(1)).sum())
        known = known or bool((others > 0).any())
    return hits / samples.number if known else float("nan")
