"""Compiled models run eagerly for a while."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import torch

__all__ = ["eager"]

_LOCK = Lock()
_STANCE = ExitStack()  # entered while anybody is in `eager`
_inside = 0


@contextmanager
def eager() -> Iterator[None]:
    """Whatever torch.compile has compiled runs as if it weren't: compiled code runs without the hooks of modules.

    The stance is the whole process's, so the first that comes sets it, and the last that goes puts it back.
    """
    global _inside
    # Without this module nothing is compiled yet, and its import takes seconds. torch 2.4 and 2.5 have no stances.
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        yield
        return
    with _LOCK:
        if not _inside:
            _STANCE.enter_context(torch.compiler.set_stance("force_eager"))
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if not _inside:
                _STANCE.close()
