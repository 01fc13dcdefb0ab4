"""What `measure_live` keeps of each site as the model runs, and of all sites together."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probekit._beats import current, working
from probekit._forward.site_plan import PlannedSite
from probekit._measure.accumulator import ACROSS, SITES, Accumulator, finalized, sites_results
from probekit._measure.durations import finalizing
from probekit._measure.from_sketch import errors_of, variables_of
from probekit._measure.gathered import Gathered, one_thread
from probekit._measure.metric_set import MetricSet
from probekit._measure.positions import all_said, positions_said
from probekit._measure.site_source import bounds_of
from probekit._probe.pooling import Reduced
from probekit._results.assemble import Labels, check
from probekit._store.layout import node_axis
from probekit.errors import DataError
from probekit.metrics import Metric, Spec, StreamingMetric, Variables
from probekit.metrics.block import working_dtype
from probekit.metrics.protocol import BATCH
from probekit.metrics.sketch import Sketch

__all__ = ["Measured", "Meter", "Together"]

Measured: TypeAlias = tuple[Variables, dict[str, Any]]

_STREAMED, _SKETCHED = 0.3, 0.7  # of the time that a site takes, and of what is then left; errors take the rest


class Meter:
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
        return Spec(self._nodes, classes, self._dtype, device, bounds_of(self._spec.attrs))

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
        metrics, columns = self.metrics.streaming("node", "site"), self.metrics.columns
        durations = finalizing(metrics, self.spec(labels.number, torch.device("cpu")), self._number)
        about = _numbers(self._number, labels) | {"activation_dtype": str(self._spec.dtype), "approximate": 0}
        if self._omitted:
            about["omitted"] = self._omitted
        found = dict[str, Measured]()
        with working(current().of(_STREAMED if columns else 1)):
            for m, variables in finalized(metrics, streaming.states, where, durations):
                found[m.name] = check(m, variables, labels, where, node=self._nodes), about | self._said(m)
        if columns:
            state = sketched.states["sketch"]
            with working(current().of(_SKETCHED)):
                of_columns = variables_of(columns, state, labels, self.name)
            errors = errors_of(columns, state, self.name)
            for metric in columns:
                found[metric.name] = of_columns[metric.name], about | self._said(metric) | errors[metric.name]
        return found

    def _said(self, metric: Metric) -> dict[str, str]:
        return positions_said(metric, self.positions, self.width, self._spec.attrs)


class Together:
    """All sites at once, for metrics that compare them."""

    def __init__(self, metrics: Sequence[StreamingMetric], meters: Sequence[Meter], pooling: str) -> None:
        self._metrics, self._meters, self._pooling = metrics, meters, pooling
        self._counted: Accumulator | None = None
        self._batch: dict[str, Tensor] = {}
        self._y = torch.empty(0)
        self._number = 0

    def add(self, meter: Meter, x: Tensor, y: Tensor) -> None:
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
            self._counted = Accumulator(self._metrics, specs, ACROSS)
        whole = ~torch.stack([one.isnan().any(1) for one in x]).any(0)
        self._number += int(whole.sum())
        self._counted.grow(classes)
        self._counted.update([one[whole] for one in x], self._y[whole])

    def results(self, labels: Labels) -> xr.Dataset:
        assert self._counted is not None
        self._counted.grow(labels.number)
        about: dict[str, Any] = _numbers(self._number, labels) | {"approximate": 0}
        about |= all_said([self._pooling], *(meter.width for meter in self._meters))
        names, lengths = [meter.name for meter in self._meters], dict.fromkeys(SITES, len(self._meters))
        specs = [meter.spec(labels.number, torch.device("cpu")) for meter in self._meters]
        streamed = finalized(
            self._metrics, self._counted.states, ACROSS, finalizing(self._metrics, specs, self._number)
        )
        found = {m.name: check(m, v, labels, ACROSS, **lengths) for m, v in streamed}
        return sites_results(self._metrics, found, names, labels, about)


def _numbers(observations: int, labels: Labels) -> dict[str, int]:
    """How many observations were measured, and how many classes; 0 where these aren't grouped."""
    return {"n": observations, "classes": labels.number if labels.values is not None else 0}
