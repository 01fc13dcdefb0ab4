"""One process at a time at a run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from probekit.errors import StoreError

__all__ = ["locked"]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder of a run; the system unlocks it when the process dies.

    Raises:
        StoreError: another process has locked it.
    """
    try:
        lock = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout as error:
        raise StoreError(
            f"Another process is working on this run, in {folder}. Wait for it or stop it; a run that is started again "
            "resumes from what is finished. To run two at once, give each its own --out."
        ) from error
    with lock:
        yield
