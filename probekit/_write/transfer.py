"""Activations on their way to where chunks are filled: on a CPU at once, from a GPU while the model runs on."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from probekit._store.codec import Array
from probekit._write.chunk_file import ChunkFile

__all__ = ["PinnedTransfer", "Target", "Transfer", "Wait", "no_wait", "transfer_for"]

Target: TypeAlias = Array | ChunkFile
Wait: TypeAlias = Callable[[], None]


def no_wait() -> None:
    pass


class Transfer:
    """Copies into plain memory or a file, which are done when `copy` returns.

    Attributes:
        immediate: whether they are done then; a copy into a file has to be.
    """

    immediate = True

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory to copy into."""
        return np.zeros(shape, dtype)

    def copy(self, target: Target, source: Tensor) -> None:
        if isinstance(target, ChunkFile):
            target.append(_rows(source, target.shape, _torch_dtype(target.dtype)))
        else:
            torch.from_numpy(target).copy_(source)

    def fence(self) -> Wait:
        """A function that waits until all copies that have begun are done."""
        return no_wait


class PinnedTransfer(Transfer):
    """Copies from GPUs into page-locked memory, each queued behind the work that made its source.

    The row buffers bound what is in flight: the commit thread waits for the `fence` of a buffer before it reads, and
    the model waits for a buffer to be free.
    """

    immediate = False

    def __init__(self) -> None:
        self._devices: set[torch.device] = set()

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        array: Array = torch.zeros(shape, dtype=_torch_dtype(dtype), pin_memory=True).numpy()
        return array

    def copy(self, target: Target, source: Tensor) -> None:
        torch.from_numpy(target).copy_(source, non_blocking=True)
        if source.is_cuda:
            self._devices.add(source.device)

    def fence(self) -> Wait:
        events = [torch.cuda.current_stream(device).record_event() for device in self._devices]

        def wait() -> None:
            for event in events:
                event.synchronize()

        return wait


def transfer_for(model: nn.Module) -> Transfer:
    """How to copy what `model` gives: through page-locked memory if any of it is on a CUDA device."""
    on_gpu = any(tensor.is_cuda for tensor in (*model.parameters(), *model.buffers()))
    return PinnedTransfer() if on_gpu else Transfer()


def _rows(source: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Array:
    """A chunk's rows, each of `shape`, with zeros beyond those of the source; the source's own memory if it is that."""
    if source.dtype == dtype and source.shape[1:] == shape and source.is_contiguous():
        return source.numpy(force=True)  # a copy of what is on a GPU, or conjugated or negated when it is read
    make = torch.empty if source.shape[1:] == shape else torch.zeros
    rows = make(len(source), *shape, dtype=dtype)
    rows[tuple(map(slice, source.shape))].copy_(source)
    return rows.numpy()


@lru_cache
def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype
