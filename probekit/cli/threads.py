"""How many threads a command computes with, on a machine that others may use too."""

from __future__ import annotations

import os

from probekit.cli import output

__all__ = ["use_free_cores"]


def use_free_cores(resumed: int | None = None) -> None:
    """Compute with as many threads as there are free cores, and say so where that isn't all of them.

    Torch's threads wait for each other many times longer than they work where there are fewer cores than threads. A
    capture that is `resumed` takes the number that it began with, since it may decide the last bit of a sum. The user's
    OMP_NUM_THREADS counts more than either.
    """
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        return
    all_of_them = torch.get_num_threads()
    if resumed is not None:
        torch.set_num_threads(resumed)
        return
    free = max(1, min(all_of_them, round(_cores() - _busy())))
    if free < all_of_them:
        torch.set_num_threads(free)
        output.paragraph(
            f"Computing with {free} of {all_of_them} threads, since other processes use this machine. "
            "OMP_NUM_THREADS sets another number."
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _busy() -> float:
    """How many processes have run over the last minute, where the system tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
