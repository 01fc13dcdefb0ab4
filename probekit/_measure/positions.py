"""What becomes of the positions of feature maps: which metrics count each of them, and which see them pooled."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import xarray as xr

from probekit._measure.accumulator import scope_of
from probekit._measure.resampling.repeats import ALL_SITES
from probekit._measure.site_source import Source, steps_of
from probekit.errors import PluginError
from probekit.metrics import Metric

__all__ = ["POSITIONS", "all_said", "at_capture", "by_pooling", "merged", "parts_of", "positions_said", "warn_of_means"]

POSITIONS = ("mean", "max", "each")
_POOLING = ("mean", "max")  # reductions of a capture that leave one value for all positions


def positions_of(metric: Metric, asked: str | None) -> str:
    """How a metric sees positions: as was `asked`, else ``"each"`` if the metric says so, or their ``"mean"``."""
    return asked or str(getattr(metric, "positions", "mean"))


def by_pooling(metrics: Sequence[Metric], asked: str | None) -> dict[str, list[Metric]]:
    """The metrics by how they see positions."""
    found: dict[str, list[Metric]] = {}
    for metric in metrics:
        found.setdefault(positions_of(metric, asked), []).append(metric)
    return found


def parts_of(
    metrics: Sequence[Metric], sources: Mapping[str, Source], asked: str | None
) -> Iterator[tuple[list[Metric], dict[str, Source]]]:
    """The metrics and sites that are measured together: those that see positions alike.

    Where there are no positions that is all of them, since each value is read once.
    """
    alike, deep = by_pooling(metrics, asked), {key for key, source in sources.items() if source.positions > 1}
    if len(alike) == 1 or not deep:
        yield list(metrics), _seen(sources, sources.keys(), next(iter(alike)))
        return
    compared = {metric.name for metric in metrics if scope_of(metric) == "sites"}
    flat, single = sources.keys() - deep, [metric for metric in metrics if metric.name not in compared]
    if flat and single:
        yield single, _seen(sources, flat, "mean")
    for pooling, those in alike.items():
        for of_all in (False, True):
            chosen = [metric for metric in those if (metric.name in compared) == of_all]
            if chosen:
                yield chosen, _seen(sources, sources.keys() if of_all else deep, pooling)


def _seen(sources: Mapping[str, Source], keys: Collection[str], pooling: str) -> dict[str, Source]:
    return {key: replace(source, pooling=pooling) for key, source in sources.items() if key in keys}


def merged(
    parts: Sequence[Mapping[str, xr.Dataset]], metrics: Sequence[Metric], sources: Mapping[str, Source]
) -> xr.DataTree:
    """The tree of results of the parts of a measurement, each with results by site, and those of all sites together.

    Raises PluginError where metrics of two parts give variables of one name, or a dim of one name and other lengths.
    """
    order = {metric.name: at for at, metric in enumerate(metrics)}
    children = {}
    for key, source in sources.items():
        of_parts = [part[key] for part in parts if key in part]
        seen = [str(each.attrs.get("positions", "")).partition(" ")[0] for each in of_parts]
        children[key] = _side_by_side(of_parts, order).assign_attrs(all_said(seen, source.positions))
    root = _side_by_side([part[ALL_SITES] for part in parts], order)
    return xr.DataTree.from_dict({"/": root, **children})


def _side_by_side(found: Sequence[xr.Dataset], order: Mapping[str, int]) -> xr.Dataset:
    """The variables of all, in the order of their metrics."""
    if len(found) == 1:
        return found[0]
    owners: dict[str, str] = {}
    lengths: dict[str, int] = {}
    for each in found:
        for name, variable in each.data_vars.items():
            metric = str(variable.attrs["metric"])
            if str(name) in owners:
                raise PluginError(
                    f"The metrics {owners[str(name)]!r} and {metric!r} both give a variable {name!r}. Measure them in "
                    "separate calls."
                )
            owners[str(name)] = metric
            for dim, length in variable.sizes.items():
                if lengths.setdefault(str(dim), length) != length:
                    raise PluginError(
                        f"The metric {metric!r} gives {name!r} a dim {dim!r} of length {length}, and another metric "
                        f"one of length {lengths[str(dim)]}. Measure them in separate calls."
                    )
    whole = xr.merge(found, combine_attrs="override", compat="override", join="exact")
    names: list[str] = sorted(owners, key=lambda name: order[owners[name]])
    return whole[names]


def positions_said(metric: Metric, pooling: str, positions: int, site: Mapping[str, Any]) -> dict[str, str]:
    """The attribute of a metric's variables that says what became of the positions of each row, if there were several.

    Such as ``each of 196``, ``mean of 196``, or ``mean of 196 at capture`` where the store has no positions left, with
    ``, not each`` for a metric that would count each of them. `site` are the site's attributes.
    """
    if positions > 1:
        return {"positions": f"{pooling} of {positions}"}
    pooled = at_capture(site)
    if not pooled:
        return {}
    return {"positions": f"{pooled}{', not each' if positions_of(metric, None) == 'each' else ''}"}


def warn_of_means(metrics: Sequence[Metric], sites: Mapping[str, Mapping[str, Any]]) -> None:
    """Warn where metrics that would count each position are given what a capture pooled; `sites` are the attributes."""
    counting = [metric.name for metric in metrics if positions_of(metric, None) == "each"]
    pooled = {name: said for name, attrs in sites.items() if (said := at_capture(attrs))}
    if counting and pooled:
        (name, said), more = next(iter(pooled.items())), len(pooled) - 1
        warnings.warn(
            f"{', '.join(counting)} would count each position, and site {name!r} has only the {said}"
            f"{f', and so have {more} others' if more else ''}. The results are of these values: a mean is 0 only if a "
            "map is 0 everywhere. Capture without reduce=, or measure the model as it runs, to count positions; "
            "positions='mean' says that this is meant.",
            stacklevel=3,
        )


def all_said(poolings: Sequence[str], *positions: int) -> dict[str, str]:
    """The attribute of what was measured in several ways, or of several sites, if any row has several positions."""
    numbers = ", ".join(map(str, dict.fromkeys(number for number in positions if number > 1)))
    return {"positions": f"{', '.join(dict.fromkeys(poolings))} of {numbers}"} if numbers else {}


def at_capture(site: Mapping[str, Any]) -> str:
    """How the capture pooled the positions of a site, such as ``mean of 196 at capture``; empty where it didn't."""
    how = next((step for step in steps_of(site) if step in _POOLING), None)
    shape = [int(length) for length in site.get("original_shape", ())]
    if how is None or len(shape) < 3:
        return ""
    if "node_dim" not in site:  # of a store that an older version wrote
        return f"{how} of all at capture"
    axes = {int(site[key]) % len(shape) for key in ("batch_dim", "node_dim")}
    number = prod(length for axis, length in enumerate(shape) if axis not in axes)
    return f"{how} of {number} at capture" if number > 1 else ""
