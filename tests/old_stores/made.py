"""What the stores in this folder were made of, by the code as it was before its modules were moved into packages.

Weights and inputs are the same on every machine and with every torch, so that their digests are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tests.models import TokenLayers

__all__ = ["METRICS", "NAMES", "OPTIONS", "SAMPLES", "WATCHED", "batches", "model", "train"]

SAMPLES = 12
NAMES = ["ant", "bee fly", "cat"]
OPTIONS: dict[str, Any] = {
    "sites": ["embed", "mix"],
    "reduce": {"embed": "mean", "mix": "tokens"},
    "class_names": NAMES,
    "memory": 400,  # one batch in a chunk row, and chunks of few tokens
}
METRICS = ["mean", "median"]
WATCHED = ["mean"]


def model() -> TokenLayers:
    """Gives four nodes at each of five tokens."""
    made = TokenLayers(OrderedDict(embed=nn.Embedding(11, 3), mix=nn.Linear(3, 4)))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_((torch.arange(parameter.numel()) % 7 - 3).reshape(parameter.shape) / 4)
    return made


def train(net: nn.Module) -> None:
    """One step."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.125


def batches(first: int = 0, samples: int = SAMPLES) -> Iterator[dict[str, Tensor]]:
    """The samples from `first` on, four at a time."""
    for start in range(first, first + samples, 4):
        rows = torch.arange(start, start + 4)
        yield {
            "input_ids": (rows[:, None] * 5 + torch.arange(5)) % 11,
            "attention_mask": (torch.arange(5) <= rows[:, None] % 5).long(),
            "label": rows % 3,
        }
