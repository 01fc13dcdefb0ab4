"""Running metrics over a store: one plan for all of them, tasks on threads, one tree of results."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from probekit._bars import default
from probekit._files import local_path
from probekit._measure.accumulator import finalized, side_by_side, sites_results
from probekit._measure.default_metrics import default_metrics
from probekit._measure.executors import Executor, executor_for
from probekit._measure.grouping import Groups, Observations, Where, selected
from probekit._measure.metric_set import MetricSet, resolved
from probekit._measure.planner import Plan, plan_of
from probekit._measure.site_source import POSITIONS, Source, as_tree, find_sources
from probekit._measure.targets import targets_of
from probekit._measure.task_cache import TaskCache, key_of
from probekit._measure.tasks import Task, TaskResult, Work, at_site
from probekit._probe.selectors import Selector
from probekit._results.assemble import check, dataset_of, join
from probekit._results.files import write
from probekit._sizes import parse_size
from probekit._store.backend import backend_of
from probekit._store.store import open_record, read_record
from probekit._version import __version__
from probekit.errors import DataError, StoreError, check_choice, check_kind
from probekit.metrics import Metric, State, Variables
from probekit.progress import Progress

__all__ = ["NAN", "fitting_metrics", "measure"]

NAN = ("raise", "omit")
_STEPS = 100  # of a task, as progress counts them
# Attributes of a store that its results keep: what it holds the activations of, and the command that made it.
_CARRIED = (
    *("model_name", "model", "weights_from", "weights", "mode", "created"),
    *("data", "data_split", "data_limit", "preprocessing", "command"),
)


def measure(
    store: str | Path | xr.DataTree | xr.Dataset | xr.DataArray,
    metrics: str | Metric | Sequence[str | Metric] | None = None,
    *,
    sites: Selector | None = None,
    by: str | None = "label",
    where: Where | None = None,
    target: str | None = None,
    nan: Literal["raise", "omit"] = "raise",
    positions: Literal["mean", "max", "each"] = "mean",
    memory: str | int = "1GiB",
    out: str | Path | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> xr.DataTree:
    """The metrics of every site of a store: a tree with one group a site and a variable for each result.

    ``m["layers.0"]["median"]`` has the dims (label, node), the coordinates ``label`` and ``class_name``, and says in
    its attributes {metric, version, parameters, n, activation_dtype, approximate} what it is; what compares sites is at
    the root, such as ``m["cka"]`` (site, site_b). float16 is measured as float32, integers as float64. For feature maps
    the node is the channel, of tokens the feature. The numbers don't depend on `memory` or on the number of threads.

    Args:
        store: the path of a store, or an open one; or one site of it: ``tree["layers.0"]``, such a Dataset, or an array
            with the dims (sample, …) and its samples' columns as coordinates.
        metrics: names (``probekit metrics`` lists them), with parameters if need be (``"std:ddof=1"``,
            ``"quantile:0.25,0.75"``: Python literals, those without a key for the first parameter), instances such as
            ``pk.metrics.Std(ddof=1)``, functions under ``@pk.metric``; one or several. By default those that fit the
            store; the attributes ``default_metrics`` and ``left_out`` of the results say why each was measured or not.
        sites: a glob, a regex or a list of them; by default all sites.
        by: the column that groups the samples, a site's own where it has one; ``"correct"`` where there is a
            ``prediction`` beside the label; ``"target:5"`` for five ranges of the numbers in the column ``target``,
            each with as many samples. For None, and by default where there are no labels, all samples are one
            group, and the results have no dim `label`.
        where: which samples are measured: a mapping of columns to a value or several, ``{"label": [3, 5]}``, or a mask
            of bools, one a sample.
        target: the column of numbers, such as an age, that metrics of a continuous quantity need (``correlation``,
            ``ridge_probe``).
        nan: how to treat samples with a NaN at a site: ``"raise"`` an error, or ``"omit"`` these samples at that site,
            whose attribute `omitted` then counts them.
        positions: how to treat the positions of feature maps: take their ``"mean"`` or ``"max"``, or take ``"each"`` as
            an observation of its own.
        memory: the most memory that all threads together use for values of the store, and for states and tables of
            metrics; on a cluster, each thread. The results themselves come in addition.
        out: also write the results as a new zarr store, which appears whole or not at all. A measurement that was
            stopped resumes from its finished tasks when it is started again with the same arguments.
        scheduler: the address of a dask cluster's scheduler, such as ``"tcp://127.0.0.1:8786"``, whose workers, which
            must be able to read the store, then run the tasks; by default that of the active ``distributed.Client``,
            or threads of this process. The numbers are the same.
        progress: wraps the iterable of what is done, a hundred steps for each task; by default bars, see
            `probekit.options`. Ctrl-C ends a measurement at once.

    Raises:
        PluginError: an unknown metric, or one that fails or returns what it doesn't declare.
        SiteError: no site matches `sites`.
        DataError: NaN in the data, no column `by`, or no sample to measure.
        StoreError: no store at `store`, `out` exists or can't be written.
        ProbekitError: one node's samples, or what a metric needs, don't fit in `memory`. Nothing is read then.

    Example:
        >>> import numpy as np, xarray as xr, probekit as pk
        >>> columns = xr.Dataset(coords={"label": ("sample", [0, 0, 1])})
        >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[0.0, 2], [1, 4], [5, 0]]))})
        >>> m = pk.measure(xr.DataTree.from_dict({"/": columns, "relu": relu}), ["median", "sparsity"])
        >>> m["relu"]["median"].sel(label=0).values
        array([0.5, 3. ])
    """
    given = None if metrics is None else resolved(metrics)
    check_choice("nan", nan, NAN)
    check_choice("positions", positions, POSITIONS)
    check_kind("by", by, (str, NoneType), "the name of one column, or None")
    check_kind("target", target, (str, NoneType), "the name of one column, or None")
    check_kind("scheduler", scheduler, (str, NoneType), "the address of a dask cluster's scheduler, or None")
    shown = default(progress)
    store_at = None if out is None else local_path(out, "out", StoreError)
    with ExitStack() as stack:
        tree, identity = _opened(store)
        named = "the tree" if identity is None else str(store)
        sources = {source.key: source for source in find_sources(tree, sites, named, positions)}
        root = tree.to_dataset(inherit=False)
        rows, grouped = _rows(sources, root, by, where)
        reasons, left_out = ({}, {}) if given else _fitting(sources, rows, root, target)
        chosen = given or resolved(list(reasons))
        targets = targets_of(chosen, sources, rows, root, target)
        cache = None
        if store_at is not None:
            options = {"where": _plain(where), "by": by, "nan": nan, "positions": positions, "target": target}
            # Nobody can tell whether a tree in memory is the one that it was.
            key = None if identity is None else key_of(chosen, **identity, **options)
            cache = stack.enter_context(TaskCache(store_at, key))
        work = replace(_work(MetricSet(chosen), sources, rows, root, nan), targets=targets)
        workers = stack.enter_context(executor_for(scheduler))
        plan = plan_of(work.metrics, sources, work.rows, parse_size(memory), workers.parallel, workers.apart)
        done: dict[Task, TaskResult] = {}
        with closing(_steps(work, plan, workers, cache, done)) as steps:
            for _ in shown(steps, str(plan), _STEPS * len(plan.tasks)):
                pass
        results = _results(work, [(task, done[task]) for task in plan.tasks])
        results.attrs = {"probekit_version": __version__, "by": by if grouped else "none"}
        results.attrs |= {key: tree.attrs[key] for key in _CARRIED if key in tree.attrs}
        if given is None:
            results.attrs |= {"default_metrics": json.dumps(reasons), "left_out": json.dumps(left_out)}
        if target is not None:
            results.attrs["target"] = target
        if store_at is not None:
            write(results, store_at)
    return results


def fitting_metrics(
    tree: xr.DataTree, sites: Selector | None = None, named: str = "the tree"
) -> tuple[dict[str, str], dict[str, str]]:
    """The metrics that `measure` takes by default for an open store, and those that it leaves out, with the reasons.

    `named` is how errors name the store.
    """
    sources = {source.key: source for source in find_sources(tree, sites, named, "mean")}
    root = tree.to_dataset(inherit=False)
    return _fitting(sources, _rows(sources, root, "label", None)[0], root, None)


def _fitting(
    sources: Mapping[str, Source], rows: Mapping[str, Observations], root: xr.Dataset, target: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """The metrics that fit the store and those that were left out, with the reasons."""
    every = list(sources.values())
    return default_metrics(every, rows, next(_differences(every, root), None) is None, target)


def _opened(store: str | Path | xr.DataTree | xr.Dataset | xr.DataArray) -> tuple[xr.DataTree, dict[str, str] | None]:
    """An open store, and what tells it from others; None for a tree."""
    if isinstance(store, xr.DataTree | xr.Dataset | xr.DataArray):
        return as_tree(store), None
    expected = "the path of a store, an open one (a DataTree), or one site of it (a DataTree, Dataset or DataArray)"
    check_kind("store", store, (str, Path), expected)
    backend = backend_of(store)
    record = read_record(backend)
    return open_record(backend, record), {"record": record.dump().decode(), "url": backend.url}


def _plain(where: Where | None) -> Any:
    """The selection of samples as plain values."""
    return dict(where) if isinstance(where, Mapping) else None if where is None else np.asarray(where).tolist()


def _rows(
    sources: Mapping[str, Source], root: xr.Dataset, by: str | None, where: Where | None
) -> tuple[dict[str, Observations], bool]:
    """The observations of each site that are measured, and whether any of them are in groups."""
    alike: dict[object, Observations] = {}  # the same rows of several sites are put in order once
    rows: dict[str, Observations] = {}
    for key, source in sources.items():
        columns = source.columns(root)
        kind = source.each if columns.are_the_roots and source.real is None else key
        if kind not in alike:
            groups = Groups.of(columns, source.rows, by)
            alike[kind] = Observations.of(source, groups, selected(columns, source.rows, where))
        rows[key] = alike[kind]
    return rows, any(each.labels.values is not None for each in rows.values())


def _work(
    metrics: MetricSet, sources: Mapping[str, Source], rows: Mapping[str, Observations], root: xr.Dataset, nan: str
) -> Work:
    """The sites, metrics and observations that all tasks share."""
    common = _common(list(sources.values()), rows, root) if metrics.streaming("sites") else None
    if nan == "omit":
        faulty = {key: source.with_nan() for key, source in sources.items()}
        rows = {key: rows[key].without(faulty[key], source.name) for key, source in sources.items()}
        common = common and common.without(np.any(list(faulty.values()), axis=0), "all together")
    return Work(metrics, sources, rows, common)


def _common(sources: Sequence[Source], rows: Mapping[str, Observations], root: xr.Dataset) -> Observations:
    """The observations that all sites have; DataError where theirs aren't the same."""
    fault = next(_differences(sources, root), None)
    if fault is not None:
        raise DataError(
            f"Metrics that compare sites need the same observations of all of them, and {fault}. Choose sites that "
            "have a row for each sample (sites=), or measure positions='mean'.",
            arguments=("sites", "positions"),
        )
    return rows[sources[0].key]


def _differences(sources: Sequence[Source], root: xr.Dataset) -> Iterator[str]:
    """How the observations of sites differ, as clauses."""
    first, columns = sources[0], sources[0].columns(root)
    for source in sources:
        if source.tokens:
            yield f"site {source.name!r} has a row for each token"
        if source.each != first.each or not np.array_equal(_real(source), _real(first)):
            yield "the sites differ in their positions"
        if source.rows != first.rows:
            yield f"site {source.name!r} has {source.rows} samples, and site {first.name!r} {first.rows}"
        for column in source.columns(root).differing_from(columns):
            yield f"sites {first.name!r} and {source.name!r} differ in the {column!r} of their samples"


def _real(source: Source) -> npt.NDArray[np.bool_]:
    """Which observations are no padding; nothing where all are."""
    return np.empty(0, np.bool_) if source.real is None else source.real


def _steps(
    work: Work, plan: Plan, workers: Executor, cache: TaskCache | None, done: dict[Task, TaskResult]
) -> Generator[None]:
    """Do the tasks that aren't finished already, and put the results of all into `done`: `_STEPS` steps for each."""
    taken = dict.fromkeys(plan.tasks, 0)
    for task in plan.tasks:
        result = cache.find(task) if cache is not None else None
        if result is not None:
            done[task], taken[task] = result, _STEPS
            yield from repeat(None, _STEPS)
    for task, found in workers.run(work, [task for task in plan.tasks if task not in done], plan.parallel):
        steps = _STEPS
        if isinstance(found, TaskResult):
            if cache is not None:
                cache.keep(task, found)
            done[task] = found
        else:
            steps = min(int(found * _STEPS), _STEPS - 1)
        yield from repeat(None, steps - taken[task])
        taken[task] = max(steps, taken[task])


def _results(work: Work, done: Sequence[tuple[Task, TaskResult]]) -> xr.DataTree:
    """The tree of results, from those of the tasks in the order of the plan."""
    children = {key: _of_site(work, key, [each for each in done if each[0].site == key]) for key in work.sources}
    overall = [result for task, result in done if task.kind == "sites"]
    root = _of_sites(work, overall[0]) if overall else xr.Dataset()
    return xr.DataTree.from_dict({"/": root, **children})


def _of_site(work: Work, key: str, done: Sequence[tuple[Task, TaskResult]]) -> xr.Dataset:
    source, rows, metrics = work.sources[key], work.rows[key], work.metrics
    blocks = [result for task, result in done if task.kind in ("block", "select")]
    found: dict[str, Variables] = {}
    for task, result in done:
        found |= result.variables if task.kind in ("site", "samples") else {}
    found |= {
        metric.name: join(metric, [block.variables[metric.name] for block in blocks]) for metric in metrics.columns
    }
    streaming = metrics.streaming("node")
    if streaming and not metrics.streaming("site"):
        states = _joined([block.states for block in blocks])
        for metric, variables in finalized(streaming, states, at_site(source)):
            found[metric.name] = check(metric, variables, rows.labels, at_site(source), node=source.nodes)
    about = {"n": rows.number, "activation_dtype": str(source.variable.dtype), "approximate": 0}
    about |= {"omitted": rows.omitted} if rows.omitted else {}
    made = dataset_of([(m, found[m.name]) for m in metrics.metrics if m.name in found], rows.labels, lambda _: about)
    pooled = {"positions": f"{source.pooling} of {source.positions}"} if source.positions > 1 else {}
    return made.assign_attrs(source.attrs | {"site": source.name} | pooled)


def _joined(states: Sequence[Mapping[str, State]]) -> dict[str, State]:
    return {name: side_by_side([each[name] for each in states]) for name in states[0]}


def _of_sites(work: Work, result: TaskResult) -> xr.Dataset:
    """The results that compare sites, in the order of `work`."""
    assert work.common is not None
    names, about = [source.name for source in work.sources.values()], {"n": work.common.number, "approximate": 0}
    return sites_results(work.metrics.streaming("sites"), result.states, names, work.common.labels, about)
