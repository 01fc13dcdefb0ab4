"""Where the tasks of a measurement run: on threads of this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager

import torch

from probekit.tasks import Piece, Task, Work

__all__ = ["on_threads"]


def on_threads(work: Work, tasks: Sequence[Task], threads: int) -> Iterator[tuple[Task, Piece]]:
    """Each task with its piece, as they finish; at the end, and at an error, those that haven't begun are dropped."""
    with _pool(threads) as pool:
        futures = {pool.submit(work.run, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures.pop(future), future.result()


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for the tasks, in each of which torch uses no further ones."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
