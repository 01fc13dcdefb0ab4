"""The plans of a whole measurement, whose tasks, and those that repeat them, fit in the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from probekit._measure.executors import Executor
from probekit._measure.planner import Plan, Planner
from probekit._measure.resampling.planning import column_bytes, repeat_tasks, repeats_least
from probekit._measure.room import require_room
from probekit._measure.tasks import Work

__all__ = ["plans_of"]


def plans_of(works: Sequence[Work], memory: int, workers: Executor) -> list[Plan]:
    """The plan of each part of a measurement.

    Raises ProbekitError where anything doesn't fit in `memory`, with what is enough for everything.
    """
    cuts = [_Cut(work) for work in works]
    require_room([step for cut in cuts for step in (cut.planner.least, *cut.repeats)], memory)
    return [cut.plan(memory, workers) for cut in cuts]


class _Cut:
    """How the tasks of a part of a measurement may be cut, and the least that those that repeat them take."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.planner = Planner(work.metrics, work.sources, work.rows, column_bytes(work.repeats, work.metrics))
        self.repeats = [*repeats_least(work.repeats, work)] if work.repeats is not None else []

    def plan(self, memory: int, workers: Executor) -> Plan:
        work, plan = self._work, self.planner.plan(memory, workers.parallel, workers.apart)
        if work.repeats is not None:
            parallel, each = plan.parallel, memory
            if not workers.apart:
                parallel = min([parallel, *(memory // step.bytes for step in self.repeats)])
                each = memory // parallel
            tasks = (*plan.tasks, *repeat_tasks(work.repeats, work, each, parallel))
            plan = replace(plan, tasks=tasks, parallel=parallel)
        return plan.seeing(next(iter(work.sources.values())).pooling)
