"""How a measurement is cut into tasks, so that those that run together hold no more than a bound."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from typing import Any, TypeAlias

from probekit._measure.accumulator import BATCH
from probekit._measure.grouping import Observations
from probekit._measure.metric_set import MetricSet
from probekit._measure.needs import need, need_of_nodes, sharing
from probekit._measure.site_source import Source
from probekit._measure.tasks import Task, selection_of, spec_of
from probekit._sizes import format_size
from probekit.errors import ProbekitError
from probekit.metrics import Metric
from probekit.metrics._kernels.radix_select import Selection
from probekit.metrics.order import OrderMetric

__all__ = ["Plan", "plan_of"]

Need: TypeAlias = Callable[[int], int]

_COLUMN_BYTES = 32 * 2**20  # of a task where chunks and memory leave the choice: a few seconds at most, and cached
_SPLIT_NODES = 32  # a chunk isn't read twice for fewer nodes than this


@dataclass(frozen=True)
class Plan:
    """The tasks of a measurement, how many of them run at a time, and how often at most a value is read in one."""

    tasks: tuple[Task, ...]
    parallel: int
    passes: int = 1

    def seeing(self, pooling: str) -> Plan:
        """The plan, whose tasks say how positions are seen, which tells them from those of other plans."""
        return replace(self, tasks=tuple(replace(task, pooling=pooling) for task in self.tasks))

    def __str__(self) -> str:
        return "measure" if self.passes == 1 else f"measure, up to {self.passes} passes a column"


@dataclass(frozen=True)
class _Needs:
    """What metrics need beside the samples: all that are `together`, and the one of the `others` that needs most.

    By the metric's name, as a function of the number of nodes. `where` is said of the largest where it doesn't fit.
    """

    where: str
    together: Mapping[str, Need]
    others: Mapping[str, Need] = field(default_factory=dict)

    def of(self, nodes: int) -> int:
        of_others = (need(nodes) for need in self.others.values())
        return sum(need(nodes) for need in self.together.values()) + max(of_others, default=0)

    def largest(self) -> tuple[int, str]:
        """What one node needs most for, and the metric's name."""
        return max(((need(1), name) for name, need in {**self.together, **self.others}.items()), default=(0, ""))


@dataclass(frozen=True)
class _Cost:
    """Bytes that a task holds: `fixed`, `node` more for each of its nodes, and what its metrics need for them.

    `what` it reads is said where it doesn't fit.
    """

    fixed: int
    node: int
    needs: _Needs
    what: str

    def of(self, nodes: int) -> int:
        return self.fixed + nodes * self.node + self.needs.of(nodes)

    @property
    def least(self) -> int:
        return self.of(1)

    def widest(self, memory: int, nodes: int) -> int:
        """The largest number of nodes, up to `nodes`, that takes no more than `memory`."""
        return bisect_right(range(1, nodes + 1), memory, key=self.of)

    @classmethod
    def of_block(cls, source: Source, rows: Observations, needs: _Needs, columns: bool, again: int = 0) -> _Cost:
        height, width = source.chunk
        stored = height * source.positions * source.variable.dtype.itemsize
        # Chunks as they are decoded, read and upcast, and what streaming metrics make of a batch in float64.
        fixed, node = stored * width, 2 * stored + 8 * height * source.each + 40 * min(BATCH, height * source.each)
        if columns:  # the block, as much again as scratch of the metrics, and the observations of one node
            fixed, node = fixed + 64 * rows.number, node + rows.number * (2 * source.dtype.itemsize + again)
        return cls(fixed, node, needs, f"One node of site {source.name!r} with its {rows.number} observations")

    @classmethod
    def of_selection(cls, source: Source, rows: Observations, needs: _Needs, selection: Selection) -> _Cost:
        """The cost of columns that are read several times instead of kept in memory."""
        stream = cls.of_block(source, rows, needs, columns=False)
        batch = Selection.batch_bytes(source.chunk[0] * source.each, 1)
        return replace(stream, node=stream.node + batch + selection.node_bytes)

    @classmethod
    def of_rows(cls, source: Source, rows: Observations, needs: _Needs) -> _Cost:
        """The cost of whole rows: all nodes at once."""
        block = cls.of_block(source, rows, needs, columns=False)
        fixed = block.fixed + source.nodes * block.node
        return cls(fixed, 0, needs, f"A chunk of whole rows of site {source.name!r}")


def plan_of(
    metrics: MetricSet,
    sources: Mapping[str, Source],
    rows: Mapping[str, Observations],
    memory: int,
    parallel: int,
    apart: bool,
    again: int = 0,
) -> Plan:
    """The tasks, for `parallel` of them at a time; columns of which not one fits in memory are read several times.

    All of them together hold no more than `memory`, or each of them where they run `apart`. What metrics say that they
    need beside their samples counts. `again` are the bytes that an observation of a node takes where columns are
    measured repeatedly, which they can't be in several passes.

    Raises:
        ProbekitError: a task of the least size doesn't fit.
    """
    blocks = bool(metrics.columns) or (bool(metrics.streaming("node")) and not metrics.streaming("site"))
    costs = {key: _of_nodes(metrics, sources[key], rows[key], again) for key in sources} if blocks else {}
    selected = {} if again else _selected(metrics, sources, rows, costs, memory)
    costs |= {
        key: _Cost.of_selection(sources[key], rows[key], costs[key].needs, selection)
        for key, selection in selected.items()
    }
    least = _least(metrics, [*costs.values(), *_whole_rows(metrics, sources, rows)], memory)
    parallel = parallel if apart else min(parallel, memory // least)
    each = memory if apart else memory // parallel
    share = ceil(parallel / len(sources)) if metrics.columns else 1
    tasks = [task for key in sources for task in _of_whole_rows(metrics, key)]
    for key, cost in costs.items():
        source, one = sources[key], Task("block", key)
        if key in selected:
            one = Task("select", key, memory=selected[key].node_bytes)
        width = _width(source, cost.widest(each, source.nodes), cost.node, share)
        tasks += [replace(one, start=at, stop=min(at + width, source.nodes)) for at in range(0, source.nodes, width)]
    if metrics.streaming("sites"):
        tasks.append(Task("sites"))
    tasks += [Task("compare", metric=metric.name) for metric in metrics.comparing]
    return Plan(tuple(tasks), parallel, max((selection.passes for selection in selected.values()), default=1))


def _of_nodes(metrics: MetricSet, source: Source, rows: Observations, again: int) -> _Cost:
    """The cost of blocks of nodes."""
    streaming = [] if metrics.streaming("site") else metrics.streaming("node")
    spec, number = spec_of(source, rows, 1), rows.number
    where = f"at one node of site {source.name!r}, with {number} observations of {spec.classes} classes,"
    others = {metric.name: need_of_nodes(metric, spec, number) for metric in metrics.columns}
    needs = _Needs(where, _together(streaming, lambda metric: need_of_nodes(metric, spec, number)), others)
    return _Cost.of_block(source, rows, needs, bool(metrics.columns), again)


def _whole_rows(metrics: MetricSet, sources: Mapping[str, Source], rows: Mapping[str, Observations]) -> Iterator[_Cost]:
    """The costs of tasks that read whole rows."""
    specs = {key: spec_of(source, rows[key], source.nodes) for key, source in sources.items()}
    for key, source in sources.items():
        where = f"at the {source.nodes} nodes of site {source.name!r}"
        groups: list[Sequence[Metric]] = [metrics.streaming("node", "site")] if metrics.streaming("site") else []
        for group in [*groups, *([metric] for metric in metrics.samples)]:
            together = _together(group, partial(_fixed, spec=specs[key], samples=rows[key].number))
            yield _Cost.of_rows(source, rows[key], _Needs(where, together))
    if metrics.streaming("sites"):
        every = partial(_fixed, spec=list(specs.values()), samples=max(each.number for each in rows.values()))
        needs = _Needs(f"over the {len(sources)} sites", _together(metrics.streaming("sites"), every))
        fixed = sum(_Cost.of_rows(source, rows[key], needs).fixed for key, source in sources.items())
        yield _Cost(fixed, 0, needs, f"A chunk of whole rows of all {len(sources)} sites")
    for metric in metrics.comparing:  # they read one site at a time
        needed = partial(_fixed, spec=list(specs.values()), samples=max(each.number for each in rows.values()))
        needs = _Needs(f"over the {len(sources)} sites", _together([metric], needed))
        yield max((_Cost.of_rows(source, rows[key], needs) for key, source in sources.items()), key=lambda c: c.least)


def _together(metrics: Sequence[Metric], need_of: Callable[[Metric], Need]) -> dict[str, Need]:
    """The needs of metrics that run together: of those that share a state, the largest."""
    return {name: partial(_largest, [*map(need_of, alike)]) for name, alike in sharing(metrics).items()}


def _fixed(metric: Metric, spec: Any, samples: int) -> Need:
    needed = need(metric, spec, samples)
    return lambda _: needed


def _largest(needs: Sequence[Need], nodes: int) -> int:
    return max(need(nodes) for need in needs)


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


def _least(metrics: MetricSet, costs: Sequence[_Cost], memory: int) -> int:
    """The bytes of the largest of the smallest possible tasks; ProbekitError where `memory` is less."""
    cost = max(costs, key=lambda each: each.least)
    if cost.least > memory:
        large, name = cost.needs.largest()
        metric = large > cost.least / 2
        what = f"The metric {name!r} {cost.needs.where}" if metric else cost.what
        instead = f", group or pool to less (by=, sites=, reduce= of probekit.capture), or measure without {name}"
        raise ProbekitError(
            f"{what} needs {format_size(cost.least)}, and memory is {format_size(memory)}. "
            f"Give memory={format_size(1.01 * cost.least)!r} or more{instead if metric else _instead(metrics)}.",
            arguments=("memory", *(("by", "sites", "reduce") if metric else ())),
        )
    return cost.least


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
