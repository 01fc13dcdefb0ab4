"""The headlines of measured metrics: written into results, read from them, and one number per site."""

from __future__ import annotations

import json
from collections.abc import Collection, Container, Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr

from probekit.metrics import Headline, Metric

__all__ = [
    "ATTRIBUTE",
    "FALSE_SHARE",
    "adjusted_of",
    "attributes",
    "beside_of",
    "compared",
    "headline_value",
    "headlines_of",
    "interval_name",
    "of_site",
    "over",
    "spread_over_classes",
]

ATTRIBUTE = "headline"  # of the variable that the headline is about: JSON of the other fields
FALSE_SHARE = 0.05  # q-values below it are counted
_DERIVED_DIMS = {"label", "node", "step"}  # those of a variable of which a mean makes sense, whatever it is


def attributes(metric: Metric, variable: str) -> dict[str, str]:
    """The attributes of one of the metric's variables that keep its headline; none for its other variables."""
    headline: Headline | None = getattr(metric, "headline", None)
    if headline is None or headline.variable != variable:
        return {}
    return {ATTRIBUTE: json.dumps({key: value for key, value in asdict(headline).items() if key != "variable"})}


def headlines_of(tree: xr.DataTree) -> dict[str, Headline]:
    """The headline of each metric that was measured, by the metric's name.

    A metric that declares none has one without words (`large` is empty): the variable that bears the metric's name,
    if it has numbers per class and node, and their mean. Otherwise the metric has no headline and isn't there, such as
    `histogram`.
    """
    found: dict[str, Headline] = {}
    for variable in _variables(tree):
        name, metric = str(variable.name), str(variable.attrs.get("metric"))
        if ATTRIBUTE in variable.attrs:
            found[metric] = Headline(name, **json.loads(variable.attrs[ATTRIBUTE]))
        elif name == metric and _DERIVED_DIMS.issuperset(map(str, variable.dims)) and variable.dtype.kind in "iuf":
            found.setdefault(metric, Headline(name, "mean" if "node" in variable.dims else None, ""))
    return found


def _variables(tree: xr.DataTree) -> list[xr.DataArray]:
    """Each measured variable once, in the order of the tree; those that compare sites come last."""
    first: dict[str, xr.DataArray] = {}
    for group in (*tree.children.values(), tree):
        for name in group.data_vars:
            if str(name) not in first:
                first[str(name)] = group.data_vars[name]
    return list(first.values())


def headline_value(variable: xr.DataArray, headline: Headline, keep: Collection[str] = ("step",)) -> xr.DataArray:
    """A variable of one site as one number, with the dim `step` if the site was measured at several steps.

    The nodes come first, as the headline says, and then the mean over the classes; the dims to `keep` stay. NaN don't
    count; the number is NaN where nothing else is left.
    """
    values = variable.astype(np.float64)
    if headline.over_nodes is not None and "node" in values.dims:
        values = _without_nan(values, headline.over_nodes, ["node"])
    return _without_nan(values, "mean", [dim for dim in values.dims if dim not in keep])


def _without_nan(values: xr.DataArray, how: str, dims: Sequence[Hashable]) -> xr.DataArray:
    """The mean, median, … along some dims, without NaN; NaN where nothing else is there."""
    known = values.notnull().any(dims)
    with np.errstate(invalid="ignore"):  # infinities of both signs have no mean
        # Where all are NaN, numpy would warn, which can't be silenced while other threads run.
        found: xr.DataArray = getattr(values.where(known, 0.0), how)(dims, skipna=True)
        return found.where(known)


def spread_over_classes(variable: xr.DataArray, headline: Headline, keep: Collection[str] = ("step",)) -> xr.DataArray:
    """How much the classes of a site differ in a variable, as one number.

    The standard deviation (ddof 0) over the classes at each node, and then over the nodes as the headline says.
    """
    return headline_value(_without_nan(variable.astype(np.float64), "std", ["label"]), headline, keep)


def over(variable: xr.DataArray, headline: Headline) -> str:
    """How `headline_value` gets one number, in words, such as ``max over nodes, mean over classes``."""
    said = {"node": f"{headline.over_nodes} over nodes"} | {"label": "mean over classes", "site_b": "mean over sites"}
    dims = sorted((str(dim) for dim in variable.dims if dim not in ("step", "site")), key=lambda dim: dim != "node")
    return ", ".join(said.get(dim, f"mean over {dim}") for dim in dims)


def beside_of(data: Container[Any], headline: Headline) -> str | None:
    """The variable of a site that belongs beside a headline's, if there is one.

    It is what the headline names, but the null of the one number that stands for the site where that was measured. A
    number of which no shuffle says anything, whose p-value is of the spread over classes, has no null.
    """
    name, named = headline.variable, headline.beside
    nulls = [f"{name}_null_site", *(() if f"{name}_p_site" in data else (f"{name}_null",))]
    order = [*nulls, named] if named is None or named.endswith("_null") else [named, *nulls]
    return next((each for each in order if each in data), None)


def of_site(data: Mapping[Any, xr.DataArray], variable: str, ending: str) -> xr.DataArray | None:
    """What a null or an interval says of the one number that a site has for a variable; None where there is none."""
    names = (f"{variable}_{ending}_site", f"{variable}_{ending}")
    return next((data[name] for name in names if name in data and not data[name].dims), None)


def adjusted_of(data: Mapping[Any, xr.DataArray], metric: str, headline: Headline) -> xr.DataArray | None:
    """The q-values of a headline's variable, or else of the first variable of its metric that has some."""
    names = [headline.variable, *(name for name, each in data.items() if each.attrs.get("metric") == metric)]
    return next((data[f"{name}_q"] for name in names if f"{name}_q" in data), None)


def compared(tree: xr.DataTree) -> list[str]:
    """The measured variables that compare sites, but not what a null or an interval says of them."""
    return [
        str(name)
        for name, variable in tree.data_vars.items()
        if {*variable.dims} == {"site", "site_b"} and "of" not in variable.attrs
    ]


def interval_name(confidence: float) -> str:
    """What an interval is called in tables and figures, such as ``95% interval``."""
    return f"{100 * confidence:.6g}% interval"
