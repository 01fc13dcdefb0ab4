"""Column metrics of a running model: computed from the sketch of a site, with how far they may be off."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import xarray as xr

from probekit._beats import in_turn
from probekit._measure.accumulator import call
from probekit._measure.resampling.sketched import with_null
from probekit._results.assemble import Labels, check, join
from probekit._results.estimates import bins_of
from probekit.metrics import ColumnMetric, State, Variables
from probekit.metrics.block import Array
from probekit.metrics.resolution import Resolution
from probekit.metrics.sketch import Sketch

__all__ = ["errors_of", "variables_of", "warn_of_coarse_cells", "without_bounds_of_nulls"]

_COARSE = 0.01  # the share of a class in a cell, and the bound of an error, from which a warning says so
_NAMED = 3  # sites that a warning names
_BOUNDS = ("value_error", "rank_error", "error_bound", "cell_share", "coarse_nodes")


def variables_of(columns: Sequence[ColumnMetric], state: State, labels: Labels, site: str) -> dict[str, Variables]:
    """The column metrics' variables, computed from the sketch's samples."""
    where, blocks = f"at site {site!r}, from a sketch", {metric.name: list[Variables]() for metric in columns}
    for block in Sketch().blocks(state):
        for metric in in_turn(columns):
            variables = call(metric, where, with_null, metric, block)
            blocks[metric.name].append(check(metric, variables, labels, where, node=block.nodes))
    return {metric.name: join(metric, blocks[metric.name]) for metric in columns}


def errors_of(columns: Sequence[ColumnMetric], state: State, site: str) -> dict[str, dict[str, Any]]:
    """The attributes that bound the errors of each column metric's result."""
    resolution = Sketch().resolution(state)
    return {metric.name: _errors(metric, resolution, f"at site {site!r}") for metric in columns}


def _errors(metric: ColumnMetric, resolution: Resolution, where: str) -> dict[str, Any]:
    errors = {
        "approximate": int(not resolution.exact),
        "value_error": resolution.value_error,
        "rank_error": resolution.rank_error,
    } | bins_of(metric, resolution.counts)
    bound: Callable[[Resolution], Array] | None = getattr(metric, "error_bound", None)
    if bound is None:
        return errors
    share, most = resolution.cell_share(getattr(metric, "min_count", 1)), call(metric, where, bound, resolution)
    return errors | {
        "error_bound": float(np.max(most, initial=0)),
        "cell_share": float(share.max(initial=0)),
        "coarse_nodes": int(((share > _COARSE) & (most > _COARSE)).sum()),
    }


def without_bounds_of_nulls(measured: xr.Dataset) -> xr.Dataset:
    """The dataset, whose nulls have no bound: each comes of another shuffle than that of the exact samples."""
    for name, variable in measured.data_vars.items():
        if str(name).endswith("_null"):
            variable.attrs = {key: value for key, value in variable.attrs.items() if key not in _BOUNDS}
    return measured


def warn_of_coarse_cells(results: xr.DataTree) -> None:
    """Warn where a cell holds so much of two classes that metrics which compare classes may be wrong."""
    coarse, metrics = list[str](), dict[str, None]()
    for site in results.children.values():
        crowded = [each.attrs for each in site.data_vars.values() if each.attrs.get("coarse_nodes")]
        metrics |= {attrs["metric"]: None for attrs in crowded}
        if crowded:
            worst = max(crowded, key=itemgetter("cell_share"))
            nodes = f"{worst['coarse_nodes']} node{'s' if worst['coarse_nodes'] > 1 else ''}"
            coarse.append(f"{site.attrs['site']!r} ({nodes}, up to {worst['cell_share']:.1%})")
    if coarse:
        named = [*coarse[:_NAMED], *([f"{len(coarse) - _NAMED} more sites"] if len(coarse) > _NAMED else [])]
        warnings.warn(
            f"While the model runs, more than {_COARSE:.0%} of the samples of two classes can't be told apart at "
            f"{', '.join(named)}: their values crowd in a small part of the range. The attribute error_bound says how "
            f"far {', '.join(metrics)} may be off at most. For exact results capture a store with probekit.capture, "
            "and measure that.",
            stacklevel=3,
        )
