"""Running metrics over a store: one plan for all of them, blocks of nodes on threads, one tree of results.

A task is a site and a range of its nodes. It reads its column of tiles once, in the order of the samples; streaming
metrics see each tile as it comes, and for column metrics the values are put in their places by class, sorted once, and
handed to all of them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

import probekit
from probekit import plugins
from probekit.errors import DataError, PluginError, ProbekitError
from probekit.metrics import Block, ColumnMetric, Metric, Spec, State, StreamingMetric, Variables
from probekit.metrics.block import Array, Grouping
from probekit.metrics.parameters import with_parameters
from probekit.names import Selector
from probekit.progress import Progress, silent
from probekit.results import check, join, new_store, site_results, write
from probekit.sizes import format_size, parse_size
from probekit.sources import Groups, Source, find_sources
from probekit.store import open_store

__all__ = ["Plan", "Task", "measure"]

P = ParamSpec("P")
R = TypeVar("R")

_CARRIED = ("model", "weights", "mode", "created")  # attributes of a store that its results keep
_COLUMN_BYTES = 32 * 2**20  # of a task where tiles and memory leave the choice: a few seconds at most, and cached
_BATCH = 512  # samples in an update of a streaming metric, whose temporaries then stay in the cache
_SPLIT_NODES = 32  # a tile isn't read twice for fewer nodes than this


def measure(
    store: str | Path | xr.DataTree,
    metrics: str | Metric | Sequence[str | Metric],
    *,
    sites: Selector | None = None,
    by: str | None = "label",
    memory: str | int = "1GiB",
    out: str | Path | None = None,
    progress: Progress = silent,
) -> xr.DataTree:
    """The metrics of every site of a store: a tree with one group a site and a variable for each result.

    ``m["layers.0"]["median"]`` has the dims (label, node), the coordinates ``label`` and ``class_name``, and says in
    its attributes {metric, version, parameters, n, dtype, approximate} what it is. float16 is measured as float32,
    integers as float64. Of feature maps the node is the channel, of tokens the feature, and their positions are pooled
    by the mean. The numbers don't depend on `memory` or on the number of threads.

    Args:
        store: the path of a store, or an open one.
        metrics: names (``probekit metrics`` lists them), with parameters if need be (``"std:ddof=1"``,
            ``"quantile:0.25,0.75"``: Python literals, those without a key for the first parameter), instances such as
            ``pk.metrics.Std(ddof=1)``, functions under ``@pk.metric``; one or several.
        sites: a glob, a regex or a list of them; by default all sites.
        by: the column that groups the samples. For None, and by default where there are no labels, all samples are
            one group, and the results have no dim `label`.
        memory: the bound on what all threads together hold of the store.
        out: also write the results as a new zarr store, which appears whole or not at all.
        progress: wraps the iterable of finished tasks.

    Raises:
        PluginError: an unknown metric, or one that fails or returns what it doesn't declare.
        SiteError: no site matches `sites`.
        DataError: NaN in the data, or no column `by`.
        StoreError: no store at `store`, `out` exists or can't be written.
        ProbekitError: one node's samples don't fit in `memory`.

    Example:
        >>> import numpy as np, xarray as xr, probekit as pk
        >>> columns = xr.Dataset(coords={"label": ("sample", [0, 0, 1])})
        >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[0.0, 2], [1, 4], [5, 0]]))})
        >>> m = pk.measure(xr.DataTree.from_dict({"/": columns, "relu": relu}), ["median", "sparsity"])
        >>> m["relu"]["median"].sel(label=0).values
        array([0.5, 3. ])
    """
    chosen = _resolve(metrics)
    with ExitStack() as stack:
        folder = None if out is None else stack.enter_context(new_store(Path(out)))
        tree = store if isinstance(store, xr.DataTree) else open_store(store)
        sources = find_sources(tree, sites, "the tree" if isinstance(store, xr.DataTree) else str(store))
        groups = Groups.of(tree.to_dataset(inherit=False), by)
        plan = _plan(sources, chosen, parse_size(memory))
        samples = _Rows.of(groups)
        rows = {s.key: _Rows.of(groups.of_tokens(s.site)) if s.tokens else samples for s in sources}
        work = _Work(chosen, rows)
        results = _run(plan, {source.key: source for source in sources}, work, progress)
        results.attrs = {"probekit_version": probekit.__version__, "by": groups.by or "none"}
        results.attrs |= {key: tree.attrs[key] for key in _CARRIED if key in tree.attrs}
        if folder is not None:
            write(results, folder)
    return results


def _resolve(metrics: str | Metric | Sequence[str | Metric]) -> list[Metric]:
    given = metrics if isinstance(metrics, Sequence) and not isinstance(metrics, str) else [metrics]
    found = [_metric(one) for one in given]
    if not found:
        raise PluginError("No metric was given. Name at least one; `probekit metrics` lists them.")
    twice = [name for name, count in Counter(metric.name for metric in found).items() if count > 1]
    if twice:
        raise PluginError(f"The metric {twice[0]!r} was given twice. Measure its variants in separate calls.")
    return found


def _metric(given: object) -> Metric:
    found = _named(given) if isinstance(given, str) else given
    found = found() if isinstance(found, type) else found
    if not isinstance(found, StreamingMetric | ColumnMetric):
        raise PluginError(
            f"{given!r} is not a metric. Give a name, a function under @pk.metric, or an object with name, version, "
            "parameters and either compute(block) or init, update, merge and finalize."
        )
    return found


def _named(given: str) -> object:
    """What is registered under a name, with the parameters that follow its colon, if any."""
    name, colon, parameters = given.partition(":")
    found: object = plugins.load(plugins.METRICS, name)
    return with_parameters(found, name, parameters) if colon else found


@dataclass(frozen=True)
class Task:
    """A site, by its group in the store, and the range of its nodes that are measured together."""

    site: str
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """The tasks of a measurement, and how many of them run at a time."""

    tasks: tuple[Task, ...]
    threads: int


@dataclass(frozen=True)
class _Cost:
    """Bytes that a task at one site holds: `fixed`, and `node` more for each of its nodes."""

    fixed: int
    node: int

    @classmethod
    def of(cls, source: Source, columns: bool) -> _Cost:
        rows, width = source.tile
        stored = rows * source.positions * source.variable.dtype.itemsize
        # Tiles as they are decoded, read and upcast, and what streaming metrics make of a batch in float64.
        fixed, node = stored * width, 2 * stored + 8 * rows + 40 * _BATCH
        if not columns:
            return cls(fixed, node)
        # The block, as much again as scratch of the metrics, and the pooled samples of one node.
        return cls(fixed + 64 * source.samples, node + 2 * source.samples * source.dtype.itemsize)


def _plan(sources: Sequence[Source], metrics: Sequence[Metric], memory: int) -> Plan:
    columns = any(isinstance(metric, ColumnMetric) for metric in metrics)
    costs = {source.key: _Cost.of(source, columns) for source in sources}
    largest = max(sources, key=lambda source: costs[source.key].fixed + costs[source.key].node)
    least = costs[largest.key].fixed + costs[largest.key].node
    if least > memory:
        raise ProbekitError(
            f"One node of site {largest.name!r} with its {largest.samples} samples needs {format_size(least)}, and "
            f"memory is {format_size(memory)}. Give memory={format_size(1.01 * least)!r} or more."
        )
    threads = min(_cores(), memory // least)
    share = ceil(threads / len(sources)) if columns else 1
    tasks = []
    for source in sources:
        cost = costs[source.key]
        width = _width(source, (memory // threads - cost.fixed) // cost.node, cost.node, share)
        tasks += [Task(source.key, n, min(n + width, source.nodes)) for n in range(0, source.nodes, width)]
    return Plan(tuple(tasks), threads)


def _cores() -> int:
    """The cores that this process may use, which on a shared machine are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _width(source: Source, most: int, node_bytes: int, share: int) -> int:
    """Nodes of a task: whole tiles if `most` nodes fit, split only where `share` threads would have no task."""
    tile = source.tile[1]
    wanted = min(most, max(tile, _COLUMN_BYTES // node_bytes), source.nodes)
    if ceil(source.nodes / wanted) < share:
        wanted = min(wanted, max(_SPLIT_NODES, ceil(source.nodes / share)))
    return wanted - wanted % tile if wanted > tile else wanted


@dataclass(frozen=True)
class _Piece:
    """What one task gives: by the metric's name, the states of streaming and the variables of column metrics."""

    states: dict[str, State]
    variables: dict[str, Variables]


@dataclass(frozen=True)
class _Rows:
    """The group of each row of a site, and where it goes when the rows are put together by group."""

    groups: Groups
    grouping: Grouping

    @classmethod
    def of(cls, groups: Groups) -> _Rows:
        return cls(groups, groups.grouping())


@dataclass(frozen=True)
class _Work:
    """What all tasks share: the metrics, and the rows of each site, by its group in the store."""

    metrics: Sequence[Metric]
    rows: Mapping[str, _Rows]

    @property
    def columns(self) -> list[ColumnMetric]:
        return [metric for metric in self.metrics if isinstance(metric, ColumnMetric)]

    @property
    def streaming(self) -> list[StreamingMetric]:
        # A metric that can do both is exact as a column metric.
        return [m for m in self.metrics if isinstance(m, StreamingMetric) and not isinstance(m, ColumnMetric)]

    def measure(self, source: Source, start: int, stop: int) -> _Piece:
        """One task: read a column of tiles, feeding the streaming metrics; sort it; compute the column metrics."""
        with np.errstate(all="ignore"):  # what comes of infinities is the metric's to say, as it is numpy's
            values = self.rows[source.key].grouping.allocate(stop - start, source.dtype) if self.columns else None
            states = self._stream(source, start, stop, values)
            return _Piece(states, {} if values is None else self._compute(source, start, stop, values))

    def _stream(self, source: Source, start: int, stop: int, values: Array | None) -> dict[str, State]:
        """The states of the streaming metrics after all samples, which are also put into `values`."""
        where, rows = _where(source, start, stop), self.rows[source.key]
        spec = Spec(stop - start, rows.groups.number, _torch_dtype(source), torch.device("cpu"), source.bounds)
        states = {metric.name: _call(metric, where, metric.init, spec) for metric in self.streaming}
        nan = np.zeros(stop - start, dtype=bool)
        for first, x in source.read(start, stop):
            if np.isnan(x.min()):
                nan |= np.isnan(x).any(axis=0)
            if values is not None:
                rows.grouping.place(values, first, x)
            codes = rows.groups.codes[first : first + len(x)]
            for batch, y in zip(_batches(x), _batches(codes), strict=True):
                for metric in self.streaming:
                    states[metric.name] = _call(metric, where, metric.update, states[metric.name], batch, y)
        if nan.any():
            raise DataError(_nan_message(source, start, nan))
        return states

    def _compute(self, source: Source, start: int, stop: int, values: Array) -> dict[str, Variables]:
        where, rows = _where(source, start, stop), self.rows[source.key]
        block = Block.sort(values, rows.grouping.offsets)
        return {
            metric.name: check(metric, _call(metric, where, metric.compute, block), rows.groups, block.nodes, where)
            for metric in self.columns
        }

    def finish(self, source: Source, pieces: Sequence[_Piece]) -> xr.Dataset:
        """The results of one site from its pieces, which are in the order of the nodes."""
        found = {
            metric.name: join(metric, [piece.variables[metric.name] for piece in pieces]) for metric in self.columns
        }
        where, groups = f"at site {source.name!r}", self.rows[source.key].groups
        for metric in self.streaming:
            state = _side_by_side([piece.states[metric.name] for piece in pieces])
            variables = _call(metric, where, metric.finalize, state)
            found[metric.name] = check(metric, variables, groups, source.nodes, where)
        return site_results([(metric, found[metric.name]) for metric in self.metrics], source, groups)


def _run(plan: Plan, sources: Mapping[str, Source], work: _Work, progress: Progress) -> xr.DataTree:
    pieces: dict[Task, _Piece] = {}
    with _pool(plan.threads) as pool:
        futures = {pool.submit(work.measure, sources[task.site], task.start, task.stop): task for task in plan.tasks}
        for future in progress(as_completed(futures), "measure", len(futures)):
            pieces[futures[future]] = future.result()
    of_site = {key: [pieces[task] for task in plan.tasks if task.site == key] for key in sources}
    return xr.DataTree.from_dict({key: work.finish(source, of_site[key]) for key, source in sources.items()})


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for the tasks, in each of which torch uses no further ones; at the end queued tasks are dropped."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _call(metric: Metric, where: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What a method of the metric returns; PluginError that says which metric failed and where, when it raises."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        fault = str(error) if isinstance(error, ProbekitError) else f"{type(error).__name__}: {error}"
        raise PluginError(f"The metric {metric.name!r} failed {where}: {fault.rstrip('.')}.") from error


def _where(source: Source, start: int, stop: int) -> str:
    return f"at site {source.name!r}, nodes {start} to {stop - 1}"


def _batches(array: Array) -> tuple[torch.Tensor, ...]:
    return torch.split(torch.from_numpy(array), _BATCH)


def _torch_dtype(source: Source) -> torch.dtype:
    return torch.float32 if source.dtype == np.float32 else torch.float64


def _side_by_side(states: Sequence[State]) -> State:
    """The state of all nodes from those of blocks of nodes; what has the axis (class,) alone is the same in each."""
    return {
        key: torch.cat([state[key] for state in states], dim=1) if first.ndim > 1 else first
        for key, first in states[0].items()
    }


def _nan_message(source: Source, start: int, nan: npt.NDArray[np.bool_]) -> str:
    return (
        f"Site {source.name!r} holds NaN at {nan.sum()} of its nodes {start} to {start + len(nan) - 1}, the first at "
        f"node {start + nan.argmax()}. A NaN has no place in an order or a mean: find out where the model makes it, or "
        "leave the site out with sites=."
    )
