"""Metrics of a model as it runs, without a store."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from math import prod
from types import NoneType
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from probekit._bars import default
from probekit._data.batches import BATCH_SIZE, Batch, Batches, Rows, peek
from probekit._forward.early_stop import check_early_stop
from probekit._forward.forward_pass import ForwardPass
from probekit._forward.options import Loss, MaskChoice, Reset, RunOptions, SiteOptions
from probekit._forward.recorder import Recorder
from probekit._forward.sample_order import SampleOrder
from probekit._forward.site_plan import PlannedSite, SitePlan, plan_sites, require_model_order
from probekit._measure.accumulator import Accumulator, finalized, sites_results
from probekit._measure.from_sketch import errors_of, variables_of, warn_of_coarse_cells, without_bounds_of_nulls
from probekit._measure.gathered import Gathered, one_thread
from probekit._measure.live_memory import LiveMemory
from probekit._measure.measure import NAN
from probekit._measure.metric_set import MetricSet, resolved
from probekit._measure.positions import POSITIONS, all_said, by_pooling, positions_said, warn_of_means
from probekit._measure.site_source import bounds_of
from probekit._probe.hooks import probing
from probekit._probe.model_run import device_of, running
from probekit._probe.pooling import Reduced
from probekit._probe.reductions import Reduction
from probekit._probe.selectors import Selector
from probekit._results.assemble import Labels, check, dataset_of
from probekit._results.missing import warn_of_missing
from probekit._store.layout import group_names, node_axis
from probekit._version import __version__
from probekit.errors import DataError, PluginError, check_choice, check_kind
from probekit.metrics import Metric, Spec, StreamingMetric, Variables
from probekit.metrics.block import working_dtype
from probekit.metrics.protocol import BATCH
from probekit.metrics.sketch import Sketch
from probekit.progress import Progress

__all__ = ["measure_live"]

Measured: TypeAlias = tuple[Variables, dict[str, Any]]


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
        progress: wraps the iterable of batches; by default bars, see `probekit.options`.

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
    results = meters.results(batches.class_names or ())
    warn_of_coarse_cells(results)
    warn_of_missing(results)
    results.attrs = {"probekit_version": __version__, "by": "label" if labelled else "none", "mode": mode}
    results.attrs["model"] = f"{type(model).__module__}.{type(model).__qualname__}"
    return results


class _Meters:
    """The measurement of each site so far. `begin` a batch, `add` what the sites give, `end` it."""

    def __init__(self, metrics: MetricSet, plan: SitePlan, positions: str | None, nan: str, labelled: bool) -> None:
        self._metrics = metrics
        alike = by_pooling(metrics.metrics, positions)
        self._meters = {site.name: _meters(site, metrics, alike, nan == "omit") for site in plan.sites}
        self.classes, self._labelled = 0, labelled
        self._codes: dict[torch.device, Tensor] = {}
        self._together: dict[str, _Together] = {}
        for pooling, those in alike.items():
            compared = MetricSet(those, live=True).streaming("sites")
            if compared:
                meters = [_seeing(meters, pooling) for meters in self._meters.values()]
                self._together[pooling] = _Together(compared, meters, pooling)

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

    def _add(self, meter: _Meter, reduced: Reduced) -> None:
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

    def results(self, class_names: Sequence[str]) -> xr.DataTree:
        """The tree of results; DataError where there was a NaN, or no sample."""
        classes = max(self.classes, len(class_names)) if self._labelled else 1
        names = (*class_names, *map(str, range(len(class_names), classes)))
        labels = Labels(np.arange(len(names)), names) if self._labelled else Labels(None, ("",))
        groups = group_names(list(self._meters))  # as in a store, so that a slash in a name is no group of its own
        children = {groups[name]: self._of_site(meters, labels) for name, meters in self._meters.items()}
        compared = [together.results(labels) for together in self._together.values()]
        root = xr.merge(compared, combine_attrs="override") if compared else xr.Dataset()
        return xr.DataTree.from_dict({"/": root, **children})

    def _of_site(self, meters: Sequence[_Meter], labels: Labels) -> xr.Dataset:
        found = dict[str, Measured]()
        for meter in meters:
            found |= meter.results(labels)
        measured = [(metric, found[metric.name][0]) for metric in self._metrics.metrics if metric.name in found]
        made = without_bounds_of_nulls(dataset_of(measured, labels, lambda metric: found[metric.name][1]))
        return made.assign_attrs(meters[0].attrs | all_said([meter.positions for meter in meters], meters[0].width))


def _meters(site: PlannedSite, metrics: MetricSet, alike: Mapping[str, list[Metric]], omit: bool) -> list[_Meter]:
    """What measures a site: for each way to see its positions, if it has any."""
    if _Meter(site, metrics, "mean", omit).width == 1:
        return [_Meter(site, metrics, "mean", omit)]
    return [_Meter(site, MetricSet(those, live=True), pooling, omit) for pooling, those in alike.items()]


def _seeing(meters: Sequence[_Meter], pooling: str) -> _Meter:
    return next((meter for meter in meters if meter.positions == pooling), meters[0])


class _Meter:
    """One site; `device` is where its activations lie."""

    def __init__(self, site: PlannedSite, metrics: MetricSet, positions: str, omit: bool) -> None:
        self.name, self._spec = site.name, site.spec
        self.metrics, self.positions, self._omit = metrics, positions, omit
        self._axis = 1 + node_axis(self._spec.dims) if self._spec.shape else None
        self._nodes = self._spec.shape[self._axis - 1] if self._axis else 1
        self.width = prod(self._spec.shape) // max(1, self._nodes)  # positions of a row
        self._dtype = torch.float32 if working_dtype(self._spec.dtype) == np.float32 else torch.float64
        self._counted: list[Accumulator] = []
        self._gathered = Gathered(self._nodes, self._dtype)
        self._nan = torch.zeros((), dtype=torch.bool)  # soon on the device: to ask for its value would wait for it
        self._number = self._omitted = 0

    def observations(self, reduced: Reduced) -> Tensor:
        """The observations (observation, node) of the rows that the site gave; each position with its padding."""
        tensor = reduced.tensor
        if self._axis is None:
            return tensor[:, None].to(self._dtype)
        moved = tensor.movedim(self._axis, 1)
        if moved.dim() == 2:
            return moved.to(self._dtype)
        values = moved.flatten(2)
        if self.positions == "each":
            return values.transpose(1, 2).reshape(-1, self._nodes).to(self._dtype)
        if reduced.real is None or not reduced.real.padded:
            pooled = values.amax(2) if self.positions == "max" else values.mean(2, dtype=torch.float64)
            return pooled.to(self._dtype)
        padding = ~reduced.real.on("given", values.device)[:, None]
        if self.positions == "max":
            wide = values if values.is_floating_point() else values.double()
            return wide.masked_fill(padding, -torch.inf).amax(2).to(self._dtype)
        sums = values.masked_fill(padding, 0).sum(2, dtype=torch.float64)
        return (sums / reduced.real.on("lengths", values.device)[:, None]).to(self._dtype)

    @property
    def observed(self) -> int:
        """Observations of a row."""
        return self.width if self.positions == "each" else 1

    @property
    def attrs(self) -> dict[str, Any]:
        return dict(self._spec.attrs) | {"site": self.name}

    def spec(self, classes: int, device: torch.device) -> Spec:
        attrs = self._spec.attrs
        return Spec(self._nodes, classes, self._dtype, device, bounds_of(str(attrs["type"]), str(attrs["kind"])))

    def add(self, x: Tensor, y: Tensor, classes: int) -> None:
        if not self._counted:
            spec, where = self.spec(classes, x.device), f"at site {self.name!r}"
            sketched = [Sketch()] if self.metrics.columns else []
            self._counted = [Accumulator(m, spec, where) for m in (self.metrics.streaming("node", "site"), sketched)]
        if not self._gathered.add(x, y):
            self._update_gathered(classes)
            if not self._gathered.add(x, y):
                self._update(x, y, classes)

    def _update_gathered(self, classes: int) -> None:
        with one_thread():
            self._update(*self._gathered.take(), classes)

    def _update(self, x: Tensor, y: Tensor, classes: int) -> None:
        x, y = self._without_nan(x, y)
        self._number += len(x)
        rows = BATCH if x.device.type == "cpu" else max(1, len(x))
        for counted in self._counted:
            counted.grow(classes)
            for start in range(0, len(x), rows):
                counted.update(x[start : start + rows], y[start : start + rows])

    def _without_nan(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if not self._omit:
            if x.numel():
                self._nan = self._nan.to(x.device) | x.amin().isnan()
            return x, y
        whole = ~x.isnan().any(1)
        kept = x[whole]
        self._omitted += len(x) - len(kept)
        return kept, y[whole]

    def results(self, labels: Labels) -> dict[str, Measured]:
        """The variables of each metric, with the attributes that they have beside the metric's own."""
        where, (streaming, sketched) = f"at site {self.name!r}", self._counted
        self._update_gathered(labels.number)
        if self._nan:
            raise DataError(
                f"Site {self.name!r} gave NaN, which has no place in an order or a mean. Find out where the model "
                "makes it, leave the site out with exclude=, or the samples with nan='omit'.",
                arguments=("exclude", "nan"),
            )
        if not self._number:
            raise DataError(f"Site {self.name!r}: all {self._omitted} observations hold a NaN, so nothing is measured.")
        streamed = finalized(self.metrics.streaming("node", "site"), streaming.states, where)
        about = {"n": self._number, "activation_dtype": str(self._spec.dtype), "approximate": 0}
        about |= {"omitted": self._omitted} if self._omitted else {}
        found = {m.name: (check(m, v, labels, where, node=self._nodes), about | self._said(m)) for m, v in streamed}
        if self.metrics.columns:
            columns, state = self.metrics.columns, sketched.states["sketch"]
            variables, errors = variables_of(columns, state, labels, self.name), errors_of(columns, state, self.name)
            for metric in columns:
                found[metric.name] = variables[metric.name], about | self._said(metric) | errors[metric.name]
        return found

    def _said(self, metric: Metric) -> dict[str, str]:
        return positions_said(metric, self.positions, self.width, self._spec.attrs)


class _Together:
    """All sites at once, for metrics that compare them."""

    def __init__(self, metrics: Sequence[StreamingMetric], meters: Sequence[_Meter], pooling: str) -> None:
        self._metrics, self._meters, self._pooling = metrics, meters, pooling
        self._counted: Accumulator | None = None
        self._batch: dict[str, Tensor] = {}
        self._y = torch.empty(0)
        self._number = 0

    def add(self, meter: _Meter, x: Tensor, y: Tensor) -> None:
        if meter in self._meters:
            self._batch[meter.name], self._y = x.clone(), y  # a later layer may work in place

    def end(self, classes: int) -> None:
        x = [self._batch[meter.name] for meter in self._meters]
        lengths = {meter.name: len(one) for meter, one in zip(self._meters, x, strict=True)}
        if len(set(lengths.values())) > 1:
            raise DataError(
                f"Metrics that compare sites need the same observations of all of them; here they are {lengths}. "
                "Choose sites that give one row per sample (sites=).",
                arguments=("sites",),
            )
        if self._counted is None:
            specs = [meter.spec(classes, one.device) for meter, one in zip(self._meters, x, strict=True)]
            self._counted = Accumulator(self._metrics, specs, "over the sites")
        whole = ~torch.stack([one.isnan().any(1) for one in x]).any(0)
        self._number += int(whole.sum())
        self._counted.grow(classes)
        self._counted.update([one[whole] for one in x], self._y[whole])

    def results(self, labels: Labels) -> xr.Dataset:
        assert self._counted is not None
        self._counted.grow(labels.number)
        about: dict[str, Any] = {"n": self._number, "approximate": 0}
        about |= all_said([self._pooling], *(meter.width for meter in self._meters))
        names = [meter.name for meter in self._meters]
        return sites_results(self._metrics, self._counted.states, {}, names, labels, about)
