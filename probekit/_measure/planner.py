"""How a measurement is cut into tasks, so that those that run together hold no more than a bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from probekit._measure.accumulator import BATCH
from probekit._measure.grouping import Observations
from probekit._measure.metric_set import MetricSet
from probekit._measure.site_source import Source
from probekit._measure.tasks import Task, selection_of
from probekit._sizes import format_size
from probekit.errors import ProbekitError
from probekit.metrics._kernels.radix_select import Selection
from probekit.metrics.order import OrderMetric

__all__ = ["Plan", "plan_of"]

_COLUMN_BYTES = 32 * 2**20  # of a task where chunks and memory leave the choice: a few seconds at most, and cached
_SPLIT_NODES = 32  # a chunk isn't read twice for fewer nodes than this


@dataclass(frozen=True)
class Plan:
    """The tasks of a measurement, how many of them run at a time, and how often at most a value is read in one."""

    tasks: tuple[Task, ...]
    parallel: int
    passes: int = 1

    def __str__(self) -> str:
        return "measure" if self.passes == 1 else f"measure, up to {self.passes} passes a column"


@dataclass(frozen=True)
class _Cost:
    """Bytes that a task at one site holds: `fixed`, and `node` more for each of its nodes."""

    fixed: int
    node: int

    @property
    def least(self) -> int:
        return self.fixed + self.node

    @classmethod
    def of_block(cls, source: Source, rows: Observations, columns: bool) -> _Cost:
        height, width = source.chunk
        stored = height * source.positions * source.variable.dtype.itemsize
        # Chunks as they are decoded, read and upcast, and what streaming metrics make of a batch in float64.
        fixed, node = stored * width, 2 * stored + 8 * height * source.each + 40 * min(BATCH, height * source.each)
        if not columns:
            return cls(fixed, node)
        # The block, as much again as scratch of the metrics, and the observations of one node.
        return cls(fixed + 64 * rows.number, node + 2 * rows.number * source.dtype.itemsize)

    @classmethod
    def of_selection(cls, source: Source, rows: Observations, selection: Selection) -> _Cost:
        """The cost of columns that are read several times instead of kept in memory."""
        stream = cls.of_block(source, rows, columns=False)
        batch = Selection.batch_bytes(source.chunk[0] * source.each, 1)
        return cls(stream.fixed, stream.node + batch + selection.node_bytes)

    @classmethod
    def of_rows(cls, source: Source, rows: Observations) -> _Cost:
        """The cost of whole rows: all nodes at once."""
        block = cls.of_block(source, rows, columns=False)
        return cls(block.fixed + source.nodes * block.node, 0)


def plan_of(
    metrics: MetricSet,
    sources: Mapping[str, Source],
    rows: Mapping[str, Observations],
    memory: int,
    parallel: int,
    apart: bool,
) -> Plan:
    """The tasks, for `parallel` of them at a time; columns of which not one fits in memory are read several times.

    All of them together hold no more than `memory`, or each of them where they run `apart`.

    Raises:
        ProbekitError: a task of the least size doesn't fit.
    """
    whole = bool(metrics.streaming("site") or metrics.samples or metrics.streaming("sites"))
    blocks = bool(metrics.columns) or (bool(metrics.streaming("node")) and not metrics.streaming("site"))
    costs = {key: _Cost.of_block(source, rows[key], bool(metrics.columns)) for key, source in sources.items()}
    selected = _selected(metrics, sources, rows, costs, memory)
    costs |= {key: _Cost.of_selection(sources[key], rows[key], selection) for key, selection in selected.items()}
    least = _least(metrics, sources, rows, costs if blocks else {}, whole, memory)
    parallel = parallel if apart else min(parallel, memory // least)
    each = memory if apart else memory // parallel
    share = ceil(parallel / len(sources)) if metrics.columns else 1
    tasks = [task for key in sources for task in _of_whole_rows(metrics, key)]
    for key, source in sources.items() if blocks else ():
        cost, one = costs[key], Task("block", key)
        if key in selected:
            one = Task("select", key, memory=selected[key].node_bytes)
        width = _width(source, (each - cost.fixed) // cost.node, cost.node, share)
        tasks += [replace(one, start=at, stop=min(at + width, source.nodes)) for at in range(0, source.nodes, width)]
    if metrics.streaming("sites"):
        tasks.append(Task("sites"))
    return Plan(tuple(tasks), parallel, max((selection.passes for selection in selected.values()), default=1))


def _selected(
    metrics: MetricSet,
    sources: Mapping[str, Source],
    rows: Mapping[str, Observations],
    costs: Mapping[str, _Cost],
    memory: int,
) -> dict[str, Selection]:
    """By site, how its order statistics are found where not one of its columns fits, and no metric needs more."""
    orders = [metric for metric in metrics.columns if isinstance(metric, OrderMetric)]
    if not orders or len(orders) < len(metrics.columns):
        return {}
    large = [key for key, cost in costs.items() if cost.least > memory]
    # Four such nodes at a time at least, so that more passes aren't needed for want of a little memory.
    return {key: selection_of(orders, sources[key], rows[key], memory // 8) for key in large}


def _of_whole_rows(metrics: MetricSet, key: str) -> Sequence[Task]:
    site = [Task("site", key)] if metrics.streaming("site") else []
    return [*site, *(Task("samples", key, metric=metric.name) for metric in metrics.samples)]


def _least(
    metrics: MetricSet,
    sources: Mapping[str, Source],
    rows: Mapping[str, Observations],
    costs: Mapping[str, _Cost],
    whole: bool,
    memory: int,
) -> int:
    """The bytes of the largest of the smallest possible tasks; ProbekitError where `memory` is less."""
    needs = [
        (cost.least, f"One node of site {sources[key].name!r} with its {rows[key].number} observations")
        for key, cost in costs.items()
    ]
    if whole:
        of_rows = {key: _Cost.of_rows(source, rows[key]).least for key, source in sources.items()}
        needs += [(cost, f"A chunk of whole rows of site {sources[key].name!r}") for key, cost in of_rows.items()]
        if metrics.streaming("sites"):
            needs.append((sum(of_rows.values()), f"A chunk of whole rows of all {len(sources)} sites"))
    least, what = max(needs)
    if least > memory:
        raise ProbekitError(
            f"{what} needs {format_size(least)}, and memory is {format_size(memory)}. "
            f"Give memory={format_size(1.01 * least)!r} or more{_instead(metrics)}.",
            arguments=("memory",),
        )
    return least


def _instead(metrics: MetricSet) -> str:
    """A hint for metrics that need all samples of a node at a time."""
    others = [metric.name for metric in metrics.columns if not isinstance(metric, OrderMetric)]
    if not others:
        return ""
    return f", or measure without {', '.join(others)}: medians and quantiles can be found in several passes"


def _width(source: Source, most: int, node_bytes: int, share: int) -> int:
    """Nodes of a task: whole chunks if `most` nodes fit, split only where there would be fewer than `share` tasks."""
    chunk = source.chunk[1]
    wanted = min(most, max(chunk, _COLUMN_BYTES // node_bytes), source.nodes)
    if ceil(source.nodes / wanted) < share:
        wanted = min(wanted, max(_SPLIT_NODES, ceil(source.nodes / share)))
    return wanted - wanted % chunk if wanted > chunk else wanted
