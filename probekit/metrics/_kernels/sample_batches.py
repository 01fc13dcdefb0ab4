"""The samples of a site as tensors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from probekit.metrics.protocol import Samples

__all__ = ["tensor_batches"]


def tensor_batches(samples: Samples) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of the samples and their classes, copied to tensors."""
    for x, y in samples.batches():
        yield torch.tensor(x), torch.tensor(y)
