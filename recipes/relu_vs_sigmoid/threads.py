"""How many threads a run computes with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .settings import Settings

__all__ = ["few_threads"]

_NARROW = 256  # nodes: the products of narrower networks are too small for a second thread to gain much


@contextmanager
def few_threads(settings: Settings, device: str) -> Iterator[None]:
    """Compute with one thread where the networks are narrow, unless the user says otherwise with OMP_NUM_THREADS.

    On a machine that others use too, torch's threads wait for each other many times longer than they work. The number
    depends on the settings alone, so that a run gives the same numbers again whatever else the machine does.
    """
    before = torch.get_num_threads()
    if torch.device(device).type == "cpu" and "OMP_NUM_THREADS" not in os.environ and max(settings.widths) <= _NARROW:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
