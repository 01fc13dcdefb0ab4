"""The steps of a measurement, as progress counts them: a hundred for each task, and what is fair for what follows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from math import ceil
from typing import TypeVar

import xarray as xr

from probekit._measure.collected import results_of
from probekit._measure.crew import Crew
from probekit._measure.durations import finalizing, updating
from probekit._measure.executors import Executor
from probekit._measure.planner import Plan
from probekit._measure.site_rows import spec_of
from probekit._measure.task_cache import TaskCache
from probekit._measure.tasks import Task, TaskResult, Work

__all__ = ["STEPS", "Part", "number_of_steps", "steps_of", "steps_of_jobs"]

T = TypeVar("T", bound=Hashable)
R = TypeVar("R")

STEPS = 100  # of a task


@dataclass(frozen=True)
class Part:
    """Metrics and sites that are measured together."""

    work: Work
    plan: Plan

    @property
    def following(self) -> int:
        """The steps of what follows the tasks: as many as its time, about, is worth beside that of the tasks."""
        streaming, found = self.work.metrics.of_blocks, 0.0
        for key, source in self.work.sources.items() if streaming else ():
            rows, spec = self.work.rows[key].number, spec_of(source, self.work.rows[key], source.nodes)
            tasks = sum(task.site == key and task.kind in ("block", "select") for task in self.plan.tasks)
            in_tasks = updating([*streaming, *self.work.metrics.columns], spec, rows)
            found += tasks * sum(finalizing(streaming, spec, rows)) / in_tasks if in_tasks else 0
        return ceil(STEPS * found)


def number_of_steps(parts: Sequence[Part]) -> int:
    return sum(STEPS * len(part.plan.tasks) + part.following for part in parts)


def steps_of(
    parts: Sequence[Part], workers: Executor, cache: TaskCache | None, found: dict[int, dict[str, xr.Dataset]]
) -> Generator[None]:
    """Do the tasks of all parts that aren't finished already, and put the results of each part into `found`."""
    done: dict[Task, TaskResult] = {}
    for part in parts:
        yield from _of_tasks(part, workers, cache, done)
    jobs = {
        number: partial(results_of, part.work, [(task, done[task]) for task in part.plan.tasks])
        for number, part in enumerate(parts)
    }
    yield from steps_of_jobs(jobs, {number: part.following for number, part in enumerate(parts)}, found)


def steps_of_jobs(jobs: Mapping[T, Callable[[], R]], steps: Mapping[T, int], found: dict[T, R]) -> Generator[None]:
    """Do jobs one after the other, so many `steps` each, and put what they give into `found`.

    A thread does them, since Ctrl-C waits for what the thread that it comes to does in a library.
    """
    crew = Crew(lambda job: jobs[job](), [*jobs])
    try:
        yield from _counted(crew.results(), steps, found.__setitem__)
    finally:
        crew.stop()


def _of_tasks(part: Part, workers: Executor, cache: TaskCache | None, done: dict[Task, TaskResult]) -> Iterator[None]:
    def keep(task: Task, result: TaskResult) -> None:
        if cache is not None:
            cache.keep(task, result)
        done[task] = result

    for task in part.plan.tasks:
        result = cache.find(task) if cache is not None else None
        if result is not None:
            done[task] = result
            yield from repeat(None, STEPS)
    left = [task for task in part.plan.tasks if task not in done]
    running = workers.run(part.work, left, part.plan.parallel)
    yield from _counted(running, dict.fromkeys(left, STEPS), keep)


def _counted(
    running: Iterable[tuple[T, float, R | None]], steps: Mapping[T, int], keep: Callable[[T, R], object]
) -> Iterator[None]:
    """The steps of what is `running`, whose results are kept as they come."""
    taken = dict.fromkeys(steps, 0)
    for each, share, result in running:
        if result is not None:
            keep(each, result)
        reached = steps[each] if result is not None else min(int(share * steps[each]), steps[each] - 1)
        yield from repeat(None, reached - taken[each])
        taken[each] = max(reached, taken[each])
