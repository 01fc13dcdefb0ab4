"""Running metrics over a store: one plan for all of them, tasks on threads, one tree of results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from probekit import plugins
from probekit._measure.accumulator import finalized, side_by_side
from probekit._measure.executors import Scheduler, scheduler_of
from probekit._measure.grouping import Groups, Mask, Rows, Where, selected
from probekit._measure.planner import Plan, plan_of
from probekit._measure.site_source import POSITIONS, Source, find_sources
from probekit._measure.task_cache import Parts, key_of
from probekit._measure.tasks import Kinds, Piece, Task, Work, at_site
from probekit._probe.selectors import Selector
from probekit._results.assemble import check, dataset_of, join, sites_results, write
from probekit._sizes import parse_size
from probekit._store.backend import place_of
from probekit._store.store import open_store, read_record
from probekit._version import __version__
from probekit.errors import DataError, PluginError
from probekit.metrics import ColumnMetric, Metric, SampleMetric, State, StreamingMetric, Variables
from probekit.metrics.parameters import with_parameters
from probekit.progress import Progress, silent

__all__ = ["NAN", "check_choice", "measure", "resolved"]

NAN = ("raise", "omit")
_CARRIED = ("model", "weights", "mode", "created")  # attributes of a store that its results keep


def measure(
    store: str | Path | xr.DataTree,
    metrics: str | Metric | Sequence[str | Metric],
    *,
    sites: Selector | None = None,
    by: str | None = "label",
    where: Where | None = None,
    nan: Literal["raise", "omit"] = "raise",
    positions: Literal["mean", "max", "each"] = "mean",
    memory: str | int = "1GiB",
    out: str | Path | None = None,
    scheduler: str | None = None,
    progress: Progress = silent,
) -> xr.DataTree:
    """The metrics of every site of a store: a tree with one group a site and a variable for each result.

    ``m["layers.0"]["median"]`` has the dims (label, node), the coordinates ``label`` and ``class_name``, and says in
    its attributes {metric, version, parameters, n, dtype, approximate} what it is; what compares sites is at the root,
    such as ``m["cka"]`` (site, site_b). float16 is measured as float32, integers as float64. Of feature maps the node
    is the channel, of tokens the feature. The numbers don't depend on `memory` or on the number of threads.

    Args:
        store: the path of a store, or an open one.
        metrics: names (``probekit metrics`` lists them), with parameters if need be (``"std:ddof=1"``,
            ``"quantile:0.25,0.75"``: Python literals, those without a key for the first parameter), instances such as
            ``pk.metrics.Std(ddof=1)``, functions under ``@pk.metric``; one or several.
        sites: a glob, a regex or a list of them; by default all sites.
        by: the column that groups the samples; ``"correct"`` where there is a ``prediction`` beside the label. For
            None, and by default where there are no labels, all samples are one group, and the results have no dim
            `label`.
        where: which samples are measured: a mapping of columns to a value or several, ``{"label": [3, 5]}``, or a mask
            of bools, one a sample.
        nan: what becomes of samples with a NaN at a site: they ``"raise"`` an error, or ``"omit"`` leaves them out at
            that site, as a whole, and says in the attribute `omitted` how many they are.
        positions: what becomes of the positions of feature maps: their ``"mean"`` or ``"max"``, or ``"each"`` of them
            is an observation of its own.
        memory: the bound on what all threads together hold of the store; on a cluster, each thread.
        out: also write the results as a new zarr store, which appears whole or not at all. A measurement that was
            stopped goes on from its finished tasks when it is started again with the same arguments.
        scheduler: the address of a dask cluster's scheduler, such as ``"tcp://127.0.0.1:8786"``, whose workers, which
            must be able to read the store, then run the tasks; by default that of the active ``distributed.Client``,
            or threads of this process. The numbers are the same.
        progress: wraps the iterable of finished tasks.

    Raises:
        PluginError: an unknown metric, or one that fails or returns what it doesn't declare.
        SiteError: no site matches `sites`.
        DataError: NaN in the data, no column `by`, or no sample to measure.
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
    chosen = resolved(metrics)
    check_choice("nan", nan, NAN)
    check_choice("positions", positions, POSITIONS)
    with ExitStack() as stack:
        parts = None
        if out is not None:
            parts = Parts(Path(out), _key(chosen, store, where, by=by, nan=nan, positions=positions))
            stack.callback(parts.close)
        tree = store if isinstance(store, xr.DataTree) else open_store(store)
        named = "the tree" if isinstance(store, xr.DataTree) else str(store)
        sources = {source.key: source for source in find_sources(tree, sites, named, positions)}
        root = tree.to_dataset(inherit=False)
        groups = Groups.of(root, by)
        work = _work(Kinds(chosen), sources, groups, root, selected(root, where), nan)
        workers = stack.enter_context(scheduler_of(scheduler))
        plan = plan_of(work.kinds, sources, work.rows, parse_size(memory), workers.parallel, workers.apart)
        pieces = dict(progress(_pieces(work, plan, workers, parts), str(plan), len(plan.tasks)))
        results = _results(work, [(task, pieces[task]) for task in plan.tasks])
        results.attrs = {"probekit_version": __version__, "by": groups.by or "none"}
        results.attrs |= {key: tree.attrs[key] for key in _CARRIED if key in tree.attrs}
        if parts is not None and out is not None:
            write(results, Path(out))
    return results


def resolved(metrics: str | Metric | Sequence[str | Metric]) -> list[Metric]:
    """The metrics that are meant by names and objects, each once.

    Raises PluginError for what is no metric, and for one given twice.
    """
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
    if not isinstance(found, StreamingMetric | ColumnMetric | SampleMetric):
        raise PluginError(
            f"{given!r} is not a metric. Give a name, a function under @pk.metric, or an object with name, version, "
            "parameters and either compute(block), compute_samples(samples), or init, update, merge and finalize."
        )
    return found


def _named(given: str) -> object:
    """What is registered under a name, with the parameters that follow its colon, if any."""
    name, colon, parameters = given.partition(":")
    found: object = plugins.load(plugins.METRICS, name)
    return with_parameters(found, name, parameters) if colon else found


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raise DataError where the option `name` has a value that there isn't."""
    if value not in known:
        raise DataError(f"{name} is {value!r}; it is {', '.join(map(repr, known[:-1]))} or {known[-1]!r}.")


def _key(metrics: Sequence[Metric], store: str | Path | xr.DataTree, where: Where | None, **others: Any) -> str | None:
    """What finished tasks depend on; None for an open tree, of which nobody can tell whether it is the one it was."""
    if isinstance(store, xr.DataTree):
        return None
    place = place_of(store)
    chosen = dict(where) if isinstance(where, Mapping) else None if where is None else np.asarray(where).tolist()
    return key_of(metrics, record=read_record(place), url=place.url, where=chosen, **others)


def _work(
    kinds: Kinds, sources: Mapping[str, Source], groups: Groups, root: xr.Dataset, samples: Mask | None, nan: str
) -> Work:
    """What all tasks share, once it is known which observations of each site are measured."""
    alike: dict[object, Rows] = {}  # the same rows of several sites are put in order once
    rows: dict[str, Rows] = {}
    for key, source in sources.items():
        kind = key if source.tokens else source.each
        rows[key] = alike.get(kind) or alike.setdefault(kind, Rows.of(source, groups, samples, root))
    common = _common(list(sources.values()), rows) if kinds.streaming("sites") else None
    if nan == "omit":
        faulty = {key: source.with_nan() for key, source in sources.items()}
        rows = {key: rows[key].without(faulty[key], source.name) for key, source in sources.items()}
        common = common and common.without(np.any(list(faulty.values()), axis=0), "all together")
    return Work(kinds, sources, rows, common)


def _common(sources: Sequence[Source], rows: Mapping[str, Rows]) -> Rows:
    """The observations that all sites have; DataError where theirs aren't the same."""
    tokens = [source.name for source in sources if source.tokens]
    if tokens or len({source.each for source in sources}) > 1:
        raise DataError(
            "Metrics that compare sites need the same observations of all of them, and "
            + (f"site {tokens[0]!r} has a row for each token." if tokens else "the sites differ in their positions.")
            + " Choose sites that have a row for each sample with sites=, or measure positions by their 'mean'."
        )
    return rows[sources[0].key]


def _pieces(work: Work, plan: Plan, workers: Scheduler, parts: Parts | None) -> Iterator[tuple[Task, Piece]]:
    """Every task with its piece: those that are finished already, then the others."""
    todo = []
    for task in plan.tasks:
        piece = parts.find(task) if parts is not None else None
        if piece is None:
            todo.append(task)
        else:
            yield task, piece
    for task, piece in workers.run(work, todo, plan.parallel):
        if parts is not None:
            parts.keep(task, piece)
        yield task, piece


def _results(work: Work, pieces: Sequence[tuple[Task, Piece]]) -> xr.DataTree:
    """The tree of results, from the pieces in the order of the plan."""
    children = {key: _of_site(work, key, [part for part in pieces if part[0].site == key]) for key in work.sources}
    overall = [piece for task, piece in pieces if task.kind == "sites"]
    root = _of_sites(work, overall[0]) if overall else xr.Dataset()
    return xr.DataTree.from_dict({"/": root, **children})


def _of_site(work: Work, key: str, pieces: Sequence[tuple[Task, Piece]]) -> xr.Dataset:
    source, rows, kinds = work.sources[key], work.rows[key], work.kinds
    blocks = [piece for task, piece in pieces if task.kind in ("block", "select")]
    whole = [piece for task, piece in pieces if task.kind == "site"]
    found: dict[str, Variables] = {}
    for task, piece in pieces:
        found |= piece.variables if task.kind == "samples" else {}
    found |= {metric.name: join(metric, [block.variables[metric.name] for block in blocks]) for metric in kinds.columns}
    streaming = kinds.streaming("node", "site") if whole else kinds.streaming("node")
    if streaming:
        states = whole[0].states if whole else _joined([block.states for block in blocks])
        for metric, variables in finalized(streaming, states, at_site(source)):
            found[metric.name] = check(metric, variables, rows.labels, at_site(source), node=source.nodes)
    about = {"n": rows.number, "dtype": str(source.variable.dtype), "approximate": 0}
    about |= {"omitted": rows.omitted} if rows.omitted else {}
    made = dataset_of([(m, found[m.name]) for m in kinds.metrics if m.name in found], rows.labels, lambda _: about)
    pooled = {"positions": f"{source.pooling} of {source.positions}"} if source.positions > 1 else {}
    return made.assign_attrs(source.attrs | {"site": source.name} | pooled)


def _joined(states: Sequence[Mapping[str, State]]) -> dict[str, State]:
    return {name: side_by_side([each[name] for each in states]) for name in states[0]}


def _of_sites(work: Work, piece: Piece) -> xr.Dataset:
    """What compares the sites, in the order of `work`."""
    assert work.common is not None
    names, about = [source.name for source in work.sources.values()], {"n": work.common.number, "approximate": 0}
    return sites_results(work.kinds.streaming("sites"), piece.states, names, work.common.labels, about)
