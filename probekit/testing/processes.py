"""The law that needs two processes: the states that they gather merge to the state of one process."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch
import torch.distributed as dist

from probekit.metrics import State, StreamingMetric, Variables
from probekit.testing.comparison import require_same
from probekit.testing.computation import finalized, streamed
from probekit.testing.data import mixed
from probekit.testing.law import Broken, Law, law, streaming

__all__ = ["Processes", "work"]

_SECONDS = 300  # for both to import torch on a busy machine
_WORK = "import sys; from probekit.testing.processes import work; work(sys.argv[1], int(sys.argv[2]))"

Found: TypeAlias = tuple[str, Variables]  # the fault, or else the variables


class Processes:
    """Two processes for all the metrics of a test, which start when the first metric is checked.

    If torch was built without gloo, the law applies to no metric.
    """

    def __init__(self, metrics: Sequence[Any]) -> None:
        self._metrics = [metric for metric in metrics if streaming(metric)]

    @property
    def law(self) -> Law:
        @law(lambda metric: streaming(metric) and dist.is_available() and dist.is_gloo_available())
        def two_processes(metric: StreamingMetric) -> None:
            """States that two processes gather with torch.distributed (gloo) merge to the state of one process.

            The processes import the metric from its module, which they must find: in an installed package, or on
            PYTHONPATH. Keep states in dtypes that gloo can send: integers and floats.
            """
            [index] = [index for index, each in enumerate(self._metrics) if each is metric]
            fault, found = self._found[index]
            if fault:
                raise Broken(fault, mixed().description)
            whole = finalized(metric, streamed(metric, mixed()), mixed())
            require_same(found, whole, ("of two processes", "of one"), mixed().description)

        return two_processes

    @cached_property
    def _found(self) -> list[Found]:
        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "metrics").write_bytes(pickle.dumps([_pickled(metric) for metric in self._metrics]))
            started = [_start(name, rank) for rank in range(2)]
            try:
                said = [process.communicate(timeout=_SECONDS)[1] for process in started]
            finally:
                for process in started:
                    process.kill()
            if any(process.returncode for process in started):
                raise Broken(f"the two processes ended with an error: {''.join(said)[-1000:]}")
            found: list[Found] = pickle.loads((folder / "found").read_bytes())
            return found


def _start(folder: str, rank: int) -> subprocess.Popen[str]:
    """A process that finds the same modules as this one."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", _WORK, folder, str(rank)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _pickled(metric: StreamingMetric) -> bytes | str:
    """The pickled metric, or why it can't be pickled."""
    try:
        return pickle.dumps(metric)
    except Exception as error:  # a metric may raise anything
        return f"pickling the metric raised {type(error).__name__}: {error}"


def work(folder: str, rank: int) -> None:
    """The work of each process: its half of the samples, for every metric."""
    meeting, patience = f"file://{folder}/rendezvous", timedelta(seconds=_SECONDS / 2)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=patience)
    metrics: list[bytes | str] = pickle.loads((Path(folder) / "metrics").read_bytes())
    found = [_gathered(metric, rank) for metric in metrics]
    if rank == 0:
        (Path(folder) / "found").write_bytes(pickle.dumps(found))
    dist.destroy_process_group()


def _gathered(pickled: bytes | str, rank: int) -> Found:
    """The variables of the states of both processes; both call this for the same metrics in the same order."""
    fault, metric, state = _half(pickled, rank)
    alike: list[Any] = [None, None]
    dist.all_gather_object(alike, (fault, {key: (value.shape, value.dtype) for key, value in sorted(state.items())}))
    faults = [each for each, _ in alike if each]
    if faults:
        return faults[0], {}
    if alike[0] != alike[1]:
        return f"the states of the two processes have different shapes: {alike[0][1]} and {alike[1][1]}", {}
    try:
        a, b = _both(state)
        return "", metric.finalize(metric.merge(a, b))
    except Exception as error:  # a metric may raise anything, and gloo may refuse its state
        return f"{type(error).__name__}: {error}", {}


def _half(pickled: bytes | str, rank: int) -> tuple[str, Any, State]:
    """The fault, if there is one; the metric; and its state of half of the samples."""
    if isinstance(pickled, str):
        return pickled, None, {}
    try:
        metric = pickle.loads(pickled)
        half = mixed().take(slice(100) if rank == 0 else slice(100, None), "some")
        return "", metric, streamed(metric, half)
    except Exception as error:  # importing or calling someone else's metric may raise anything
        return f"in another process it raised {type(error).__name__}: {error}", None, {}


def _both(state: State) -> tuple[State, State]:
    states: tuple[State, State] = {}, {}
    for key, value in sorted(state.items()):
        gathered = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(2)]
        dist.all_gather(gathered, value.contiguous())
        states[0][key], states[1][key] = gathered
    return states
