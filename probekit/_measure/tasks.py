"""The tasks of a measurement: what one reads of a store, and what it gives.

A task reads its chunks once, in the order of the samples; streaming metrics see each chunk as it comes, and for column
metrics the values are put in their places by class, sorted once, and handed to all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from probekit._measure.accumulator import BATCH, Accumulator, call, finalized
from probekit._measure.grouping import Observations
from probekit._measure.metric_set import MetricSet
from probekit._measure.resampling.evaluation import Columns
from probekit._measure.resampling.repeats import Repeats
from probekit._measure.site_source import Source
from probekit._measure.units import Units
from probekit._results.assemble import check
from probekit.errors import DataError, PluginError
from probekit.metrics import Block, Metric, SampleMetric, Spec, State, StreamingMetric, Variables
from probekit.metrics._kernels.radix_select import Selection
from probekit.metrics.block import Array, Codes
from probekit.metrics.order import OrderMetric

__all__ = ["Task", "TaskResult", "Work", "at_site", "spec_of"]


@dataclass(frozen=True)
class Task:
    """A part of a measurement.

    - ``block``: streaming metrics of nodes and column metrics, over the nodes `start` to `stop` of a site;
    - ``select``: the same, but for columns that don't fit in memory: they are read several times, and a node takes
      `memory` bytes;
    - ``site``: streaming metrics over whole rows of a site, those of nodes with them;
    - ``samples``: one sample metric, `metric`, over a site;
    - ``sites``: streaming metrics over the rows of all sites, and `site` is empty;
    - ``compare``: one sample metric, `metric`, of all sites, and `site` is empty.

    With `repeat`, the last four are repeated for a null or an interval: `start` to `stop` of the repeats, or all
    blocks of a jackknife where these are equal.
    `pooling` is what becomes of positions.
    """

    kind: Literal["block", "select", "site", "samples", "sites", "compare"]
    site: str = ""
    start: int = 0
    stop: int = 0
    metric: str = ""
    memory: int = 0
    repeat: Literal["", "null", "ci"] = ""
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
        """Do one task.

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
            return TaskResult(variables={metric.name: self._compared(metric, self.common)})
        source, rows = self.sources[task.site], self.rows[task.site]
        if task.kind == "samples":
            metric = next(m for m in self.metrics.samples if m.name == task.metric)
            return _samples(metric, _Samples(source, rows, self.targets.get(task.site), self._units(task.site, metric)))
        if task.kind == "site":
            return self._site(source, rows)
        if task.kind == "select":
            return self._select(source, rows, task)
        return self._block(source, rows, task.start, task.stop)

    def _units(self, site: str, metric: SampleMetric) -> Codes | None:
        return self.units[site, metric.split_by] if hasattr(metric, "split_by") else None

    @property
    def _of_nodes(self) -> list[StreamingMetric]:
        """Streaming metrics of blocks of nodes. Where others see whole rows, these go with them."""
        return [] if self.metrics.streaming("site") else self.metrics.streaming("node")

    def _block(self, source: Source, rows: Observations, start: int, stop: int) -> TaskResult:
        columns = self.metrics.columns
        values = rows.grouping.allocate(stop - start, source.dtype) if columns else None
        states = _stream(self._of_nodes, source, rows, start, stop, values)
        if values is None:
            return TaskResult(states)
        repeats = self.repeats if self.repeats is not None and self.repeats.any_of(columns) else None
        held = None if repeats is None else Columns.of(values, rows)
        block, where = Block.sort(values, rows.grouping.offsets), at_site(source, start, stop)

        def checked(metric: Metric, returned: Any) -> Variables:
            return check(metric, returned, rows.labels, where, node=block.nodes)

        found = {m.name: checked(m, call(m, where, m.compute, block)) for m in columns}
        if repeats is None or held is None:
            return TaskResult(states, found)
        return TaskResult(states, found, repeats.of_columns(columns, held, found, source.key, where, checked))

    def _site(self, source: Source, rows: Observations) -> TaskResult:
        """The variables, since the states of such metrics may be large, and no others are to be joined with them."""
        streaming, where = self.metrics.streaming("node", "site"), at_site(source)
        states = _stream(streaming, source, rows, 0, source.nodes, None)
        found = finalized(streaming, states, where)
        return TaskResult(variables={m.name: check(m, v, rows.labels, where, node=source.nodes) for m, v in found})

    def _select(self, source: Source, rows: Observations, task: Task) -> TaskResult:
        start, stop, where = task.start, task.stop, at_site(source, task.start, task.stop)
        orders = [metric for metric in self.metrics.columns if isinstance(metric, OrderMetric)]
        states = _stream(self._of_nodes, source, rows, start, stop, None) if self._of_nodes else {}

        def read() -> Iterator[tuple[Codes, Array]]:
            return ((codes, x) for _, x, codes in _without_nan(source, rows, start, stop))

        found = selection_of(orders, source, rows, task.memory).select(read, stop - start)
        variables = {metric.name: call(metric, where, found.compute, metric) for metric in orders}
        return TaskResult(
            states, {m.name: check(m, variables[m.name], rows.labels, where, node=stop - start) for m in orders}
        )

    def _sites(self) -> TaskResult:
        """Whole rows of all sites, which are read side by side."""
        assert self.common is not None
        sources, rows = list(self.sources.values()), self.common
        specs = [spec_of(source, rows, source.nodes) for source in sources]
        found = Accumulator(self.metrics.streaming("sites"), specs, "over the sites")
        for batches in zip(*(_batches(source, rows) for source in sources), strict=True):
            found.update([x for x, _ in batches], torch.from_numpy(batches[0][1]))
        return TaskResult(found.states)

    def _compared(self, metric: SampleMetric, rows: Observations) -> Variables:
        """The variables of a metric that reads the rows of all sites itself."""
        where, sites = "over the sites", len(self.sources)
        samples = [_Samples(source, rows) for source in self.sources.values()]
        variables = call(metric, where, metric.compute_samples, samples)
        return check(metric, variables, rows.labels, where, site=sites, site_b=sites)

    def _repeated(self, task: Task) -> TaskResult:
        assert self.repeats is not None
        assert task.repeat
        part = range(task.start, task.stop)
        if task.kind == "samples":
            source, rows = self.sources[task.site], self.rows[task.site]
            metric = next(m for m in self.metrics.samples if m.name == task.metric)

            def measured(of: Observations, target: Array | None) -> Variables:
                return _samples(metric, _Samples(source, of, target, units)).variables[metric.name]

            target, units = self.targets.get(task.site), self._units(task.site, metric)
            return TaskResult(
                repeats=self.repeats.of_samples(task.repeat, metric, part, measured, rows, target, task.site)
            )
        if task.kind == "compare":
            assert self.common is not None
            compared = next(m for m in self.metrics.comparing if m.name == task.metric)

            def of_all(of: Observations, target: Array | None) -> Variables:
                return self._compared(compared, of)

            return TaskResult(
                repeats=self.repeats.of_samples(task.repeat, compared, part, of_all, self.common, None, task.site)
            )
        if task.kind == "sites":
            assert self.common is not None
            sources, rows, where = list(self.sources.values()), self.common, "over the sites"
            metrics, lengths = self.metrics.streaming("sites"), {"site": len(sources), "site_b": len(sources)}
            spec: Any = [spec_of(source, rows, source.nodes) for source in sources]
        else:
            source, rows = self.sources[task.site], self.rows[task.site]
            sources, where, lengths = [source], at_site(source), {"node": source.nodes}
            metrics, spec = self.metrics.streaming("node", "site"), spec_of(source, rows, source.nodes)

        def batches() -> Iterator[tuple[Any, Codes]]:
            for each in zip(*(_batches(source, rows) for source in sources), strict=True):
                x = [values for values, _ in each]
                yield (x if task.kind == "sites" else x[0]), each[0][1]

        def checked(metric: Metric, returned: Any) -> Variables:
            return check(metric, returned, rows.labels, where, **lengths)

        return TaskResult(
            repeats=self.repeats.of_streams(task.repeat, metrics, part, spec, batches, rows, task.site, where, checked)
        )


def selection_of(metrics: Sequence[OrderMetric], source: Source, rows: Observations, memory: int) -> Selection:
    """How the order statistics that the metrics need are found, in `memory` bytes a node if that is enough."""
    stored = source.variable.dtype if source.pooling == "each" or source.positions == 1 else source.dtype
    counts = np.bincount(rows.codes, minlength=rows.labels.number)
    return Selection.of(metrics, counts, stored.newbyteorder("="), memory)


def _samples(metric: SampleMetric, samples: _Samples) -> TaskResult:
    where = at_site(samples.source)
    variables = call(metric, where, metric.compute_samples, samples)
    return TaskResult(variables={metric.name: check(metric, variables, samples.of.labels, where, node=samples.nodes)})


def _stream(
    metrics: Sequence[StreamingMetric], source: Source, rows: Observations, start: int, stop: int, values: Array | None
) -> dict[str, State]:
    """The states of the metrics after all observations, which are also put into `values` by their groups."""
    found = Accumulator(metrics, spec_of(source, rows, stop - start), at_site(source, start, stop))
    for first, x, codes in _without_nan(source, rows, start, stop):
        if values is not None:
            rows.grouping.place(values, first, x)
        if metrics:
            for batch, y in zip(_split(x), _split(codes), strict=True):
                found.update(batch, y)
    return found.states


def _without_nan(
    source: Source, rows: Observations, start: int, stop: int, places: Codes | None = None
) -> Iterator[tuple[int, Array, Codes]]:
    """The values as they are read, all or around some places; DataError after the last of them, if there was a NaN."""
    nan = np.zeros(stop - start, dtype=bool)
    for first, x, codes in rows.read(source, start, stop, places):
        if len(x) and np.isnan(x.min()):
            nan |= np.isnan(x).any(axis=0)
        yield first, x, codes
    if nan.any():
        raise DataError(
            f"Site {source.name!r} holds NaN at {nan.sum()} of its nodes {start} to {stop - 1}, the first at node "
            f"{start + nan.argmax()}. A NaN has no place in an order or a mean. Find out where the model makes it, "
            "leave the site out with sites=, or the samples with nan='omit'.",
            arguments=("sites", "nan"),
        )


def _batches(source: Source, rows: Observations) -> Iterator[tuple[torch.Tensor, Codes]]:
    """Whole rows with their codes, in batches whose size doesn't depend on how a site is stored."""
    left, begun = np.empty((0, source.nodes), source.dtype), 0
    for _, x, _ in _without_nan(source, rows, 0, source.nodes):
        left = np.concatenate([left, x])
        whole = len(left) - len(left) % BATCH
        for at in range(0, whole, BATCH):
            yield torch.from_numpy(left[at : at + BATCH]), rows.codes[begun + at : begun + at + BATCH]
        left, begun = left[whole:], begun + whole
    if len(left):
        yield torch.from_numpy(left), rows.codes[begun:]


@dataclass(frozen=True)
class _Samples:
    """The observations of a site, as a sample metric reads them."""

    source: Source
    of: Observations
    target_of_rows: Array | None = None
    units_of_rows: Codes | None = None

    @property
    def target(self) -> Array:
        if self.target_of_rows is None:
            raise PluginError("it reads a target, but doesn't say so. Give the metric needs_target = True")
        found: Array = self.target_of_rows[self.of.numbers]
        return found

    @property
    def units(self) -> Codes:
        if self.units_of_rows is None:
            raise PluginError("it asks for units, but doesn't say so. Give the metric split_by = None")
        return self.units_of_rows[self.of.numbers]

    @property
    def number(self) -> int:
        return self.of.number

    @property
    def nodes(self) -> int:
        return self.source.nodes

    @property
    def classes(self) -> int:
        return self.of.labels.number

    @property
    def codes(self) -> Codes:
        return self.of.codes

    @property
    def rows(self) -> Codes:
        return self.of.numbers

    def batches(self) -> Iterator[tuple[Array, Codes]]:
        for _, x, codes in _without_nan(self.source, self.of, 0, self.nodes):
            yield x, codes

    def take(self, places: Codes) -> Array:
        taken = np.empty((len(places), self.nodes), self.source.dtype)
        done = 0
        for first, x, _ in _without_nan(self.source, self.of, 0, self.nodes, places):
            until = int(np.searchsorted(places, first + len(x)))
            taken[done:until] = x[places[done:until] - first]
            done = until
        return taken


def at_site(source: Source, start: int = 0, stop: int | None = None) -> str:
    return f"at site {source.name!r}, nodes {start} to {(source.nodes if stop is None else stop) - 1}"


def spec_of(source: Source, rows: Observations, nodes: int) -> Spec:
    dtype = torch.float32 if source.dtype == np.float32 else torch.float64
    return Spec(nodes, rows.labels.number, dtype, torch.device("cpu"), source.bounds, rows.number)


def _split(array: Array) -> tuple[torch.Tensor, ...]:
    return torch.split(torch.from_numpy(array), BATCH)
