"""Small models and data that more than one test uses."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

__all__ = ["TokenLayers", "batches", "mlp", "samples"]


def mlp(hidden: int = 300, *, seed: int = 0) -> nn.Sequential:
    """Of six inputs, and of three outputs at the site '2'; the same from the same `seed`."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 3))


class TokenLayers(nn.Sequential):
    """Layers in turn on each token, padding too."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return super().forward(input_ids)


def samples(rows: int = 95, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Inputs of the `mlp`, always the same, and labels in turn."""
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(0)), torch.arange(rows) % classes


def batches(x: Tensor, y: Tensor, size: int = 10, *, stop: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """The samples, so many at a time; interrupted before the batch that begins with sample `stop`."""
    for start in range(0, len(x), size):
        if start == stop:
            raise KeyboardInterrupt
        yield x[start : start + size], y[start : start + size]
