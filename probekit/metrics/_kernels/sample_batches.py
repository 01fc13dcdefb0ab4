"""The samples of a site as tensors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from probekit._beats import reading
from probekit.metrics.protocol import Samples

__all__ = ["PIECE", "pieces", "tensor_batches"]

PIECE = 512  # rows whose distances to other samples are taken together


def tensor_batches(samples: Samples) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of the samples and their classes, copied to tensors."""
    for x, y in samples.batches():
        yield torch.tensor(x), torch.tensor(y)


def pieces(samples: Samples) -> Iterator[tuple[slice, Tensor]]:
    """All rows in pieces of at most `PIECE`, float64, and where they are among all rows."""
    start, beat = 0, reading()
    for batch, _ in samples.batches():
        for first in range(0, len(batch), PIECE):
            x = torch.from_numpy(batch[first : first + PIECE].astype(np.float64))
            yield slice(start, start + len(x)), x
            start += len(x)
            beat(start / samples.number)
