"""Where the tasks of a measurement run: on threads of this process, or on a cluster of dask's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch

from probekit._heap import give_back
from probekit._measure.crew import Crew
from probekit._measure.tasks import Task, TaskResult, Work
from probekit.cluster import RETRIES, client_of, result_of
from probekit.errors import ProbekitError

__all__ = ["Executor", "executor_for"]


class Executor(Protocol):
    """Who runs tasks: up to `parallel` at a time, which share one memory, or else each has as much (`apart`)."""

    apart: bool

    @property
    def parallel(self) -> int: ...

    def run(self, work: Work, tasks: Sequence[Task], parallel: int) -> Iterator[tuple[Task, float, TaskResult | None]]:
        """Each task with its result, as they finish, and before that with the share of it that is done and None.

        When this generator is closed, and at an error, no further tasks begin. Those that share a memory run `parallel`
        at a time.
        """


@contextmanager
def executor_for(address: str | None) -> Iterator[Executor]:
    """The cluster at an address, or the one that this process is a client of, or else its own threads.

    Raises:
        ProbekitError: nothing answers at the address, or the package for clusters isn't installed.
    """
    if address is not None:
        with client_of(address) as client:
            yield _ClusterExecutor(client)
        return
    active = _active_client()
    yield _ThreadExecutor() if active is None else _ClusterExecutor(active)


def _active_client() -> Any:
    distributed = sys.modules.get("distributed")  # who has a client has imported it, which takes a second
    if distributed is None:
        return None
    try:
        return distributed.default_client()
    except ValueError:  # there is none
        return None


class _ThreadExecutor:
    """Threads of this process, in each of which torch uses no further ones."""

    apart = False

    @property
    def parallel(self) -> int:
        """The cores that this process may use, which on a shared machine are fewer than there are."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def run(self, work: Work, tasks: Sequence[Task], parallel: int) -> Iterator[tuple[Task, float, TaskResult | None]]:
        before, crew = torch.get_num_threads(), Crew(work.run, tasks, parallel, partial(torch.set_num_threads, 1))
        try:
            yield from crew.results()
        finally:
            crew.stop()
            torch.set_num_threads(before)


class _ClusterExecutor:
    """The workers of a cluster, which must be able to read the store under its path."""

    apart = True

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def parallel(self) -> int:
        return max(1, sum(map(int, self._client.nthreads().values())))

    def run(self, work: Work, tasks: Sequence[Task], parallel: int) -> Iterator[tuple[Task, float, TaskResult | None]]:
        from distributed import as_completed

        gave_up = "The cluster gave up on a task of the measurement (with out=, the results of finished tasks are kept)"
        # As the result of a task of its own it is made again when the worker that holds it is killed.
        shared = self._client.submit(_itself, work, pure=False, retries=RETRIES)
        futures = {self._client.submit(_run, shared, task, pure=False, retries=RETRIES): task for task in tasks}
        try:
            for future in as_completed(list(futures), loop=self._client.loop):
                yield futures[future], 1, result_of(future, gave_up)
        finally:
            self._client.cancel([shared, *futures])


def _itself(work: Work) -> Work:
    return work


def _run(work: Work, task: Task) -> TaskResult | ProbekitError:
    """The result; an error of ours as it is, since to try again would change nothing."""
    torch.set_num_threads(1)
    try:
        return work.run(task)
    except ProbekitError as error:
        return error
    finally:
        give_back()
