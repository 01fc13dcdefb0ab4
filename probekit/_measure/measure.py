"""Running metrics over a store: one plan for all of them, tasks on threads, one tree of results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import numpy as np
import xarray as xr

from probekit._bars import default
from probekit._files import local_path
from probekit._measure.default_metrics import default_metrics
from probekit._measure.executors import executor_for
from probekit._measure.grouping import Observations, Where
from probekit._measure.metric_set import MetricSet, needs_target, resolved
from probekit._measure.observed import Observed, differences
from probekit._measure.plans import plans_of
from probekit._measure.positions import POSITIONS, merged, parts_of, warn_of_means
from probekit._measure.resampling.balance import Balance
from probekit._measure.resampling.planning import repeats_of, seeing_labels
from probekit._measure.resampling.settings import Resampling
from probekit._measure.site_source import Source, as_tree, find_sources
from probekit._measure.steps import Part, number_of_steps, steps_of
from probekit._measure.targets import check_finite, targets_of
from probekit._measure.task_cache import TaskCache, key_of
from probekit._measure.tasks import Work
from probekit._measure.units import check_units, check_use, units_of
from probekit._probe.selectors import Selector
from probekit._results.files import write
from probekit._results.missing import warn_of_missing
from probekit._sizes import format_size, parse_size
from probekit._store.backend import backend_of
from probekit._store.store import open_record, read_record
from probekit._version import __version__
from probekit.errors import StoreError, check_choice, check_kind
from probekit.metrics import Metric
from probekit.progress import Progress, silent

__all__ = ["NAN", "fitting_metrics", "measure"]

NAN = ("raise", "omit")
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
    positions: Literal["mean", "max", "each"] | None = None,
    null: Literal["permute"] | None = None,
    ci: Literal["bootstrap", "jackknife"] | None = None,
    repeats: int = 200,
    confidence: float = 0.95,
    within: str | None = None,
    together: str | None = None,
    balance: bool = False,
    seed: int = 0,
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

    **A null** tells what a metric gives where labels mean nothing: with ``null="permute"`` every metric that depends on
    the labels is measured again with shuffled ones, `repeats` times, and a variable ``v`` has beside it ``v_null`` and
    ``v_null_std``, the mean and the standard deviation of the shuffles; ``v_p``, the two-sided p-value, which is twice
    the smaller tail (1 + shuffles at least, or at most, as large) / (1 + repeats); and ``v_q``, the p-values adjusted
    over the nodes of the site, for each class by itself (Benjamini and Hochberg 1995). The least p is
    2 / (1 + repeats), so many nodes ask for more repeats. The one number that stands for a site in `probekit.summary`
    has its own: ``v_null_site``, ``v_null_std_site``, ``v_p_site``; of a variable that compares sites they are of the
    mean over the other sites, (site,). Where the headline describes each class by itself,
    as `mean` does, and no value says nothing, there is ``v_p_site`` alone: of the standard deviation over the classes,
    whether they differ, since the mean over the classes is about the same for any labels. Pairs of classes have none:
    select two classes with `where`. A metric of a `target` has it shuffled instead of the labels. What is corrected as
    if rows were independent has a ``v_null`` unasked where they aren't, as tokens of a sample or rows that belong
    `together`: the mean of ten shuffles of the headline's variable, if the metric has a fast way to shuffle.

    **An interval**, ``v_low`` to ``v_high``, and ``v_low_site`` to ``v_high_site``, says how a variable varies over
    samples. ``ci="bootstrap"`` draws samples with replacement within their class, `repeats` times; the interval is
    Student's t by the draws' deviation, moved by the bias that they show where it exceeds a quarter of that (Efron and
    Tibshirani 1993, sections 10.3 and 12). ``ci="jackknife"`` leaves out blocks of samples, up to `repeats` and no more
    than the root of the samples (Shao and Wu 1989). Metrics that mustn't see a sample twice (trained probes,
    neighbours, comparisons of sites, `overlap` and others that count cells, spectra) always have the jackknife; medians
    and quantiles, which it doesn't serve, always the bootstrap; `linear_probe` a formula of its own, without repeats;
    histograms and extremes none. The attribute `ci` of a
    variable says which. An interval ends where estimates do, such as a share at 0 and 1, the mean of a ReLU at 0; what
    is corrected for chance isn't confined. The degrees of freedom of a class's variables are those of its own samples.
    An interval is NaN for a class of one sample, where some repeat gave no number, and where a metric needs more
    classes for it (`rsa` four); the attribute `no_interval` says why.

    Rows of one sample keep one label and are drawn together.

    Args:
        store: the path of a store, or an open one; or one site of it: ``tree["layers.0"]``, such a Dataset, or an array
            with the dims (sample, …) and its samples' columns as coordinates.
        metrics: names (``probekit metrics`` lists them), with parameters if need be (``"std:ddof=1"``,
            ``"quantile:0.25,0.75"``: Python literals, those without a key for the first parameter), instances such as
            ``pk.metrics.Std(ddof=1)``, functions under ``@pk.metric``; one or several. By default those that fit the
            store; the attributes ``default_metrics`` and ``left_out`` of the results say why each was measured or not.
        sites: a glob, a regex or a list of them; by default all sites.
        by: the column that groups the samples, a site's own where it has one; ``"correct"`` where there is a
            ``prediction`` beside the label; ``"target:5"`` for five ranges of the numbers that the selected samples
            have in the column ``target``, each with as many samples. Samples that share a value share a range; where
            one range would get more than twice as many as another, that is an error. For None, and by default where
            there are no labels, all samples are one group, and the results have no dim `label`.
        where: which samples are measured: a mapping of columns to a value or several, ``{"label": [3, 5]}``, or a mask
            of bools, one a sample.
        target: the column of numbers, such as an age, that metrics of a continuous quantity need (``correlation``,
            ``ridge_probe``).
        nan: how to treat samples with a NaN at a site: ``"raise"`` an error, or ``"omit"`` these samples at that site,
            whose attribute `omitted` then counts them.
        positions: how to treat the positions of feature maps: take their ``"mean"`` or ``"max"``, or take ``"each"`` as
            an observation of its own. By default each metric's own way: ``"each"`` for those that count how often a
            node is on or how its activation is shared out, such as ``sparsity``, ``dead`` and ``saturation``, else
            the ``"mean"``. The attribute `positions` of each variable says it, also where the capture pooled them.
        null: ``"permute"`` for the null of shuffled labels.
        ci: ``"bootstrap"`` or ``"jackknife"`` for intervals.
        repeats: how often labels are shuffled and samples drawn.
        confidence: of the intervals.
        within: a column; labels are shuffled, and samples drawn, among those that have the same value in it, such as a
            speaker or a session.
        together: a column; rows with the same value in it keep one label, and are drawn, left out or held out as one,
            such as the samples of a patient. By default the rows of a sample; ``"row"`` takes each row by itself, but
            for what a probe holds out. The attribute `together` of the results says it.
        balance: take as many samples of every class as the smallest has, drawn by `seed`, after those that `nan` leaves
            out; the attribute `balanced` of the results says how many at each site.
        seed: of the shuffles and draws, on which they depend alone.
        memory: the most memory that all threads together use for values of the store, and for states and tables of
            metrics; on a cluster, each thread. The results themselves come in addition.
        out: also write the results as a new zarr store, which appears whole or not at all. A measurement that was
            stopped resumes from its finished tasks when it is started again with the same arguments.
        scheduler: the address of a dask cluster's scheduler, such as ``"tcp://127.0.0.1:8786"``, whose workers, which
            must be able to read the store, then run the tasks; by default that of the active ``distributed.Client``,
            or threads of this process. The numbers are the same.
        progress: wraps the iterable of what is done, a hundred steps for each task and some for what follows, in
            proportion to the time that both take, about; by default bars, see `probekit.options`. A step may take long
            where a library can't say how far it is, as with the eigenvalues of a large table. Ctrl-C ends a measurement
            at once.

    Raises:
        PluginError: an unknown metric, or one that fails or returns what it doesn't declare.
        SiteError: no site matches `sites`.
        DataError: NaN in the data, no column `by`, or no sample to measure; or labels that can't be shuffled.
        StoreError: no store at `store`, `out` exists or can't be written.
        ProbekitError: one node's samples, or what a metric needs, don't fit in `memory`. Nothing is read then.

    Example:
        >>> import numpy as np, xarray as xr, probekit as pk
        >>> columns = xr.Dataset(coords={"label": ("sample", [0, 0, 1])})
        >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[0.0, 2], [1, 4], [5, 0]]))})
        >>> m = pk.measure(xr.DataTree.from_dict({"/": columns, "relu": relu}), ["median", "sparsity"])
        >>> m["relu"]["median"].sel(label=0).values
        array([0.5, 3. ])
        >>> x, y = np.random.default_rng(0).normal(size=(90, 3)), np.arange(90) % 3
        >>> x[:, 2] += y
        >>> site = xr.Dataset({"activation": (("sample", "node"), x)}, {"label": ("sample", y)})
        >>> m = pk.measure(site, "fisher", null="permute", ci="bootstrap")
        >>> (m["activation"]["fisher_q"] < 0.05).values
        array([False, False,  True])
    """
    resampling = Resampling(null, ci, repeats, seed, confidence, within, together)
    given = None if metrics is None else resolved(metrics)
    check_choice("nan", nan, NAN)
    if positions is not None:
        check_choice("positions", positions, POSITIONS)
    check_kind("by", by, (str, NoneType), "the name of one column, or None")
    check_kind("target", target, (str, NoneType), "the name of one column, or None")
    check_kind("balance", balance, bool, "True or False")
    check_kind("scheduler", scheduler, (str, NoneType), "the address of a dask cluster's scheduler, or None")
    shown = default(progress)
    store_at = None if out is None else local_path(out, "out", StoreError)
    with ExitStack() as stack:
        tree, identity = _opened(store)
        named = "the tree" if identity is None else str(store)
        sources = {source.key: source for source in find_sources(tree, sites, named, positions or "mean")}
        root = tree.to_dataset(inherit=False)
        of_balance = Balance(together, seed) if balance else None
        observed = Observed(root, by, where, nan == "omit", of_balance)
        grouped = any(rows.labels.values is not None for rows in observed.selected(sources).values())
        reasons, left_out = ({}, {}) if given else _fitting(sources, observed.of_each(sources), root, target)
        chosen = given or resolved(list(reasons))
        if positions is None:
            warn_of_means(chosen, {source.name: source.attrs for source in sources.values()})
        targets, units = targets_of(chosen, sources, root, target), units_of(chosen, sources, root, together)
        cache = None
        if store_at is not None:
            options = {"where": _plain(where), "by": by, "nan": nan, "positions": positions, "target": target}
            options |= {"resampling": asdict(resampling), "balance": balance}
            # Nobody can tell whether a tree in memory is the one that it was.
            key = None if identity is None else key_of(chosen, **identity, **options)
            cache = stack.enter_context(TaskCache(store_at, key))
        workers = stack.enter_context(executor_for(scheduler))
        seeing = seeing_labels(resampling, chosen, _measured_alone)
        works: list[Work] = []
        for of_metrics, seen in parts_of(chosen, sources, positions):
            work = _work(MetricSet(of_metrics), seen, observed)
            check_units(units, of_metrics, seen, work.rows, together)
            if any(map(needs_target, of_metrics)):
                check_finite(targets, seen, work.rows, target)
            work = replace(work, targets=targets, units=units)
            works.append(replace(work, repeats=repeats_of(resampling, seeing, work, root)))
        check_use(together, chosen, bool(null or ci or balance) or any(work.repeats for work in works))
        plans = plans_of(works, parse_size(memory), workers)
        parts = [Part(work, plan) for work, plan in zip(works, plans, strict=True)]
        most = max((part.plan for part in parts), key=lambda plan: plan.passes)
        named = f"{most} ({format_size(sum(source.variable.nbytes for source in sources.values()))})"
        found: dict[int, dict[str, xr.Dataset]] = {}
        with closing(steps_of(parts, workers, cache, found)) as steps:
            for _ in shown(steps, named, number_of_steps(parts)):
                pass
        results = merged([*found.values()], chosen, sources)
        results.attrs = {"probekit_version": __version__, "by": by if grouped else "none"}
        results.attrs |= {key: tree.attrs[key] for key in _CARRIED if key in tree.attrs}
        if given is None:
            results.attrs |= {"default_metrics": json.dumps(reasons), "left_out": json.dumps(left_out)}
        if target is not None:
            results.attrs["target"] = target
        if together is not None:
            results.attrs["together"] = together
        if balance:
            results.attrs |= {"balanced": json.dumps(_balanced(works)), "balanced_by_seed": seed}
        if store_at is not None:
            write(results, store_at)
    warn_of_missing(results)
    return results


def _measured_alone(tree: xr.DataTree, metric: Metric) -> xr.DataTree:
    return measure(tree, metric, progress=silent)


def fitting_metrics(
    tree: xr.DataTree, sites: Selector | None = None, named: str = "the tree"
) -> tuple[dict[str, str], dict[str, str]]:
    """The metrics that `measure` takes by default for an open store, and those that it leaves out, with the reasons.

    `named` is how errors name the store.
    """
    sources = {source.key: source for source in find_sources(tree, sites, named, "mean")}
    root = tree.to_dataset(inherit=False)
    return _fitting(sources, Observed(root, "label").selected(sources), root, None)


def _fitting(
    sources: Mapping[str, Source], rows: Mapping[str, Observations], root: xr.Dataset, target: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """The metrics that fit the store and those that were left out, with the reasons."""
    every = list(sources.values())
    return default_metrics(every, rows, next(differences(every, root), None) is None, target)


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


def _work(metrics: MetricSet, sources: Mapping[str, Source], observed: Observed) -> Work:
    """The sites, metrics and observations that all tasks share."""
    common = observed.common(list(sources.values())) if metrics.of_sites else None
    return Work(metrics, sources, observed.of_each(sources), common)


def _balanced(works: Sequence[Work]) -> dict[str, int]:
    """How many samples of each class were taken at each site, also for each way to see positions if that differs."""
    found: dict[str, dict[str, int]] = {}
    for work in works:
        for key, source in work.sources.items():
            found.setdefault(source.name, {})[source.pooling] = work.rows[key].of_class or 0
    return {
        site if len({*numbers.values()}) == 1 else f"{site} (positions: {pooling})": number
        for site, numbers in found.items()
        for pooling, number in numbers.items()
    }
