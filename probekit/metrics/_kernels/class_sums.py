"""Counts, sums and minima of each class in a batch."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from probekit.metrics.protocol import Spec

__all__ = ["class_counts", "class_minima", "class_sums", "no_minima"]


def class_counts(y: Tensor, classes: int) -> Tensor:
    """Samples of each class among the codes `y`: (class,), int64."""
    return torch.bincount(y, minlength=classes)


def class_sums(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """Sums of `x` (batch, node) over the samples of each class: (class, node), float64.

    An infinity stays within its class, which it wouldn't in a product with one-hot codes.
    """
    return x.new_zeros((classes, x.shape[1]), dtype=torch.float64).index_add_(0, y, x.double())


def no_minima(spec: Spec) -> Tensor:
    """The minima of no samples: infinity, (class, node), in the dtype that values of `spec` are measured in."""
    short = spec.dtype.is_floating_point and spec.dtype != torch.float64
    dtype = torch.float32 if short else torch.float64
    return torch.full((spec.classes, spec.nodes), inf, dtype=dtype, device=spec.device)


def class_minima(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """The smallest of `x` (batch, node) in each class: (class, node), infinity for a class without samples."""
    return x.new_full((classes, x.shape[1]), inf).scatter_reduce_(0, y[:, None].expand_as(x), x, "amin")
