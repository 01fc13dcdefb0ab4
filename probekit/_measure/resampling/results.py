"""The variables of nulls and intervals among those of a site.

Beside a variable ``v`` stand ``v_null``, ``v_null_std``, ``v_p``, and, over its nodes, ``v_q``; ``v_low`` and
``v_high``, whose attribute `no_interval` says why some are NaN. Where ``v`` is a headline's and has dims, the number
that stands for the site has its own, without them: ``v_null_site`` and so on. Where it compares sites, (site, site_b),
each site has those of its mean over the others, (site,), at the root.

A headline that describes each class by itself, such as its mean, has no value that says nothing, and its mean over the
classes is about the same for any labels. Its site has ``v_p_site`` alone, of how far the classes are apart in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from probekit._measure.accumulator import ACROSS, call
from probekit._measure.resampling.intervals import Intervals
from probekit._measure.resampling.repeats import CI, NULL, Repeats, What
from probekit._measure.resampling.settings import FORMULA, Resampling
from probekit._measure.resampling.site_numbers import (
    REPEAT,
    describes_classes,
    dims_of_numbers,
    headline_of,
    numbers_of,
)
from probekit._measure.resampling.tally import Sums, discoveries, merged
from probekit._measure.site_source import bounds_of
from probekit._results import headlines
from probekit._results.assemble import join
from probekit.errors import PluginError
from probekit.metrics import Metric, Variables
from probekit.metrics.block import Array

__all__ = ["Found", "beside", "found_at"]


@dataclass(frozen=True)
class Found:
    """The sums of the variables of a metric at a site over the shuffles or draws, and what is kept of each of these."""

    what: What
    metric: Metric
    sums: Mapping[str, tuple[tuple[str, ...], Sums]]
    values: Variables


def found_at(
    metrics: Sequence[Metric], blocks: Sequence[Mapping[str, Variables]], parts: Sequence[Mapping[str, Variables]]
) -> list[Found]:
    """What the tasks of a site gave: of `blocks` of nodes, and of `parts` of the repeats."""
    found = []
    for what in (NULL, CI):
        for metric in metrics:
            key = f"{what}/{metric.name}"
            over_nodes = [each[key] for each in blocks if key in each]
            given = [join(metric, over_nodes)] if over_nodes else [each[key] for each in parts if key in each]
            if given:
                found.append(Found(what, metric, *merged(given)))
    return found


def beside(
    made: Mapping[str, xr.Dataset], found: Mapping[str, Sequence[Found]], repeats: Repeats, metrics: Sequence[Metric]
) -> dict[str, xr.Dataset]:
    """What was measured at each site, and between sites, with what the repeats `found` beside it.

    A variable that no shuffle changes, anywhere, doesn't depend on the labels, and has no null.
    """
    every = [each for of_site in found.values() for each in of_site if each.what == NULL]
    changed = {name for each in every for name, (_, sums) in each.sums.items() if sums.changes}
    by_formula = [metric for metric in metrics if repeats.settings.interval(metric) == FORMULA]
    return {
        key: data.assign(
            _beside(data, found[key], repeats, key, changed) | _of_formulas(data, by_formula, repeats.settings)
        )
        for key, data in made.items()
    }


def _of_formulas(made: xr.Dataset, metrics: Sequence[Metric], asked: Resampling) -> dict[str, xr.Variable]:
    """The intervals of the `metrics` that were measured, by their own formulas."""
    found: dict[str, xr.Variable] = {}
    for metric in metrics:
        if any(each.attrs["metric"] == metric.name for each in made.values()):
            where = f"at site {made.attrs['site']!r}" if "site" in made.attrs else ACROSS
            ends = call(metric, where, _by_formula, metric, made, asked)
            _check_names(ends, made, metric)
            found |= ends
    return found


def _by_formula(metric: Any, made: xr.Dataset, asked: Resampling) -> dict[str, xr.Variable]:
    ours = {str(name): each.variable for name, each in made.items() if each.attrs["metric"] == metric.name}
    intervals = metric.intervals({name: (each.dims, each.values) for name, each in ours.items()}, asked.confidence)
    about = {"ci": FORMULA, "confidence": asked.confidence}
    return {
        f"{name}_{ending}": xr.Variable(ours[name].dims, end, _carried(made[name]) | {"of": name} | about)
        for name, ends in intervals.items()
        for ending, end in zip(("low", "high"), ends, strict=True)
    }


def _beside(
    made: xr.Dataset, found: Sequence[Found], repeats: Repeats, key: str, changed: set[str]
) -> dict[str, xr.Variable]:
    variables: dict[str, xr.Variable] = {}
    for each in found:
        about = _about(each, repeats, key)
        shown = [name for name in each.sums if each.what == CI or name in changed]
        if each.what == NULL and not repeats.settings.null:  # nobody asked for it: it is about the headline
            shown = [name for name in each.values if name in each.sums]
        intervals = _intervals(each, about, repeats, key, made) if each.what == CI else None
        for name in shown:
            dims, sums = each.sums[name]
            attrs = _carried(made[name]) | {"of": name} | about
            if intervals is None:
                arrays = _of_null(sums, repeats)
            else:
                interval = intervals.of_variable(name, dims, sums)
                arrays, attrs = interval.arrays, attrs | interval.attrs
            found_here = {
                f"{name}_{ending}": _variable(made[name], dims, array, attrs) for ending, array in arrays.items()
            }
            p = found_here.get(f"{name}_p")
            if p is not None and "node" in p.dims:
                found_here[f"{name}_q"] = p.copy(data=_over_nodes(p))
            variables |= found_here
            _check_names(found_here, made, each.metric)
            if name in each.values and (each.what == CI or repeats.settings.null):
                variables |= _of_site(made[name], each, intervals, about)
    return variables


def _check_names(found: Mapping[str, xr.Variable], made: xr.Dataset, metric: Metric) -> None:
    taken = next((name for name in found if name in made), None)
    if taken is not None:
        raise PluginError(
            f"The metric {metric.name!r} gives a variable {taken!r} itself, as which its null or interval would stand. "
            "Measure it without null= and ci=, or have its author give that variable another name.",
            arguments=("null", "ci"),
        )


def _of_null(sums: Sums, repeats: Repeats) -> dict[str, Array]:
    """The arrays of a null by the endings of their variables. A metric's own few shuffles tell its mean, no more."""
    found = sums.null()
    return found if repeats.settings.null else {"null": found["null"]}


def _intervals(found: Found, about: Mapping[str, Any], repeats: Repeats, key: str, made: xr.Dataset) -> Intervals:
    return Intervals(
        found.metric,
        repeats.draws[key],
        how=about["ci"],
        repeats=about["repeats"],
        confidence=about["confidence"],
        bounds=bounds_of(made.attrs),
    )


def _about(found: Found, repeats: Repeats, key: str) -> dict[str, Any]:
    """The attributes that say how a null or an interval was found."""
    asked, units = repeats.settings, repeats.draws[key].units
    said: dict[str, Any] = {
        "repeats": repeats.number_at(found.what, found.metric, key),
        "seed": asked.seed,
        "together": units.called,
    }
    said |= {"within": asked.within} if asked.within else {}
    if found.what == NULL:
        return {"null": "permute"} | said
    return {"ci": asked.interval(found.metric), "confidence": asked.confidence} | said


def _carried(measured: xr.DataArray) -> dict[str, Any]:
    """The attributes of a variable that those beside it have, too."""
    return {str(key): value for key, value in measured.attrs.items() if key != headlines.ATTRIBUTE}


def _variable(measured: xr.DataArray, dims: tuple[str, ...], array: Array, attrs: Mapping[str, Any]) -> xr.Variable:
    if "label" in dims and "label" not in measured.dims:  # the samples weren't grouped
        array, dims = array.take(0, dims.index("label")), tuple(dim for dim in dims if dim != "label")
    return xr.Variable(dims, array, dict(attrs))


def _over_nodes(p: xr.Variable) -> Array:
    at = p.dims.index("node")
    return np.moveaxis(discoveries(np.moveaxis(p.values, at, -1)), -1, at)


def _of_site(
    measured: xr.DataArray, found: Found, intervals: Intervals | None, about: Mapping[str, Any]
) -> dict[str, xr.Variable]:
    """Those of the one number that a headline makes of its variable, for each site where that compares sites."""
    name = str(measured.name)
    headline, (dims_of_values, values) = headline_of(found.metric, name), found.values[name]
    dims, sums_of_values = found.sums[name]
    attrs = _carried(measured) | {"of": name, "over": headlines.over(measured, headline), **about}
    spread = intervals is None and describes_classes(headline, dims)
    if spread:
        attrs["over"] = f"standard deviation over classes, {headline.over_nodes or 'mean'} over nodes"
    numbers, of_numbers = numbers_of(headline, dims, spread=spread), dims_of_numbers(dims)
    (now,) = numbers(sums_of_values.measured[None])
    if dims_of_values != (REPEAT, *of_numbers):  # they are differences, as nodes were measured in blocks
        values = np.concatenate([numbers((sums_of_values.origin + each)[None]) for each in values])
    sums = Sums.of(now, values)
    if intervals is None:
        arrays = {ending: each for ending, each in sums.null().items() if ending == "p" or not spread}
    else:
        interval = intervals.of_site(name, headline, dims, sums_of_values.measured, sums)
        arrays, attrs = interval.arrays, attrs | interval.attrs
    return {f"{name}_{ending}_site": xr.Variable(of_numbers, each, attrs) for ending, each in arrays.items()}
