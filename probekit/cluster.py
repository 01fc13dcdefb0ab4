"""A cluster of dask's: a client of it, and what its tasks return, which for errors of ours are these errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from probekit.errors import ProbekitError, install_command

__all__ = ["RETRIES", "client_of", "result_of"]

RETRIES = 3  # of a task whose worker was killed, or lost its connection
CONNECT_SECONDS = 10  # after which a scheduler isn't there


@contextmanager
def client_of(address: str) -> Iterator[Any]:
    """A client of the cluster whose scheduler is at the address.

    Raises:
        ProbekitError: nothing answers there, or the package for clusters isn't installed.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ProbekitError(
            f"A cluster needs the package 'distributed'. Install it: {install_command('cluster')}."
        ) from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ProbekitError(f"No scheduler of a cluster answers at {address!r}: {error}.") from error
    with client:
        yield client


def result_of(future: Any, gave_up: str) -> Any:
    """What a task of a cluster returned; raised where that is an error of ours, as which workers return them.

    Raises ProbekitError, which begins with `gave_up`, where the cluster gave up on the task.
    """
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    try:
        found = future.result()
    except (KilledWorker, FutureCancelledError) as error:
        raise ProbekitError(f"{gave_up}: {str(error).rstrip('.')}. The same call resumes from what is kept.") from error
    if isinstance(found, ProbekitError):
        raise found
    return found
