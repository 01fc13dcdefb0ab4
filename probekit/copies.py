"""Copies of activations into a store's buffers: on a CPU at once, from a GPU while the model runs on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probekit.buffers import Memory, Wait
from probekit.tiles import Array

__all__ = ["Copies", "PinnedCopies", "copies_for"]


class Copies(Memory):
    """Copies that are done when `copy` returns."""

    def copy(self, target: Array, source: Tensor) -> None:
        torch.from_numpy(target).copy_(source)


class PinnedCopies(Copies):
    """Copies from GPUs into page-locked memory, each queued behind the work that made its source.

    What is in flight is bounded by the buffers: the writer's thread waits for the `fence` of a buffer before it reads,
    and the model waits for a buffer to be free.
    """

    def __init__(self) -> None:
        self._devices: set[torch.device] = set()

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        array: Array = torch.zeros(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=True).numpy()
        return array

    def copy(self, target: Array, source: Tensor) -> None:
        torch.from_numpy(target).copy_(source, non_blocking=True)
        if source.is_cuda:
            self._devices.add(source.device)

    def fence(self) -> Wait:
        events = [torch.cuda.current_stream(device).record_event() for device in self._devices]

        def wait() -> None:
            for event in events:
                event.synchronize()

        return wait


def copies_for(model: nn.Module) -> Copies:
    """How to copy what `model` gives: through page-locked memory if any of it is on a CUDA device."""
    on_gpu = any(tensor.is_cuda for tensor in (*model.parameters(), *model.buffers()))
    return PinnedCopies() if on_gpu else Copies()
