"""Memory that the C library keeps for itself after it was freed.

Small results that outlive large temporaries lie among them, so glibc can't shrink its heaps: without help, measuring
hundreds of sites holds several times what it uses, and so does compressing a large table in parts. ``malloc_trim``
gives back free pages wherever they are. A fixed ``M_MMAP_THRESHOLD`` would too, but for the whole process and for good,
and each temporary would fault in all its pages, which takes twice the CPU time.
"""

from __future__ import annotations

import ctypes
import sys
from threading import Lock
from time import monotonic

__all__ = ["give_back"]

_SECONDS = 0.25  # between two times: each costs milliseconds, and the pages that are needed again
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # glibc's alone
_lock, _last = Lock(), 0.0


def give_back(*, at_once: bool = False) -> None:
    """Give memory that is free back to the system, unless that was done just now; without glibc, nothing.

    Large temporaries don't wait: `at_once`.
    """
    global _last
    with _lock:
        if _trim is None or (not at_once and monotonic() - _last < _SECONDS):
            return
        _last = monotonic()
    _trim(0)
