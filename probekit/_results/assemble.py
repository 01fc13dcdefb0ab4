"""From what metrics return to a tree of results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from probekit._results import estimates, headlines
from probekit.errors import AdvisedError, PluginError
from probekit.metrics import Headline, Metric, Variables
from probekit.metrics._kernels.node_blocks import placed
from probekit.metrics.block import Array

__all__ = [
    "Labels",
    "NotGrouped",
    "check",
    "dataset_of",
    "join",
]


class NotGrouped(AdvisedError):
    """A metric compares classes, and there are none. The advice is for stores."""

    advice = ": the store has no labels, or by=None was given. Group by one of its columns (by=)."
    about = ("by",)


CLASS_DIMS = {"label": "class_name", "label_b": "class_name_b"}  # dim -> coordinate that names the classes along it


def check(metric: Metric, returned: Any, labels: Labels, where: str, **lengths: int) -> Variables:
    """The variables that a metric `returned`, once each has a length for each dim, the right one for classes.

    `lengths` are those of other dims that are known, such as ``node=200``.

    Raises:
        PluginError: addressed to the metric's author.
        NotGrouped: the metric compares classes, and there are none.
    """
    variables = _variables(metric, returned, where)
    lengths |= {"label": labels.number, "label_b": labels.number}
    for name, (dims, array) in variables.items():
        shape = array.shape
        if len(dims) != len(shape) or any(lengths.get(dim, n) != n for dim, n in zip(dims, shape, strict=True)):
            expected = ", ".join(f"{dim}: {lengths.get(dim, 'any')}" for dim in dims)
            raise PluginError(
                f"The metric {metric.name!r} gave {name!r} the dims {dims} and the shape {shape} {where}; "
                f"its dims ask for ({expected}). The metric's author has to fix this."
            )
        if "label_b" in dims and labels.values is None:
            raise NotGrouped(f"The metric {metric.name!r} compares classes, and the samples are not grouped")
    return variables


def _variables(metric: Metric, returned: Any, where: str) -> Variables:
    try:
        return {str(name): (tuple(dims), np.asarray(array)) for name, (dims, array) in returned.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise PluginError(
            f"The metric {metric.name!r} returned {type(returned).__name__} {where}, not variables as a dict "
            "{name: (dims, array)}. The metric's author has to fix this."
        ) from error


def join(metric: Metric, blocks: Sequence[Variables]) -> Variables:
    """The variables of a site from those of its blocks of nodes, in order, which are taken out of the blocks.

    Raises PluginError where a variable has no dim `node`, or not every block gives the same variables.
    """
    joined: Variables = {}
    for name, (dims, _) in list(blocks[0].items()):
        if "node" not in dims or any(block.get(name, ((),))[0] != dims for block in blocks):
            raise PluginError(
                f"The column metric {metric.name!r} must give {name!r} a dim 'node', and the same dims for every block "
                f"of nodes; it gave {dims}. The metric's author has to fix this."
            )
        joined[name] = dims, _concatenated([block.pop(name)[1] for block in blocks], dims.index("node"))
    return joined


def _concatenated(arrays: list[Array], along: int) -> Array:
    lengths = np.max([array.shape for array in arrays], axis=0)
    for place, array in enumerate(arrays):
        missing = [(0, 0 if axis == along else lengths[axis] - n) for axis, n in enumerate(array.shape)]
        if np.any(missing):
            arrays[place] = np.pad(array, missing, constant_values=np.nan if array.dtype.kind == "f" else 0)
    return placed(arrays, along)


@dataclass(frozen=True)
class Labels:
    """The names of the classes along ``label``; `values` is None where the samples weren't grouped."""

    values: Array | None
    names: tuple[str, ...]

    @property
    def number(self) -> int:
        return len(self.names)


def dataset_of(
    found: Sequence[tuple[Metric, Variables]], labels: Labels, about: Callable[[Metric], Mapping[str, Any]]
) -> xr.Dataset:
    """The measured variables of one site, with the classes as coordinates; `about` gives attributes of a metric's.

    Raises PluginError where two metrics give variables of one name, or own dims of one name and different lengths, and
    where a metric's headline is of a variable that it doesn't give.
    """
    made, lengths, owners = dict[str, xr.Variable](), dict[str, int](), dict[str, str]()
    coordinates: dict[str, Any] = {}
    for metric, variables in found:
        _check_headline(metric, variables)
        for name, (dims, array) in variables.items():
            if name in owners:
                raise PluginError(
                    f"The metrics {owners[name]!r} and {metric.name!r} both give a variable {name!r}. "
                    "Measure them in separate calls."
                )
            owners[name] = metric.name
            made[name] = _variable(dims, array, metric, labels, {**about(metric), **headlines.attributes(metric, name)})
            _check_lengths(name, made[name], lengths, metric)
        coordinates |= getattr(metric, "coords", {})  # of the metric's own dims, where it says them
    if labels.values is not None:
        names = np.array(labels.names, dtype=object)
        for dim, coordinate in CLASS_DIMS.items():
            if dim in lengths:
                coordinates |= {dim: labels.values, coordinate: (dim, names)}
    return xr.Dataset(made, coordinates)


def _check_headline(metric: Metric, variables: Variables) -> None:
    headline: Headline | None = getattr(metric, "headline", None)
    if headline is not None and variables and headline.variable not in variables:
        raise PluginError(
            f"The headline of the metric {metric.name!r} is of the variable {headline.variable!r}, and the metric gave "
            f"{', '.join(map(repr, variables))}. The metric's author has to fix this."
        )


def _check_lengths(name: str, variable: xr.Variable, lengths: dict[str, int], metric: Metric) -> None:
    """Note the lengths of the variable's dims, and raise PluginError where another one has been noted."""
    for dim, length in zip(variable.dims, variable.shape, strict=True):
        if lengths.setdefault(str(dim), length) != length:
            raise PluginError(
                f"The metric {metric.name!r} gives {name!r} a dim {dim!r} of length {length}, and another metric one "
                f"of length {lengths[str(dim)]}. Measure them in separate calls."
            )


def _variable(
    dims: tuple[str, ...], array: Array, metric: Metric, labels: Labels, about: Mapping[str, Any]
) -> xr.Variable:
    if labels.values is None and "label" in dims:
        array, dims = array.take(0, dims.index("label")), tuple(dim for dim in dims if dim != "label")
    attrs = {
        "metric": metric.name,
        "version": metric.version,
        "parameters": json.dumps(dict(metric.parameters), default=repr),
        **estimates.corrected(metric),
        **about,
    }
    return xr.Variable(dims, array, attrs)
