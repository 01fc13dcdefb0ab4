"""Processes that are really killed, forked from one that has imported torch and what else takes seconds to import."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["CONTEXT", "Ended", "call", "group", "run", "script", "start"]

#: Forks come from a server with no thread and nothing of the test in it, which starts with the first of them.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("torch", "dask.array", "zarr", "probekit._capture.capture", "probekit._measure.watch", "s3fs"),
        *("torch.distributed.fsdp", "torch._dynamo"),  # which a sharded model imports
    ]
)
_STREAMS = ("stdout", "stderr")


class Ended(NamedTuple):
    """The exit status of a process, negative where a signal ended it, and the seconds that it ran for."""

    status: int
    seconds: float


def start(function: Callable[..., Any], *arguments: Any, **environment: str) -> Any:
    """A process that has begun to run a function of a module, with more variables in its environment."""
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_begin, args=(there, dict(os.environ) | environment, function, arguments))
    process.start()
    there.close()
    here.recv()
    return process


def run(function: Callable[..., Any], *arguments: Any, seconds: float | None = None) -> Ended:
    """Run a function of a module in a process, which is killed when it has run for so many `seconds`."""
    process = start(function, *arguments)
    begun = time.perf_counter()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    return Ended(process.exitcode, time.perf_counter() - begun)


def group(count: int, function: Callable[..., Any], *arguments: Any) -> set[int]:
    """The exit statuses of so many processes, which run a function of a module with the variables that torchrun sets.

    All are killed when one fails, as torchrun does.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    variables = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = {start(function, *arguments, RANK=str(rank), **variables) for rank in range(count)}
    ended = set()
    while running:
        wait([process.sentinel for process in running])
        done = {process for process in running if process.exitcode is not None}
        if any(process.exitcode for process in done):
            for process in running - done:
                process.kill()
        running -= done
        ended |= done
    return {process.exitcode for process in ended}


def call(function: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None) -> Any:
    """What a function of a module gives or raises in a process, with just this `environment`."""
    given = dict(os.environ) if environment is None else dict(environment)
    with ProcessPoolExecutor(1, CONTEXT, initializer=_prepare, initargs=(given,)) as pool:
        return pool.submit(function, *arguments).result()


def script(code: str, *arguments: str, paths: Sequence[Path] = (), cwd: Path) -> subprocess.CompletedProcess[str]:
    """What ``python -c code *arguments`` does in a folder, with `paths` on PYTHONPATH."""
    process = start(_execute, code, arguments, paths, cwd, PYTHONPATH=os.pathsep.join(map(str, paths)), COLUMNS="200")
    process.join()
    output, errors = ((cwd / name).read_text() for name in _STREAMS)
    return subprocess.CompletedProcess(arguments, process.exitcode, output, errors)


def _execute(code: str, arguments: Sequence[str], paths: Sequence[Path], cwd: Path) -> None:
    os.chdir(cwd)
    for number, name in enumerate(_STREAMS, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["-c", *arguments]
    sys.path[:0] = ["", *map(str, paths)]
    exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))


def _begin(
    begun: Connection, environment: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    _prepare(environment)
    begun.send(None)
    function(*arguments)
    sys.stdout.flush()
    os._exit(0)  # the interpreter's own end takes long, and a kill during it tells nothing


def _prepare(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
