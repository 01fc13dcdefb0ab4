"""The thread that writes chunk rows while the model runs, and commits them."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from probekit._store.backend import Backend
from probekit._store.codec import checksum_of
from probekit._write.chunk_buffers import RowBuffer, RowDimension
from probekit._write.commits import Commit, Commits
from probekit._write.transfer import Wait
from probekit.errors import StoreError

__all__ = ["ChunkRow", "CommitThread"]


@dataclass(frozen=True)
class ChunkRow:
    """A chunk row to be written, once `wait` returns, and where its buffer goes then.

    `filled` counts its rows, the first `others` of which another process writes.
    """

    dimension: RowDimension
    buffer: RowBuffer
    first: int
    filled: int
    others: int
    wait: Wait
    free: queue.SimpleQueue[RowBuffer]


class CommitThread:
    """A thread that writes chunk rows, and commits, in the order in which they are put.

    After a failure, which the main thread raises at its next call, it writes no more. Use it as a context manager.

    Raises:
        StoreError: writing has failed.
    """

    def __init__(self, backend: Backend, commits: Commits) -> None:
        self._backend, self._commits = backend, commits
        self.failure: BaseException | None = None
        self._tasks: queue.SimpleQueue[ChunkRow | Commit | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="probekit-writer", daemon=True)
        self._ended = threading.Event()  # the thread; its own join, once interrupted, takes it for ended
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._pool = stack.enter_context(ThreadPoolExecutor(self._backend.parallel, "probekit-write"))
            stack.callback(self.end)
            self._thread.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def put(self, task: ChunkRow | Commit) -> None:
        """Have a chunk row written, or a commit made, after all that was put before."""
        self._tasks.put(task)

    def end(self) -> None:
        """Have the thread do what was put, and end; also if Ctrl-C comes meanwhile, since then the lock goes."""
        self._tasks.put(None)
        if self._thread.ident is None:
            return
        try:
            self._ended.wait()
        finally:
            self._ended.wait()
            self._thread.join()

    def finish(self, *, complete: bool) -> None:
        """Finish the commits in the calling thread, after `end`."""
        try:
            if self.failure is None:
                self._commits.finish(complete=complete)
            else:
                self._commits.give_up()
        except BaseException as error:
            self.failure = self.failure or error

    def fail(self, error: OSError) -> None:
        """Raise, in the calling thread, what the disk refused there."""
        self.failure = error
        self.raise_failure()

    def raise_failure(self) -> None:
        if isinstance(self.failure, KeyboardInterrupt):
            raise self.failure
        if self.failure is not None:
            why = getattr(self.failure, "strerror", None) or str(self.failure).rstrip(".")
            raise StoreError(
                f"Writing {self._backend.url} failed: {why}. {self._commits.kept}",
                arguments=("resume",),
            ) from self.failure

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self.failure is None:
                try:
                    self._do(task)
                except BaseException as error:  # for the main thread to raise
                    self.failure = error
            if isinstance(task, ChunkRow):
                if self.failure is not None:
                    task.buffer.drop()
                task.free.put(task.buffer)
        self._ended.set()

    def _do(self, task: ChunkRow | Commit) -> None:
        if isinstance(task, Commit):
            self._commits.settle(task)
        else:
            self._write(task)

    def _write(self, row: ChunkRow) -> None:
        row.wait()
        number, files = row.first // row.dimension.rows_per_chunk, []
        rows = range(row.first + row.others, row.first + row.filled)
        checksums = row.buffer.finish(row.filled)
        for path, chunks in row.buffer.chunks.items():
            codec, of_array = row.dimension.codecs[path], b""
            for across, chunk in enumerate(chunks):
                chunk[row.filled :] = "" if codec.dtype == object else 0  # what an earlier row left isn't written
                contents = codec.encode(chunk)
                files.append((self._commits.key(codec.spec, number, across, rows), contents))
                of_array += checksum_of(contents)
            checksums[path] = of_array
        if self._backend.parallel == 1:
            for key, contents in files:
                self._backend.write(key, contents)
        else:
            list(self._pool.map(self._backend.write, *zip(*files, strict=True)))
        self._commits.wrote(number, checksums)
