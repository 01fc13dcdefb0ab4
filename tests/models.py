"""Small models and data that more than one test uses."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Output", "Pair", "TokenLayers", "TwoBlocks", "batches", "gradients", "mlp", "samples", "two_blocks"]


Pair = namedtuple("Pair", "left right")


@dataclass
class Output:
    """What a model may return, with values that are nested further."""

    hidden: Tensor
    rest: list[Any]


def mlp(hidden: int = 300, *, seed: int = 0) -> nn.Sequential:
    """Of six inputs, and of three outputs at the site '2'; the same from the same `seed`."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 3))


class TokenLayers(nn.Sequential):
    """Layers in turn on each token, padding too."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return super().forward(input_ids)


class Residual(nn.Module):
    """With operations that are not modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, *, scale: Tensor | None = None) -> Tensor:
        h = F.relu(self.first(x if scale is None else x * scale))
        h = F.relu(self.second(h), inplace=True)
        return h + x


class TwoBlocks(nn.Module):
    """One block that runs twice, the second time with a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Residual(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return self.head(self.block(x, scale=x))


def two_blocks() -> TwoBlocks:
    """Of four inputs and three outputs."""
    torch.manual_seed(0)
    return TwoBlocks()


def gradients(net: TwoBlocks, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Gradients at net.block.second and net.head, by autograd on a forward pass that is written out."""
    block = net.block
    found: list[Tensor] = []

    def run(x: Tensor, scale: Tensor | None) -> Tensor:
        h = F.relu(block.first(x if scale is None else x * scale))
        z = block.second(h)
        found.append(z)
        return F.relu(z) + x

    h = run(x, None)
    logits = net.head(run(h, h))
    return torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), [*found, logits])


def samples(rows: int = 95, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Inputs of the `mlp`, always the same, and labels in turn."""
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(0)), torch.arange(rows) % classes


def batches(x: Tensor, y: Tensor, size: int = 10, *, stop: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """The samples, so many at a time; interrupted before the batch that begins with sample `stop`."""
    for start in range(0, len(x), size):
        if start == stop:
            raise KeyboardInterrupt
        yield x[start : start + size], y[start : start + size]
