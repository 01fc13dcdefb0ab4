"""How a measurement is cut into tasks, so that those that run together hold no more than a bound."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, inf
from typing import Any, TypeAlias

from probekit._measure.accumulator import ACROSS
from probekit._measure.grouping import Observations
from probekit._measure.metric_set import MetricSet
from probekit._measure.needs import batch_bytes, need, need_of_nodes, sharing
from probekit._measure.room import Least
from probekit._measure.site_rows import at_site, spec_of
from probekit._measure.site_source import Source
from probekit._measure.tasks import Task, selections_of
from probekit.metrics import Metric
from probekit.metrics._kernels.radix_select import Selection
from probekit.metrics.order import OrderMetric
from probekit.metrics.protocol import BATCH

__all__ = ["Plan", "Planner", "reading_bytes"]

Need: TypeAlias = Callable[[int], int]

_COLUMN_BYTES = 32 * 2**20  # of a task where chunks and memory leave the choice: a few seconds at most, and cached
_SPLIT_NODES = 32  # a chunk isn't read twice for fewer nodes than this, so that all cores have something to do
_READS = 5  # how often all that is stored may be read before fewer tasks run at a time


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

    By the metric's name, as a function of the number of nodes. `where` is said of the largest where it doesn't fit, and
    `batch` are the bytes that updates make of each value of a batch beside.
    """

    where: str
    together: Mapping[str, Need]
    others: Mapping[str, Need] = field(default_factory=dict)
    batch: int = 0

    def of(self, nodes: int) -> int:
        of_others = (need(nodes) for need in self.others.values())
        return sum(need(nodes) for need in self.together.values()) + max(of_others, default=0)

    def largest(self) -> tuple[int, str]:
        """What one node needs most for, and the metric's name."""
        return max(((need(1), name) for name, need in {**self.together, **self.others}.items()), default=(0, ""))


@dataclass(frozen=True)
class _Cost:
    """Bytes that a task holds: `fixed`, `node` more for each of its nodes, and what its metrics need for them.

    `what` it reads is said where it doesn't fit. A selection counts so many of its rows at a time.
    """

    fixed: int
    node: int
    needs: _Needs
    what: str
    selection_rows: int = 0

    def of(self, nodes: int) -> int:
        counted = Selection.batch_bytes(self.selection_rows, nodes) if self.selection_rows else 0
        return self.fixed + nodes * self.node + self.needs.of(nodes) + counted

    @property
    def least(self) -> int:
        return self.of(1)

    def widest(self, memory: int, nodes: int) -> int:
        """The largest number of nodes, up to `nodes`, that takes no more than `memory`."""
        return bisect_right(range(1, nodes + 1), memory, key=self.of)

    @classmethod
    def of_stream(cls, source: Source, rows: Observations, needs: _Needs) -> _Cost:
        """The cost of chunks that are read one after the other."""
        height, width = source.chunk
        stored, observed = height * source.positions * source.variable.dtype.itemsize, height * source.each
        # Chunks as they are decoded, read, and pooled or upcast; what updates make of a batch.
        made = source.positions > 1 or source.variable.dtype.newbyteorder("=") != source.dtype
        node = 2 * stored + 8 * observed * made + needs.batch * min(BATCH, observed)
        return cls(stored * width, node, needs, f"One node of site {source.name!r} with its {rows.number} observations")

    @classmethod
    def of_block(
        cls, source: Source, rows: Observations, needs: _Needs, metrics: Sequence[Metric], again: int
    ) -> _Cost:
        """The cost of all observations of some nodes, for these column metrics."""
        stream, values = cls.of_stream(source, rows, needs), rows.number * source.dtype.itemsize
        if not again and all(isinstance(metric, OrderMetric) for metric in metrics):  # the block, sorted in place
            return replace(stream, node=stream.node + values)
        # The block, as much again as scratch of the metrics, and the observations of one node.
        return replace(
            stream, fixed=stream.fixed + 64 * rows.number, node=stream.node + 2 * values + again * rows.number
        )

    @classmethod
    def of_selection(cls, source: Source, rows: Observations, needs: _Needs, selection: Selection) -> _Cost:
        """The cost of columns that are read several times instead of kept in memory."""
        stream, height = cls.of_stream(source, rows, needs), source.chunk[0] * source.each
        return replace(stream, node=stream.node + selection.node_bytes, selection_rows=height)

    @classmethod
    def of_rows(cls, source: Source, rows: Observations, needs: _Needs) -> _Cost:
        """The cost of whole rows: all nodes at once."""
        stream = cls.of_stream(source, rows, needs)
        fixed = stream.fixed + source.nodes * stream.node
        return cls(fixed, 0, needs, f"A chunk of whole rows of site {source.name!r}")


@dataclass(frozen=True)
class _Way:
    """A way to take the nodes of a site: in blocks that are read once, or, for order statistics, several times.

    `task` is one of its tasks, `passes` how often that one reads its nodes.
    """

    source: Source
    cost: _Cost
    task: Task
    passes: int = 1

    def reads(self, memory: int) -> float:
        """How often each chunk is read, where a task has so much memory: by every task that has a part of its nodes."""
        most = self.cost.widest(memory, self.source.nodes)
        return self.passes * ceil(self.source.chunk[1] / most) if most else inf

    def tasks(self, memory: int, share: int) -> Iterator[Task]:
        """The tasks, each within `memory`: `share` at least, where there are nodes for them.

        They are of whole chunks where these fit. A chunk that is split for want of memory is split evenly, and no task
        has nodes of two chunks.
        """
        nodes, chunk = self.source.nodes, self.source.chunk[1]
        most = self.cost.widest(memory, nodes)
        wanted = min(most, max(chunk, _COLUMN_BYTES // self.cost.node), nodes)
        if self.passes == 1 and ceil(nodes / wanted) < share:
            wanted = min(wanted, max(_SPLIT_NODES, ceil(nodes / share)))
        together = max(1, wanted // chunk) * chunk
        for first in range(0, nodes, together):
            last = min(first + together, nodes)
            width = ceil((last - first) / ceil((last - first) / wanted))
            for start in range(first, last, width):
                yield replace(self.task, start=start, stop=min(start + width, last))


class Planner:
    """How a measurement may be cut into tasks; columns of which not one fits in memory are read several times.

    What metrics say that they need beside their samples counts. `again` are the bytes that an observation of a node
    takes where columns are measured repeatedly, which they can't be in several passes.
    """

    def __init__(
        self, metrics: MetricSet, sources: Mapping[str, Source], rows: Mapping[str, Observations], again: int
    ) -> None:
        self._metrics, self._sources = metrics, sources
        blocks = bool(metrics.columns or metrics.of_blocks)
        self._ways = {key: _ways(metrics, key, sources[key], rows[key], again) for key in sources} if blocks else {}
        cheapest = [min((way.cost for way in those), key=lambda cost: cost.least) for those in self._ways.values()]
        self.least = _least(metrics, [*cheapest, *_whole_rows(metrics, sources, rows)])

    def plan(self, memory: int, parallel: int, apart: bool) -> Plan:
        """The tasks, for `parallel` of them at a time, where at least `least` fits.

        All of them together hold no more than `memory`, or each of them where they run `apart`.
        """
        metrics, ways = self._metrics, self._ways
        at_a_time = [parallel] if apart else _halved(min(parallel, memory // self.least.bytes))
        shares = {number: memory if apart else memory // number for number in at_a_time}
        reads = {number: _reads(ways, each) for number, each in shares.items()}
        # Fewer tasks at a time have more memory each: a core less costs less than reading everything many times.
        few = [number for number in at_a_time if reads[number] <= _READS]
        parallel = few[0] if few else min((reads[number], number) for number in at_a_time)[1]
        tasks = [task for key in self._sources for task in _of_whole_rows(metrics, key)]
        chosen = [_best(those, shares[parallel]) for those in ways.values()]
        share = ceil(parallel / len(self._sources)) if metrics.columns else 1
        tasks += [task for way in chosen for task in way.tasks(shares[parallel], share)]
        if metrics.streaming("sites"):
            tasks.append(Task("sites"))
        tasks += [Task("compare", metric=metric.name) for metric in metrics.comparing]
        return Plan(tuple(tasks), parallel, max((way.passes for way in chosen), default=1))


def reading_bytes(source: Source, rows: Observations, metrics: Sequence[Metric]) -> int:
    """The bytes of a chunk of whole rows as it is read, and of what updates of the metrics make of a batch of them."""
    return _Cost.of_rows(source, rows, _Needs("", {}, batch=batch_bytes(metrics))).fixed


def _ways(metrics: MetricSet, key: str, source: Source, rows: Observations, again: int) -> list[_Way]:
    """The ways to take the nodes of a site; several where all that is asked of its columns are order statistics."""
    needs, columns = _of_nodes(metrics, source, rows), metrics.columns
    if not columns:
        return [_Way(source, _Cost.of_stream(source, rows, needs), Task("block", key))]
    ways = [_Way(source, _Cost.of_block(source, rows, needs, columns, again), Task("block", key))]
    orders = [metric for metric in columns if isinstance(metric, OrderMetric)]
    if len(orders) == len(columns) and not again:
        for selection in selections_of(orders, source, rows):
            cost = _Cost.of_selection(source, rows, needs, selection)
            ways.append(_Way(source, cost, Task("select", key, digit=selection.digit), selection.passes))
    return ways


def _best(ways: Sequence[_Way], memory: int) -> _Way:
    """The way that reads least."""
    return min(ways, key=lambda way: way.reads(memory))  # the first of several


def _reads(ways: Mapping[str, Sequence[_Way]], memory: int) -> float:
    """How often the stored values are read, where a task has so much memory."""
    best = [_best(those, memory) for those in ways.values()]
    sizes = [way.source.variable.nbytes for way in best]
    return sum(size * way.reads(memory) for size, way in zip(sizes, best, strict=True)) / max(1, sum(sizes))


def _halved(number: int) -> list[int]:
    """The number, its half, and so on to 1."""
    return [number >> shift for shift in range(number.bit_length())]


def _of_nodes(metrics: MetricSet, source: Source, rows: Observations) -> _Needs:
    """What the metrics of blocks of nodes need."""
    streaming = metrics.of_blocks
    spec, number = spec_of(source, rows, 1), rows.number
    where = f"at one node of site {source.name!r}, with {number} observations of {spec.classes} classes,"
    others = {metric.name: need_of_nodes(metric, spec, number, at_site(source)) for metric in metrics.columns}
    together = _together(streaming, lambda metric: need_of_nodes(metric, spec, number, at_site(source)))
    return _Needs(where, together, others, batch_bytes(streaming))


def _whole_rows(metrics: MetricSet, sources: Mapping[str, Source], rows: Mapping[str, Observations]) -> Iterator[_Cost]:
    """The costs of tasks that read whole rows."""
    specs = {key: spec_of(source, rows[key], source.nodes) for key, source in sources.items()}
    for key, source in sources.items():
        of_site = partial(_fixed, spec=specs[key], samples=rows[key].number, where=at_site(source))
        where = f"at the {source.nodes} nodes of site {source.name!r}"
        groups: list[Sequence[Metric]] = [metrics.streaming("node", "site")] if metrics.streaming("site") else []
        for group in [*groups, *([metric] for metric in metrics.samples)]:
            needs = _Needs(where, _together(group, of_site), batch=batch_bytes(group))
            yield _Cost.of_rows(source, rows[key], needs)
    most = max(each.number for each in rows.values())
    every = partial(_fixed, spec=list(specs.values()), samples=most, where=ACROSS)
    if metrics.streaming("sites"):
        compared = metrics.streaming("sites")
        needs = _Needs(f"over the {len(sources)} sites", _together(compared, every), batch=batch_bytes(compared))
        fixed = sum(_Cost.of_rows(source, rows[key], needs).fixed for key, source in sources.items())
        yield _Cost(fixed, 0, needs, f"A chunk of whole rows of all {len(sources)} sites")
    for metric in metrics.comparing:  # they read one site at a time
        needs = _Needs(f"over the {len(sources)} sites", _together([metric], every))
        yield max((_Cost.of_rows(source, rows[key], needs) for key, source in sources.items()), key=lambda c: c.least)


def _together(metrics: Sequence[Metric], need_of: Callable[[Metric], Need]) -> dict[str, Need]:
    """The needs of metrics that run together: of those that share a state, the largest."""
    return {name: partial(_largest, [*map(need_of, alike)]) for name, alike in sharing(metrics).items()}


def _fixed(metric: Metric, spec: Any, samples: int, where: str) -> Need:
    needed = need(metric, spec, samples, where)
    return lambda _: needed


def _largest(needs: Sequence[Need], nodes: int) -> int:
    return max(need(nodes) for need in needs)


def _of_whole_rows(metrics: MetricSet, key: str) -> Sequence[Task]:
    site = [Task("site", key)] if metrics.streaming("site") else []
    return [*site, *(Task("samples", key, metric=metric.name) for metric in metrics.samples)]


def _least(metrics: MetricSet, costs: Sequence[_Cost]) -> Least:
    """What the largest of the smallest possible tasks takes."""
    cost = max(costs, key=lambda each: each.least)
    large, name = cost.needs.largest()
    if large <= cost.least / 2:
        return Least(cost.least, cost.what, _instead(metrics))
    instead = f", group or pool to less (by=, sites=, reduce= of probekit.capture), or measure without {name}"
    return Least(cost.least, f"The metric {name!r} {cost.needs.where}", instead, ("by", "sites", "reduce"))


def _instead(metrics: MetricSet) -> str:
    """A hint for metrics that need all samples of a node at a time."""
    others = [metric.name for metric in metrics.columns if not isinstance(metric, OrderMetric)]
    if not others:
        return ""
    return f", or measure without {', '.join(others)}: medians and quantiles can be found in several passes"
