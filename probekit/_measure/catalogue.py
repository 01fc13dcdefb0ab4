"""A description of each installed metric: how it sees the samples, and which shapes it gives."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr

from probekit import plugins
from probekit._measure.accumulator import scope_of
from probekit._measure.measure import measure
from probekit._measure.metric_set import needs_target
from probekit.errors import ProbekitError
from probekit.metrics import ColumnMetric, Metric, StreamingMetric

__all__ = ["Description", "describe_metrics"]

SAMPLES, NODES, CLASSES = 60, 3, 3


@dataclass(frozen=True)
class Description:
    """One installed metric.

    `kind` is what it needs: ``streaming`` metrics add up over batches, with ``(site)`` over whole rows and with
    ``(sites)`` over those of all sites; ``column`` metrics need all samples of a node, ``samples`` metrics those of a
    site. `shape` has the dims of its variables, `source` is the distribution that registers it.
    """

    name: str
    kind: str
    shape: str
    source: str
    summary: str


def describe_metrics() -> Iterator[Description]:
    """Every installed metric, in alphabetical order.

    Warns of one that can't be loaded, or fails on a small site of sigmoids, and leaves it out.
    """
    for plugin, found in plugins.load_all(plugins.METRICS).items():
        try:
            metric: Metric = found() if isinstance(found, type) else found
            shape = _shape(metric)
        except ProbekitError as error:
            warnings.warn(f"{plugin.name} of {plugin.distribution}: {error}", plugins.PluginWarning, stacklevel=2)
            continue
        summary = (inspect.getdoc(found) or "").partition("\n")[0]
        yield Description(plugin.name, _kind(metric), shape, f"{plugin.distribution} {plugin.version}", summary)


def _kind(metric: Metric) -> str:
    if isinstance(metric, StreamingMetric):
        scope = scope_of(metric)
        return "streaming" if scope == "node" else f"streaming ({scope})"
    return "column" if isinstance(metric, ColumnMetric) else "samples"


def _shape(metric: Metric) -> str:
    """The dims of the metric's variables, each once, as they come out of a small measurement."""
    measured = measure(_small(), metric, target="target" if needs_target(metric) else None)
    groups = [measured, *measured.children.values()]
    dims = dict.fromkeys(variable.dims for group in groups for variable in group.to_dataset(inherit=False).values())
    return ", ".join(" × ".join(map(str, each)).replace("_b", "") or "scalar" for each in dims)


def _small() -> xr.DataTree:
    rng = np.random.default_rng(0)
    columns = {"label": np.arange(SAMPLES) % CLASSES, "target": rng.random(SAMPLES)}
    root = xr.Dataset(coords={name: ("sample", values) for name, values in columns.items()})
    sites = {
        name: xr.Dataset(
            {"activation": (("sample", "node"), rng.random((SAMPLES, NODES), np.float32))},
            attrs={"type": "Sigmoid", "kind": "output"},
        )
        for name in "ab"
    }
    return xr.DataTree.from_dict({"/": root, **sites})
