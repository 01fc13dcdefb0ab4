"""Where the tasks of a measurement run: on threads of this process, or on a cluster of dask's.

Where a measurement ends before its tasks do, by an error or by Ctrl-C, its threads end too: when they next tell how far
they are, else at their next step in Python. One that is deep in a library, in the eigenvalues of a large matrix, say,
isn't waited for.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any, NoReturn, Protocol

import torch

from probekit._measure.heap import give_back
from probekit._measure.tasks import Task, TaskResult, Work
from probekit.cluster import RETRIES, client_of, result_of
from probekit.errors import ProbekitError

__all__ = ["Executor", "end_at_once", "executor_for", "left"]

_PATIENCE = 0.5  # seconds that a measurement that has ended waits for its threads, once more when it interrupts them


class Executor(Protocol):
    """Who runs tasks: up to `parallel` at a time, which share one memory, or else each has as much (`apart`)."""

    apart: bool

    @property
    def parallel(self) -> int: ...

    def run(self, work: Work, tasks: Sequence[Task], parallel: int) -> Iterator[tuple[Task, TaskResult | float]]:
        """Each task with its result, as they finish, and before that with the share of it that is done.

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

    def run(self, work: Work, tasks: Sequence[Task], parallel: int) -> Iterator[tuple[Task, TaskResult | float]]:
        before, crew = torch.get_num_threads(), _Crew(work, tasks, parallel)
        try:
            yield from crew.results()
        finally:
            crew.stop()
            torch.set_num_threads(before)


_left: list[Thread] = []


def left() -> bool:
    """Whether a thread of a measurement that has ended is still deep in a library."""
    return any(thread.is_alive() for thread in _left)


def _outlast() -> None:
    """Keep the end of the process from meeting such a thread, at which C++ aborts: wait, or end now after a Ctrl-C."""
    if left() and getattr(sys, "last_type", None) is KeyboardInterrupt:
        _flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends as Python does after an interrupt that nobody caught
        os.kill(os.getpid(), signal.SIGINT)
    for thread in _left:
        thread.join()


def end_at_once(code: int) -> NoReturn:
    """End the process, whatever its threads do."""
    _flush()
    os._exit(code)


def _flush() -> None:
    """Write what was printed, which a process that ends so doesn't."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # it may be closed
            stream.flush()


class _Stopped(BaseException):
    """Ends a task of a measurement that has ended; ``except Exception`` of a metric's doesn't hold it up."""


class _Crew:
    """Threads that do tasks. They are daemons, for which a process that ends doesn't wait."""

    def __init__(self, work: Work, tasks: Sequence[Task], parallel: int) -> None:
        self._work, self._todo, self._number = work, iter(tasks), len(tasks)
        self._said: SimpleQueue[tuple[Task, TaskResult | float | BaseException]] = SimpleQueue()
        self._stopped, self._lock = Event(), Lock()
        self._threads = [Thread(target=self._run, daemon=True) for _ in range(min(parallel, len(tasks)))]
        for thread in self._threads:
            thread.start()

    def results(self) -> Iterator[tuple[Task, TaskResult | float]]:
        left = self._number
        while left:
            task, said = self._said.get()
            if isinstance(said, BaseException):
                raise said
            left -= isinstance(said, TaskResult)
            yield task, said

    def stop(self) -> None:
        self._stopped.set()
        self._wait()
        for thread in self._alive:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Stopped))
        self._wait()
        if self._alive and not _left:
            atexit.register(_outlast)
        _left.extend(self._alive)

    @property
    def _alive(self) -> list[Thread]:
        return [thread for thread in self._threads if thread.is_alive()]

    def _wait(self) -> None:
        until = monotonic() + _PATIENCE
        for thread in self._threads:
            thread.join(max(0, until - monotonic()))

    def _run(self) -> None:
        with suppress(_Stopped):
            torch.set_num_threads(1)
            while (task := self._next()) is not None:
                self._do(task)

    def _do(self, task: Task) -> None:
        try:
            result = self._work.run(task, partial(self._beat, task))
        except _Stopped:
            raise
        except BaseException as error:  # is raised in the thread that waits for it
            self._said.put((task, error))
            raise _Stopped from error
        self._said.put((task, result))
        give_back()

    def _next(self) -> Task | None:
        with self._lock:
            return None if self._stopped.is_set() else next(self._todo, None)

    def _beat(self, task: Task, share: float) -> None:
        if self._stopped.is_set():
            raise _Stopped
        give_back()  # temporaries of a long task leave holes among what it keeps
        self._said.put((task, share))


class _ClusterExecutor:
    """The workers of a cluster, which must be able to read the store under its path."""

    apart = True

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def parallel(self) -> int:
        return max(1, sum(map(int, self._client.nthreads().values())))

    def run(self, work: Work, tasks: Sequence[Task], parallel: int) -> Iterator[tuple[Task, TaskResult]]:
        from distributed import as_completed

        gave_up = "The cluster gave up on a task of the measurement (with out=, the results of finished tasks are kept)"
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


def _run(work: Work, task: Task) -> TaskResult | ProbekitError:
    """The result; an error of ours as it is, since to try again would change nothing."""
    torch.set_num_threads(1)
    try:
        return work.run(task)
    except ProbekitError as error:
        return error
    finally:
        give_back()
