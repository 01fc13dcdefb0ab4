"""Where the tasks of a measurement run: on threads of this process, or on a cluster of dask's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from probekit.errors import ProbekitError
from probekit.tasks import Piece, Task, Work

__all__ = ["RETRIES", "Scheduler", "client_of", "result_of", "scheduler_of"]

RETRIES = 3  # of a task whose worker was killed, or lost its connection


class Scheduler(Protocol):
    """Who runs tasks: up to `parallel` at a time, which share one memory, or else each has as much (`apart`)."""

    apart: bool

    @property
    def parallel(self) -> int: ...

    def run(self, work: Work, tasks: Sequence[Task], parallel: int) -> Iterator[tuple[Task, Piece]]:
        """Each task with its piece, as they finish; at the end, and at an error, those that haven't begun are dropped.

        Those that share a memory run `parallel` at a time.
        """


@contextmanager
def scheduler_of(address: str | None) -> Iterator[Scheduler]:
    """The cluster at an address, or the one that this process is a client of, or else its own threads.

    Raises:
        ProbekitError: nothing answers at the address, or the package for clusters isn't installed.
    """
    if address is not None:
        with client_of(address) as client:
            yield _Cluster(client)
        return
    active = _active_client()
    yield _Threads() if active is None else _Cluster(active)


def _active_client() -> Any:
    distributed = sys.modules.get("distributed")  # who has a client has imported it, which takes a second
    if distributed is None:
        return None
    try:
        return distributed.default_client()
    except ValueError:  # there is none
        return None


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
            "A cluster needs the package 'distributed'. Install it: pip install 'probekit[cluster]'."
        ) from error
    try:
        client = Client(address, timeout=10, set_as_default=False)
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
        raise ProbekitError(f"{gave_up}: {str(error).rstrip('.')}. The same call goes on from what is kept.") from error
    if isinstance(found, ProbekitError):
        raise found
    return found


class _Threads:
    """Threads of this process, in each of which torch uses no further ones."""

    apart = False

    @property
    def parallel(self) -> int:
        """The cores that this process may use, which on a shared machine are fewer than there are."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def run(self, work: Work, tasks: Sequence[Task], parallel: int) -> Iterator[tuple[Task, Piece]]:
        before = torch.get_num_threads()
        pool = ThreadPoolExecutor(parallel, initializer=torch.set_num_threads, initargs=(1,))
        try:
            futures = {pool.submit(work.run, task): task for task in tasks}
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)


class _Cluster:
    """The workers of a cluster, which must be able to read the store under its path."""

    apart = True

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def parallel(self) -> int:
        return max(1, sum(map(int, self._client.nthreads().values())))

    def run(self, work: Work, tasks: Sequence[Task], parallel: int) -> Iterator[tuple[Task, Piece]]:
        from distributed import as_completed

        gave_up = "The cluster gave up on a part of the measurement (with out=, finished parts are kept)"
        # As the result of a task of its own it is made again when the worker that holds it is killed.
        shared = self._client.submit(_itself, work, pure=False, retries=RETRIES)
        futures = {self._client.submit(_run, shared, task, pure=False, retries=RETRIES): task for task in tasks}
        try:
            for future in as_completed(list(futures), loop=self._client.loop):
                yield futures[future], result_of(future, gave_up)
        finally:
            self._client.cancel([shared, *futures])


def _itself(work: Work) -> Work:
    return work


def _run(work: Work, task: Task) -> Piece | ProbekitError:
    """The piece; an error of ours as it is, since to try again would change nothing."""
    torch.set_num_threads(1)
    try:
        return work.run(task)
    except ProbekitError as error:
        return error
