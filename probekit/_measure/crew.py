"""Threads that do tasks, so that who waits for them can be interrupted and told how far they are.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic
from typing import Generic, NoReturn, TypeVar

from probekit._beats import Beat, working
from probekit._heap import give_back

__all__ = ["Crew", "end_at_once", "left"]

T = TypeVar("T")
R = TypeVar("R")

_PATIENCE = 0.5  # seconds that a measurement that has ended waits for its threads, once more when it interrupts them
_TOLD = 1000  # shares of a task that are told apart


class _Stopped(BaseException):
    """Ends a task of a measurement that has ended; ``except Exception`` of a metric's doesn't hold it up."""


class Crew(Generic[T, R]):
    """Threads that `do` the tasks, of which each begins with `prepare`. They don't keep a process from its end."""

    def __init__(
        self, do: Callable[[T], R], tasks: Sequence[T], parallel: int = 1, prepare: Callable[[], None] = lambda: None
    ) -> None:
        self._do, self._prepare, self._todo, self._number = do, prepare, iter(tasks), len(tasks)
        self._said: SimpleQueue[tuple[T, float, R | BaseException | None]] = SimpleQueue()
        self._stopped, self._lock = Event(), Lock()
        self._threads = [Thread(target=self._run, daemon=True) for _ in range(min(parallel, len(tasks)))]
        for thread in self._threads:
            thread.start()

    def results(self) -> Iterator[tuple[T, float, R | None]]:
        """Each task with its result, as they finish, and before that with the share of it that is done and None."""
        left = self._number
        while left:
            task, share, said = self._said.get()
            if isinstance(said, BaseException):
                raise said
            left -= said is not None
            yield task, share, said

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
            self._prepare()
            while (task := self._next()) is not None:
                self._finish(task)

    def _finish(self, task: T) -> None:
        told = 0.0

        def tell(share: float) -> None:
            nonlocal told
            if self._stopped.is_set():
                raise _Stopped
            if share >= told + 1 / _TOLD:
                told = share
                give_back()  # temporaries of a long task leave holes among what it keeps
                self._said.put((task, share, None))

        try:
            with working(Beat(tell)):
                result = self._do(task)
        except _Stopped:
            raise
        except BaseException as error:  # is raised in the thread that waits for it
            self._said.put((task, 1, error))
            raise _Stopped from error
        self._said.put((task, 1, result))
        give_back()

    def _next(self) -> T | None:
        with self._lock:
            return None if self._stopped.is_set() else next(self._todo, None)


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
