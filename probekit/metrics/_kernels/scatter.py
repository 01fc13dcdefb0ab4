"""Sums of squares and products around the mean, (node, node), that add up over batches without cancellation."""

from __future__ import annotations

import torch
from torch import Tensor

from probekit.metrics.protocol import State

__all__ = ["add_rows", "centred", "merged_mean", "no_scatter"]


def no_scatter(nodes: int, device: torch.device) -> State:
    """The scatter of no rows: `count` (), int64, `mean` (node) and `scatter` (node, node), float64."""
    return {
        "count": torch.zeros((), dtype=torch.int64, device=device),
        "mean": torch.zeros(nodes, dtype=torch.float64, device=device),
        "scatter": torch.zeros(nodes, nodes, dtype=torch.float64, device=device),
    }


def add_rows(state: State, x: Tensor) -> None:
    """Change the scatter of `state` to that with the rows of the batch `x` (batch, node) as well."""
    if len(x):
        mean, rows = centred(state["count"], state["mean"], x)
        state["scatter"].addmm_(rows.T, rows)
        state |= {"count": state["count"] + len(x), "mean": mean}


def centred(count: Tensor, mean: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (node) after the batch `x` (batch, node), and the rows whose products the batch adds to a scatter.

    The rows (batch + 1, node), float64, are the batch less its own mean, and one row for the distance of that mean from
    the `mean` of the `count` previous rows. The batch adds the products of two sites' rows to their cross-scatter.
    """
    pivot = x[0].to(mean)
    rows = x.to(mean) - pivot  # exactly 0 at a constant node, whose mean is then exactly its value
    shift = rows.mean(0)
    after, apart = merged_mean(count, mean, count.new_tensor(len(x)), pivot + shift)
    return after, torch.cat([rows.sub_(shift), apart[None]])


def merged_mean(count: Tensor, mean: Tensor, count_b: Tensor, mean_b: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (node) of both states, and the row (node) whose products merging adds to their scatters.

    The row is √(n_a n_b / n) (μ_b − μ_a), by Chan, Golub and LeVeque (1983), who never subtract two large sums.
    """
    share = count_b.double() / (count + count_b).clamp(min=1)
    apart = mean_b - mean
    return mean + apart * share, apart * (share * count).sqrt()
