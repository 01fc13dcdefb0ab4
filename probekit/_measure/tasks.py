"""The tasks of a measurement: what one reads of a store, and what it gives.

A task reads its chunks once, in the order of the samples; streaming metrics see each chunk as it comes, and for column
metrics the values are put in their places by class, sorted once, and handed to all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, product
from typing import Any, Literal

import numpy as np
import torch

from probekit._beats import UNHEARD, Beat, current, in_turn
from probekit._measure.accumulator import ACROSS, SITES, Accumulator, call, finalized
from probekit._measure.durations import finalizing, updating_share
from probekit._measure.grouping import Observations
from probekit._measure.metric_set import MetricSet
from probekit._measure.resampling.evaluation import Columns
from probekit._measure.resampling.repeats import Repeats
from probekit._measure.site_rows import SiteSamples, at_site, in_batches, spec_of, whole_rows, without_nan
from probekit._measure.site_source import Source
from probekit._measure.units import Units
from probekit._results.assemble import check, join
from probekit.metrics import Block, Metric, SampleMetric, State, StreamingMetric, Variables
from probekit.metrics._kernels.radix_select import Selection
from probekit.metrics.block import Array, Codes
from probekit.metrics.order import OrderMetric

__all__ = ["Task", "TaskResult", "Work", "selections_of"]


@dataclass(frozen=True)
class Task:
    """A part of a measurement.

    - ``block``: streaming metrics of nodes and column metrics, over the nodes `start` to `stop` of a site;
    - ``select``: the same, but for columns that don't fit in memory: they are read several times, and each pass finds
      `digit` bits;
    - ``site``: streaming metrics over whole rows of a site, those of nodes with them;
    - ``samples``: one sample metric, `metric`, over a site;
    - ``sites``: streaming metrics over the rows of all sites, and `site` is empty;
    - ``compare``: one sample metric, `metric`, of all sites, and `site` is empty.

    With `repeat`, the last four are repeated for a null or an interval: `start` to `stop` of the repeats, or all
    blocks of a jackknife where these are equal. Streaming metrics add up `together` repeats in a pass; for intervals, a
    task has those whose intervals are found by `how`. A sample metric reads the store once for all if the values are
    `held`.
    `pooling` is what becomes of positions.
    """

    kind: Literal["block", "select", "site", "samples", "sites", "compare"]
    site: str = ""
    start: int = 0
    stop: int = 0
    metric: str = ""
    digit: int = 0
    repeat: Literal["", "null", "ci"] = ""
    how: Literal["bootstrap", "jackknife"] | None = None
    together: int = 0
    held: bool = False
    pooling: str = "mean"


@dataclass(frozen=True)
class TaskResult:
    """The states of streaming metrics and the variables of other metrics, by the metric's name; the sums of `repeats`.

    These are by what they are for and the metric's name.
    """

    states: dict[str, State] = field(default_factory=dict)
    variables: dict[str, Variables] = field(default_factory=dict)
    repeats: dict[str, Variables] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """The metrics, the sites, and the observations of each that are measured: all tasks share them.

    `common` are those that metrics of all sites see; None where there are no such metrics. `targets` has the target of
    each row of each site, (row,), where a metric needs one, and `units` the unit of each row, where one splits them.
    `repeats` are asked for nulls and intervals.
    """

    metrics: MetricSet
    sources: Mapping[str, Source]
    rows: Mapping[str, Observations]
    common: Observations | None
    targets: Mapping[str, Array] = field(default_factory=dict)
    units: Units = field(default_factory=dict)
    repeats: Repeats | None = None

    def run(self, task: Task) -> TaskResult:
        """Do one task, which tells its beat how far it is.

        Raises:
            DataError: NaN in the data.
            PluginError: a metric fails.
        """
        if task.repeat:
            return self._repeated(task)
        if task.kind == "sites":
            return self._sites()
        if task.kind == "compare":
            metric = next(m for m in self.metrics.comparing if m.name == task.metric)
            assert self.common is not None
            return TaskResult(variables={metric.name: self._compared(metric, [*self.sources.values()], self.common)})
        source, rows = self.sources[task.site], self.rows[task.site]
        if task.kind == "samples":
            metric = next(m for m in self.metrics.samples if m.name == task.metric)
            target, units = self.targets.get(task.site), self._units(task.site, metric)
            return _samples(metric, SiteSamples(source, rows, target, units))
        if task.kind == "site":
            return self._site(source, rows)
        if task.kind == "select":
            return self._select(source, rows, task)
        return self._block(source, rows, task.start, task.stop)

    def _units(self, site: str, metric: SampleMetric) -> Codes | None:
        return self.units[site, metric.split_by] if hasattr(metric, "split_by") else None

    def _block(self, source: Source, rows: Observations, start: int, stop: int) -> TaskResult:
        columns = self.metrics.columns
        values = rows.grouping.allocate(stop - start, source.dtype) if columns else None
        repeats = self.repeats if self.repeats is not None and self.repeats.any_of(columns) else None
        times = 0 if repeats is None else repeats.times(columns)
        # To read the columns takes about as long as to measure them, and so does each repeat.
        states = _stream(self.metrics.of_blocks, source, rows, start, stop, values, 1 / (2 + times) if columns else 1)
        if values is None:
            return TaskResult(states)
        held = None if repeats is None else Columns.of(values, rows)
        whole = Block.sort(values, rows.grouping.offsets)
        found = self._of_columns(whole, at_site(source, start, stop), rows, times)
        if repeats is None or held is None:
            return TaskResult(states, found)
        where = at_site(source, start, stop)

        def checked(metric: Metric, returned: Any) -> Variables:
            return check(metric, returned, rows.labels, where, node=whole.nodes)

        return TaskResult(states, found, repeats.of_columns(columns, held, found, source.key, where, checked))

    def _of_columns(self, whole: Block, where: str, rows: Observations, repeats: float) -> dict[str, Variables]:
        """The variables of the column metrics, a few nodes at a time; so many repeats of them follow."""
        few, columns = whole.split(), self.metrics.columns
        found: dict[str, list[Variables]] = {metric.name: [] for metric in columns}
        each = [*product(few, columns)]
        for block, metric in in_turn(each, then=repeats * len(each)):
            variables = call(metric, where, metric.compute, block)
            found[metric.name].append(check(metric, variables, rows.labels, where, node=block.nodes))
        return {metric.name: join(metric, found[metric.name]) for metric in columns}

    def _site(self, source: Source, rows: Observations) -> TaskResult:
        """The variables, since the states of such metrics may be large, and no others are to be joined with them."""
        streaming, where = self.metrics.streaming("node", "site"), at_site(source)
        spec = spec_of(source, rows, source.nodes)
        share = updating_share(streaming, spec, rows.number)
        states = _stream(streaming, source, rows, 0, source.nodes, None, share)
        found = finalized(streaming, states, where, finalizing(streaming, spec, rows.number))
        return TaskResult(variables={m.name: check(m, v, rows.labels, where, node=source.nodes) for m, v in found})

    def _select(self, source: Source, rows: Observations, task: Task) -> TaskResult:
        start, stop, where = task.start, task.stop, at_site(source, task.start, task.stop)
        orders = [metric for metric in self.metrics.columns if isinstance(metric, OrderMetric)]
        selection = next(each for each in selections_of(orders, source, rows) if each.digit == task.digit)
        streamed = Accumulator(self.metrics.of_blocks, spec_of(source, rows, stop - start), where)
        passes = count()

        def read() -> Iterator[tuple[Codes, Array]]:
            number = next(passes)
            reading = current().of(1 / max(1, selection.passes - number))
            for _, x, codes in without_nan(source, rows, start, stop, reading):
                for batch, y in zip(in_batches(x), in_batches(codes), strict=True) if number == 0 else ():
                    streamed.update(batch, y)
                yield codes, x

        found = selection.select(read, stop - start)
        variables = {metric.name: call(metric, where, found.compute, metric) for metric in orders}
        return TaskResult(
            streamed.states,
            {m.name: check(m, variables[m.name], rows.labels, where, node=stop - start) for m in orders},
        )

    def _sites(self) -> TaskResult:
        """Whole rows of all sites, which are read side by side."""
        assert self.common is not None
        sources, rows, metrics = list(self.sources.values()), self.common, self.metrics.streaming("sites")
        specs, lengths = [spec_of(source, rows, source.nodes) for source in sources], dict.fromkeys(SITES, len(sources))
        added = Accumulator(metrics, specs, ACROSS)
        reading = current().of(updating_share(metrics, specs, rows.number))
        for x, codes in _side_by_side(sources, rows, reading):
            added.update(x, torch.from_numpy(codes))
        found = finalized(metrics, added.states, ACROSS, finalizing(metrics, specs, rows.number))
        return TaskResult(variables={m.name: check(m, v, rows.labels, ACROSS, **lengths) for m, v in found})

    def _compared(self, metric: SampleMetric, sources: Sequence[Source], rows: Observations) -> Variables:
        """The variables of a metric that reads the rows of all sites itself."""
        samples = [SiteSamples(source, rows) for source in sources]
        variables = call(metric, ACROSS, metric.compute_samples, samples)
        return check(metric, variables, rows.labels, ACROSS, **dict.fromkeys(SITES, len(sources)))

    def _sources(self, task: Task) -> list[Source]:
        """The sites that a task is about, in memory if it holds them."""
        those = [self.sources[task.site]] if task.site else [*self.sources.values()]
        return [source.held() for source in those] if task.held else those

    def _repeated(self, task: Task) -> TaskResult:
        assert self.repeats is not None
        assert task.repeat
        part = range(task.start, task.stop)
        if task.kind == "samples":
            source, rows = self._sources(task)[0], self.rows[task.site]
            metric = next(m for m in self.metrics.samples if m.name == task.metric)

            def measured(of: Observations, target: Array | None) -> Variables:
                return _samples(metric, SiteSamples(source, of, target, units)).variables[metric.name]

            target, units = self.targets.get(task.site), self._units(task.site, metric)
            return TaskResult(
                repeats=self.repeats.of_samples(task.repeat, metric, part, measured, rows, target, task.site)
            )
        if task.kind == "compare":
            assert self.common is not None
            compared = next(m for m in self.metrics.comparing if m.name == task.metric)
            those = self._sources(task)

            def of_all(of: Observations, target: Array | None) -> Variables:
                return self._compared(compared, those, of)

            return TaskResult(
                repeats=self.repeats.of_samples(task.repeat, compared, part, of_all, self.common, None, task.site)
            )
        if task.kind == "sites":
            assert self.common is not None
            sources, rows, where = list(self.sources.values()), self.common, ACROSS
            metrics, lengths = self.metrics.streaming("sites"), dict.fromkeys(SITES, len(sources))
            spec: Any = [spec_of(source, rows, source.nodes) for source in sources]
        else:
            source, rows = self.sources[task.site], self.rows[task.site]
            sources, where, lengths = [source], at_site(source), {"node": source.nodes}
            metrics, spec = self.metrics.streaming("node", "site"), spec_of(source, rows, source.nodes)

        passes = [part[at : at + task.together] for at in range(0, len(part), task.together)] if part else [part]
        chosen = self.repeats.chosen(task.repeat, metrics, task.how)
        times = 1 if part else self.repeats.number_at(task.repeat, chosen[0], task.site)
        share = updating_share(chosen, spec, rows.number, times)

        def batches() -> Iterator[tuple[Any, Codes]]:
            for x, codes in _side_by_side(sources, rows, current().of(share)):
                yield (x if task.kind == "sites" else x[0]), codes

        def checked(metric: Metric, returned: Any) -> Variables:
            return check(metric, returned, rows.labels, where, **lengths)

        sums = self.repeats.of_streams(
            task.repeat, task.how, metrics, passes, spec, batches, rows, task.site, where, checked
        )
        return TaskResult(repeats=sums)


def selections_of(metrics: Sequence[OrderMetric], source: Source, rows: Observations) -> list[Selection]:
    """The ways to find the order statistics that the metrics need: from the fewest passes to the least memory."""
    stored = source.variable.dtype if source.pooling == "each" or source.positions == 1 else source.dtype
    counts = np.bincount(rows.codes, minlength=rows.labels.number)
    return Selection.choices(metrics, counts, stored.newbyteorder("="))


def _side_by_side(
    sources: Sequence[Source], rows: Observations, reading: Beat
) -> Iterator[tuple[list[torch.Tensor], Codes]]:
    """Batches of whole rows of all sites, and their codes. The first site speaks for all."""
    each = [whole_rows(source, rows, reading if source is sources[0] else UNHEARD) for source in sources]
    for batches in zip(*each, strict=True):
        yield [x for x, _ in batches], batches[0][1]


def _samples(metric: SampleMetric, samples: SiteSamples) -> TaskResult:
    where = at_site(samples.source)
    variables = call(metric, where, metric.compute_samples, samples)
    return TaskResult(variables={metric.name: check(metric, variables, samples.of.labels, where, node=samples.nodes)})


def _stream(
    metrics: Sequence[StreamingMetric],
    source: Source,
    rows: Observations,
    start: int,
    stop: int,
    values: Array | None,
    share: float,
) -> dict[str, State]:
    """The states of the metrics after all observations, which are also put into `values` by their groups.

    This takes such a `share` of what is left of a task.
    """
    found = Accumulator(metrics, spec_of(source, rows, stop - start), at_site(source, start, stop))
    beat = current().of(share)
    for first, x, codes in without_nan(source, rows, start, stop, beat):
        if values is not None:
            rows.grouping.place(values, first, x)
        done = first
        for batch, y in zip(in_batches(x), in_batches(codes), strict=True) if metrics else ():
            found.update(batch, y)
            done += len(y)
            beat(done / rows.number)
    return found.states
