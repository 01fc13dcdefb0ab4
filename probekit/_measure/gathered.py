"""Observations that wait, since a small update costs more in calls than in work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from probekit.metrics.protocol import BATCH

__all__ = ["Gathered", "one_thread"]

_GATHERED_BYTES = 8 * 2**20  # of a site's observations


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to the calling thread: so little work takes longer to hand from core to core than to do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Gathered:
    """The observations of several small batches, for an update to be worth its calls."""

    def __init__(self, nodes: int, dtype: torch.dtype) -> None:
        self._rows = min(BATCH, _GATHERED_BYTES // max(1, nodes * dtype.itemsize))
        self._x, self._y = torch.empty(0, nodes, dtype=dtype), torch.empty(0, dtype=torch.int64)
        self._filled = 0

    def add(self, x: Tensor, y: Tensor) -> bool:
        """Whether there was room for these; where there wasn't, nothing is added."""
        end = self._filled + x.shape[0]
        if end > self._rows:
            return False
        if not self._x.shape[0]:
            self._x, self._y = x.new_empty(self._rows, x.shape[1]), y.new_empty(self._rows)
        self._x[self._filled : end], self._y[self._filled : end] = x, y
        self._filled = end
        return True

    def take(self) -> tuple[Tensor, Tensor]:
        """All of them, which are then forgotten."""
        filled, self._filled = self._filled, 0
        return self._x[:filled], self._y[:filled]
