"""Metrics of a model as it runs, without a store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from functools import partial
from types import NoneType
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from probekit._bars import default
from probekit._beats import in_turn
from probekit._data.batches import BATCH_SIZE, Batch, Batches, Rows, peek
from probekit._forward.early_stop import check_early_stop
from probekit._forward.forward_pass import ForwardPass
from probekit._forward.options import Loss, MaskChoice, Reset, RunOptions, SiteOptions
from probekit._forward.recorder import Recorder
from probekit._forward.sample_order import SampleOrder
from probekit._forward.site_plan import PlannedSite, SitePlan, plan_sites, require_model_order
from probekit._measure.from_sketch import warn_of_coarse_cells, without_bounds_of_nulls
from probekit._measure.live_memory import LiveMemory
from probekit._measure.live_meters import Measured, Meter, Together
from probekit._measure.measure import NAN
from probekit._measure.metric_set import MetricSet, resolved
from probekit._measure.positions import POSITIONS, all_said, by_pooling, warn_of_means
from probekit._measure.steps import STEPS, steps_of_jobs
from probekit._probe.hooks import probing
from probekit._probe.model_run import device_of, running
from probekit._probe.pooling import Reduced
from probekit._probe.reductions import Reduction
from probekit._probe.selectors import Selector
from probekit._results.assemble import Labels, NotGrouped, dataset_of
from probekit._results.missing import warn_of_missing
from probekit._store.layout import group_names
from probekit._version import __version__
from probekit.errors import DataError, PluginError, check_choice, check_kind
from probekit.metrics import Metric
from probekit.progress import Progress

__all__ = ["measure_live"]


def measure_live(
    model: nn.Module,
    data: Any,
    metrics: str | Metric | Sequence[str | Metric],
    *,
    sites: Selector = "**",
    exclude: Selector | None = None,
    reduce: Mapping[Any, Reduction] | Reduction | None = None,
    batch_dim: Mapping[Any, int] | int | None = None,
    node_dim: Mapping[Any, int] | int | None = None,
    mask: Mapping[Any, MaskChoice] | MaskChoice | None = None,
    mode: Literal["eval", "train", "as is"] = "eval",
    loss: Loss | None = None,
    reset: Reset | None = None,
    by: Literal["label"] | None = "label",
    nan: Literal["raise", "omit"] = "raise",
    positions: Literal["mean", "max", "each"] | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    labels: Any = None,
    keep_labels: bool = False,
    class_names: Sequence[str] | None = None,
    ignore_label: int | str | Collection[int | str] | None = None,
    rows: Rows | None = None,
    stop_early: bool = False,
    progress: Progress | None = None,
) -> xr.DataTree:
    """The metrics of every site while `model` runs over `data`, on its device: as `probekit.measure`, without a store.

    The memory doesn't depend on the number of samples. Streaming metrics agree with those of a store: counts exactly,
    moments to 1e-6. Column metrics, such as the median, are exact up to 8,195 samples per class. With more samples they
    are **approximate**: computed from the counts of a `probekit.metrics.sketch.Sketch`, whose cells follow the range of
    a node's values. Their attributes say so in `approximate`, and bound the error for the data that was measured, at
    the worst node. A median or quantile is within `value_error`, relative to a value, of one whose rank is within
    `rank_error`, a share of a class, of the exact one. AUROC, KS, overlap, entropy and mutual information are within
    `error_bound`, in their own unit, of the exact result. `cell_share` is the largest share of two classes that can't
    be told apart; a warning says where both are over 1 %, at `coarse_nodes` nodes.

    Args:
        model, data, sites, exclude, reduce, batch_dim, node_dim, mask, mode, loss, reset: as for `probekit.capture`.
        batch_size, workers, labels, keep_labels, class_names, ignore_label, rows: as for `probekit.capture`.
        stop_early: as for `probekit.capture`.
        metrics, nan, positions: as for `probekit.measure`.
        by: None takes all samples for one group. To group by something else than the label, say with `labels` where
            that is.
        progress: wraps the iterable of batches, and then that of steps in which the results follow, a hundred for each
            site; by default bars, see `probekit.options`.

    Raises:
        PluginError: an unknown metric, one that needs the samples more than once, or one that fails.
        SiteError, DataError, ModelError: as for `probekit.capture`; and NaN in an activation.

    Example:
        >>> import torch, probekit as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> x, y = torch.randn(100, 4), torch.arange(100) % 2
        >>> m = pk.measure_live(model, (x, y), ["std", "sparsity"], sites="1")
        >>> m["1"]["sparsity"].sizes
        Frozen({'label': 2, 'node': 3})
    """
    chosen = MetricSet(resolved(metrics), live=True)
    check_kind("by", by, (str, NoneType), "'label' or None")
    shown = default(progress)
    if by not in ("label", None):
        raise DataError(
            f"by is {by!r}; it is 'label' or None. To group by something else, say where that is with labels=.",
            arguments=("by", "labels"),
        )
    check_choice("nan", nan, NAN)
    if positions is not None:
        check_choice("positions", positions, POSITIONS)
    reading = [*chosen.samples, *chosen.comparing]
    if reading:
        raise PluginError(
            f"The metric {reading[0].name!r} reads the samples more than once, and a running model gives them "
            "once. Capture a store with probekit.capture, and measure that."
        )
    batches = Batches(
        data,
        batch_size=BATCH_SIZE if batch_size is None else batch_size,
        workers=workers,
        labels=labels,
        ids=False,
        keep_labels=keep_labels,
        class_names=class_names,
        ignore_label=ignore_label,
        rows=rows,
    )
    with torch.random.fork_rng(devices=()):  # a DataLoader draws from torch's generator when it begins
        first, stream = peek(batches)
    how = RunOptions(mode, loss, reset=reset, stop_early=stop_early)
    plan = plan_sites(model, first, SiteOptions(sites, exclude, reduce, batch_dim, node_dim, mask), how)
    if positions is None:
        warn_of_means(chosen.metrics, {site.name: site.spec.attrs for site in plan.sites})
    labelled = by is not None and first.labels is not None
    require_model_order(batches, plan, how)
    check_early_stop(model, first, plan, how)
    meters = _Meters(chosen, plan, positions, nan, labelled)
    memory = meters.memory(device_of(model) or torch.device("cpu"), batches.count)
    order = SampleOrder(meters.add, by_length=plan.by_length)
    recorder = Recorder(plan, order.add, stop_early=stop_early)
    forward = ForwardPass(model, how, plan.gradients, plan.writes_inputs)
    with running(model, mode), probing(model, plan.names, recorder) as probe:
        for number, batch in enumerate(shown(stream, "measure", batches.count)):
            meters.begin(batch)
            memory.check(meters.classes, batch.rows)
            for each in order.passes(batch):
                recorder.begin(each, number)
                forward.run(each, probe)
                recorder.end()
            meters.end()
    try:
        results = meters.results(batches.class_names or (), shown)
    except NotGrouped as error:
        why = (
            "by=None was given: leave it out" if by is None else "the data has no labels: say where they are (labels=)"
        )
        raise DataError(f"{error.fact}, since {why}.", arguments=("by",) if by is None else ("labels",)) from error
    warn_of_coarse_cells(results)
    warn_of_missing(results)
    results.attrs = {
        "probekit_version": __version__,
        "by": "label" if labelled else "none",
        "mode": mode,
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
    }
    return results


class _Meters:
    """The measurement of each site so far. `begin` a batch, `add` what the sites give, `end` it."""

    def __init__(self, metrics: MetricSet, plan: SitePlan, positions: str | None, nan: str, labelled: bool) -> None:
        self._metrics = metrics
        alike = by_pooling(metrics.metrics, positions)
        self._meters = {site.name: _meters(site, metrics, alike, nan == "omit") for site in plan.sites}
        self.classes, self._labelled = 0, labelled
        self._codes: dict[torch.device, Tensor] = {}
        self._together: dict[str, Together] = {}
        for pooling, those in alike.items():
            compared = MetricSet(those, live=True).streaming("sites")
            if compared:
                meters = [_seeing(meters, pooling) for meters in self._meters.values()]
                self._together[pooling] = Together(compared, meters, pooling)

    def memory(self, device: torch.device, batches: int | None) -> LiveMemory:
        specs = {name: partial(meters[0].spec, device=device) for name, meters in self._meters.items()}
        seen = {name: [(m.metrics, m.observed) for m in meters] for name, meters in self._meters.items()}
        return LiveMemory(self._metrics, device, specs, seen, batches)

    def begin(self, batch: Batch) -> None:
        codes = batch.labels if self._labelled and batch.labels is not None else np.zeros(batch.rows, np.int64)
        self._codes = {torch.device("cpu"): torch.from_numpy(codes)}
        self.classes = max(self.classes, int(codes.max(initial=0)) + 1)

    def add(self, name: str, reduced: Reduced) -> None:
        for meter in self._meters[name]:
            self._add(meter, reduced)

    def _add(self, meter: Meter, reduced: Reduced) -> None:
        x = meter.observations(reduced)
        if x.device not in self._codes:
            self._codes[x.device] = self._codes[torch.device("cpu")].to(x.device, non_blocking=True)
        y = self._codes[x.device]
        if reduced.sample is not None:
            y = y.index_select(0, reduced.sample.to(x.device))
        if x.shape[0] != y.shape[0]:
            y = y.repeat_interleave(x.shape[0] // y.shape[0])
        if reduced.real is not None and meter.positions == "each":
            real = reduced.real.on("given", x.device).flatten()
            x, y = x[real], y[real]
        meter.add(x, y, self.classes)
        for together in self._together.values():
            together.add(meter, x, y)

    def end(self) -> None:
        for together in self._together.values():
            together.end(self.classes)

    def results(self, class_names: Sequence[str], shown: Progress) -> xr.DataTree:
        """The tree of results; DataError where there was a NaN, or no sample."""
        classes = max(self.classes, len(class_names)) if self._labelled else 1
        names = (*class_names, *map(str, range(len(class_names), classes)))
        labels = Labels(np.arange(len(names)), names) if self._labelled else Labels(None, ("",))
        jobs: dict[tuple[str, str], Callable[[], xr.Dataset]] = {}
        jobs |= {("site", name): partial(self._of_site, meters, labels) for name, meters in self._meters.items()}
        jobs |= {("together", how): partial(each.results, labels) for how, each in self._together.items()}
        found: dict[tuple[str, str], xr.Dataset] = {}
        with closing(steps_of_jobs(jobs, dict.fromkeys(jobs, STEPS), found)) as steps:
            for _ in shown(steps, "results of the sites", STEPS * len(jobs)):
                pass
        groups = group_names(list(self._meters))  # as in a store, so that a slash in a name is no group of its own
        children = {groups[name]: found["site", name] for name in self._meters}
        compared = [found["together", how] for how in self._together]
        root = xr.merge(compared, combine_attrs="override") if compared else xr.Dataset()
        return xr.DataTree.from_dict({"/": root, **children})

    def _of_site(self, meters: Sequence[Meter], labels: Labels) -> xr.Dataset:
        found = dict[str, Measured]()
        for meter in in_turn(meters):
            found |= meter.results(labels)
        measured = [(metric, found[metric.name][0]) for metric in self._metrics.metrics if metric.name in found]
        made = without_bounds_of_nulls(dataset_of(measured, labels, lambda metric: found[metric.name][1]))
        return made.assign_attrs(meters[0].attrs | all_said([meter.positions for meter in meters], meters[0].width))


def _meters(site: PlannedSite, metrics: MetricSet, alike: Mapping[str, list[Metric]], omit: bool) -> list[Meter]:
    """What measures a site: for each way to see its positions, if it has any."""
    if Meter(site, metrics, "mean", omit).width == 1:
        return [Meter(site, metrics, "mean", omit)]
    return [Meter(site, MetricSet(those, live=True), pooling, omit) for pooling, those in alike.items()]


def _seeing(meters: Sequence[Meter], pooling: str) -> Meter:
    return next((meter for meter in meters if meter.positions == pooling), meters[0])
