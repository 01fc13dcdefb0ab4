"""How far counts in bins and atoms may be from those of the real samples, where they come from a sketch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from probekit.metrics._kernels.cells import MOST_ATOMS, bins_for
from probekit.metrics.block import Array
from probekit.metrics.resolution import Counted, Resolution

__all__ = ["Moved", "moved_among"]

_ROUNDING = 1e-8  # of the mixture's mass: weights of classes have 32 bits


@dataclass(frozen=True)
class Moved:
    """What may count in another cell than it should, as shares of the samples of a class.

    With B bins there are B − 1 edges between them. Their positions are known up to the cells of the sketch: the real
    edge j and that of the block lie within a few cells, and the samples between them count on the wrong side of it.

    Attributes:
        of_class: the sum over the edges of the share of a class that may be between both, (class, node).
        of_two: the most that this is for two classes, if at each edge the larger of theirs counts, (node,).
        left_out: what samples that are left out add to it, at all edges and at both ends of all atoms, (node,).
        cells: the most cells, at least two, (node,).
    """

    of_class: Array
    of_two: Array
    left_out: Array
    cells: Array


def moved_among(resolution: Resolution, bins: int | None, min_count: int, least: int = 1) -> Moved:
    """What may have moved among so many bins, by default as many as suit the classes that count."""
    kept = resolution.kept(min_count)
    bins = bins or bins_for(resolution.counts[kept], least)
    atoms = np.where(resolution.ambiguous, MOST_ATOMS, resolution.atoms)
    each, largest = resolution.shared(("between edges", bins), partial(_between_edges, resolution, bins))
    two = np.sort(each[kept], axis=0)[-2:].sum(axis=0)
    ends = bins - 1 + 2 * atoms
    return Moved(
        np.where(resolution.ambiguous, 1.0, each),
        np.where(resolution.ambiguous, 1.0, np.minimum(two, largest)),
        ends * resolution.count_error,
        np.maximum(2, bins + atoms),
    )


def _between_edges(resolution: Resolution, bins: int) -> tuple[Array, Array]:
    """The sums over the edges of what each class (class, node), and at most one (node,), has between both."""
    found = [_between(few, resolution, bins) for few in resolution.counted()]
    if not found:  # all samples are kept as they are
        return np.zeros(resolution.largest.shape), np.zeros(resolution.largest.shape[1])
    each, largest = (np.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))
    return each, largest


def _between(few: Counted, resolution: Resolution, bins: int) -> tuple[Array, Array]:
    """That of a few nodes.

    Edge j is where the mixture of all classes, each of which weighs the same, first exceeds the share j / B; atoms
    don't count. In the block, this mixture is off by the mean error r of the classes' distribution functions, and an
    atom by 2r, so both the mixture below a value and j / B of all of it by (1 + 4A) r at most, for A atoms. That tells
    the first and the last cell in which the edge of the block may be, at the beginning of the cell; the real one is in
    the cell where the real mixture, known at the ends of cells, exceeds j / B, or at its beginning if it has one value.
    """
    there = np.flatnonzero(resolution.counts)
    shares = few.counts / np.maximum(1, resolution.counts)[:, None, None]
    shares[:, few.atoms] = 0.0
    up_to = np.cumsum(shares, axis=2)
    mixture = up_to[there].mean(axis=0)
    error = resolution.mixture_error * (1 + 4 * few.atoms.sum(axis=1)) + _ROUNDING
    each, largest = np.zeros(up_to.shape[:2]), np.zeros(up_to.shape[1])
    for node, row in enumerate(mixture):
        last = np.searchsorted(row, row[-1])  # the last cell in which there is a sample
        level = row[-1] * np.arange(1, bins) / bins
        first, low, high, end = (
            np.searchsorted(row, level + off, "right").clip(max=last)
            for off in (-error[node], -_ROUNDING, _ROUNDING, error[node])
        )
        ours, below = up_to[:, node], up_to[:, node] - shares[:, node]
        real_end = np.where(few.several[node, high], ours[:, high], below[:, high])
        apart = np.maximum(real_end - below[:, first], below[:, end] - below[:, low]).clip(0)
        each[:, node], largest[node] = apart.sum(axis=1), apart.max(axis=0, initial=0).sum()
    return each, largest
