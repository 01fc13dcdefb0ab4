"""Laws of what a metric declares: its name, version, parameters, scope and dims."""

from __future__ import annotations

import json
import pickle
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr

from probekit._measure.accumulator import scope_of
from probekit._measure.measure import measure
from probekit._measure.metric_set import needs_target
from probekit._measure.needs import need
from probekit._results.assemble import join
from probekit.metrics import ColumnMetric, Spec, StreamingMetric, Variables
from probekit.metrics.block import Array
from probekit.metrics.ranges import ACTIVATION
from probekit.testing.comparison import require_same
from probekit.testing.computation import broken_by, computations, spec_of, streamed
from probekit.testing.data import Data, mixed
from probekit.testing.law import Broken, every, law

__all__ = [
    "declared_dims",
    "goes_to_other_processes",
    "says_what_it_is",
    "says_what_it_needs",
    "says_what_to_look_at",
    "stays_in_its_ranges",
]

_SCOPES = ("node", "site", "sites")
_ROUNDING = 1e-9  # by which a value may lie beyond its range


@law(every)
def says_what_it_is(metric: Any) -> None:
    """A metric has a name, a version, parameters and a docstring, which go into results and listings.

    name is a string without a colon (parameters follow a colon), version an int of at least 1, and parameters a mapping
    that json.dumps accepts. The docstring's first line says what the metric gives. The scope of a streaming metric is
    "node", "site" or "sites", and its state_key, if it has one, is hashable. positions, if it has it, is "each" or
    "mean".
    """
    if ":" in metric.name:
        raise Broken(f"name is {metric.name!r}")
    if metric.version < 1:
        raise Broken(f"version is {metric.version!r}")
    if not all(isinstance(key, str) for key in metric.parameters):
        raise Broken(f"parameters are {metric.parameters!r}")
    try:
        json.dumps(dict(metric.parameters))
    except (TypeError, ValueError) as error:
        raise Broken(f"json.dumps refuses the parameters {dict(metric.parameters)}: {error}") from error
    if not _summary(metric):
        raise Broken("it has no docstring of its own")
    if getattr(metric, "positions", "mean") not in ("each", "mean"):
        raise Broken(f"positions is {metric.positions!r}")
    if scope_of(metric) not in _SCOPES or not isinstance(getattr(metric, "state_key", None), Hashable):
        raise Broken(f"scope is {scope_of(metric)!r}, state_key {getattr(metric, 'state_key', None)!r}")


def _summary(metric: Any) -> str:
    """The first line of the docstring, as it is listed; empty if it is only the signature that a dataclass writes."""
    line = (metric.__doc__ or "").strip().partition("\n")[0]
    return "" if line.startswith(f"{type(metric).__name__}(") else line


@law(every)
def says_what_it_needs(metric: Any) -> None:
    """The memory that a metric needs beside its samples is at least its state's, and no less for more nodes or samples.

    memory(spec, samples) returns a number of bytes. Without it, what init makes for a spec counts: make the tensors of
    a state there, as large as they will be. seconds(spec, samples) returns two numbers from 0 on.
    """
    data = mixed()
    if isinstance(metric, StreamingMetric):
        spec = spec_of(metric, data)
        with broken_by("init and update", data):
            held = sum(tensor.nbytes for tensor in streamed(metric, data).values())
        needed = need(metric, spec, data.number, f"of {data.description}")
        if needed < held:
            raise Broken(f"it needs {needed} bytes, and its state has {held}", data.description)
    else:
        spec = Spec(data.nodes, data.classes, torch.float32, torch.device("cpu"))
    if callable(getattr(metric, "seconds", None)):
        with broken_by("seconds", data):
            updates, finalize = metric.seconds(spec, data.number)
        if not (updates >= 0 and finalize >= 0):
            raise Broken(f"seconds gave {updates!r} and {finalize!r}", data.description)
    before = -1
    for factor in (1, 2, 50):
        with broken_by("memory", data):
            after = need(metric, _larger(spec, factor), data.number * factor, f"of {data.description}")
        if after < before:
            raise Broken(f"{factor} times as large, it needs {after} bytes, and before {before}", data.description)
        before = after


def _larger(spec: Any, factor: int) -> Any:
    """The spec, or each of several, with so many times as many nodes."""
    if isinstance(spec, Spec):
        return replace(spec, nodes=spec.nodes * factor)
    return [_larger(one, factor) for one in spec]


@law(every)
def declared_dims(metric: Any) -> None:
    """The variables are {name: (dims, array of numbers)}, and the dims label, label_b, node, site and site_b have the
    lengths of the data's classes, nodes and sites.

    A dim that is as long as there are classes or nodes has one of these names; the second dim of a table of all pairs
    of nodes is node_b. A column metric's variables all have the dim node, along which blocks are joined. If coords
    gives the positions along a dim of the metric's own, it is as long as that dim.
    """
    data = mixed()
    fewer = _smaller(data)
    for compute in computations(metric):
        found = compute(data)
        _require_names(found, compute(fewer), data, fewer)
        if not found:
            raise Broken(f"{compute.method} gave no variable", data.description)
        odd = {name: array.dtype for name, (_, array) in found.items() if array.dtype.kind not in "fiub"}
        if odd:
            raise Broken(f"{compute.method} gave arrays that aren't of numbers: {odd}", data.description)
        if isinstance(metric, ColumnMetric) and compute.method == "compute":
            join(metric, [found])
    with broken_by("pk.measure", data):
        measure(_tree(data), metric, target="target" if needs_target(metric) else None)


def _smaller(data: Data) -> Data:
    """The samples without the last class, at two nodes fewer."""
    fewer = data.take(np.flatnonzero(data.y < data.classes - 1), "those that aren't of the last class")
    return replace(fewer.of_nodes(0, data.nodes - 2), classes=data.classes - 1)


def _require_names(found: Variables, smaller: Variables, data: Data, fewer: Data) -> None:
    """Raise Broken for a dim that is as long as there are classes, or nodes, in both and is called something else."""
    for name, (dims, array) in found.items():
        of_fewer = smaller[name][1].shape if name in smaller else ()
        for dim, *lengths in zip(dims, array.shape, of_fewer, strict=False):
            for known, numbers in (("label", [data.classes, fewer.classes]), ("node", [data.nodes, fewer.nodes])):
                if lengths == numbers and dim.removesuffix("_b") != known:
                    of = "classes" if known == "label" else "nodes"
                    raise Broken(f"the dim {dim!r} of {name!r} is as long as there are {of}: its name is {known!r}")
            if dim.endswith("_b") and dim.removesuffix("_b") not in dims:
                raise Broken(f"{name!r} has the dim {dim!r} without {dim.removesuffix('_b')!r}: dims are {dims}")


def _has_headline(metric: Any) -> bool:
    return getattr(metric, "headline", None) is not None


@law(_has_headline)
def says_what_to_look_at(metric: Any) -> None:
    """A metric's headline, if it has one, is a Headline of a variable of numbers that the metric always gives.

    over_nodes says how the nodes' values become one if that variable has the dim node, and is None if it hasn't.
    """
    headline, data = metric.headline, mixed()
    for compute in computations(metric):
        found = compute(data)
        if headline.variable not in found:
            given = ", ".join(found)
            raise Broken(f"headline is of {headline.variable!r}, and {compute.method} gave {given}", data.description)
        dims, _ = found[headline.variable]
        if ("node" in dims) != (headline.over_nodes is not None):
            raise Broken(f"over_nodes is {headline.over_nodes!r}, and {headline.variable!r} has the dims {dims}")


def _has_ranges(metric: Any) -> bool:
    return bool(getattr(metric, "ranges", {}))


@law(_has_ranges)
def stays_in_its_ranges(metric: Any) -> None:
    """The values of a metric lie in the ranges that it declares, if it does: {variable: (least, greatest)}.

    Intervals end there. A share lies in (0, 1); where it is corrected for chance it may lie beyond, so give it no
    range, or an infinite end. "activation" is for values that lie where the activations do.
    """
    data, rng = mixed(), np.random.default_rng(0)
    labels = [data, *(replace(data, y=rng.permutation(data.y), description="shuffled labels") for _ in range(5))]
    for each in (*labels, data.take(rng.permutation(data.number)[:30], "30 of its samples")):
        for compute in computations(metric):
            found = compute(each)
            for name in metric.ranges.keys() & found.keys():
                _require_within(name, found[name][1], _range(metric.ranges[name], each), each)


def _range(given: Any, data: Data) -> tuple[float, float]:
    return (float(data.x.min()), float(data.x.max())) if given == ACTIVATION else given


def _require_within(name: str, values: Array, within: tuple[float, float], data: Data) -> None:
    least, greatest = within
    beyond = values[(values < least - _ROUNDING) | (values > greatest + _ROUNDING)]
    if beyond.size:
        raise Broken(
            f"{name!r} is {beyond[0]:.6g}, and its range goes from {least:g} to {greatest:g}", data.description
        )


def _tree(data: Data) -> xr.DataTree:
    """A store in memory, with two sites."""
    root = xr.Dataset(coords={"label": ("sample", data.y), "target": ("sample", data.target)})
    a, b = (xr.Dataset({"activation": (("sample", "node"), x)}) for x in data.sites)
    return xr.DataTree.from_dict({"/": root, "a": a, "b": b})


@law(every)
def goes_to_other_processes(metric: Any) -> None:
    """A metric can be pickled, to be sent to the processes of a cluster, and its copy is equal.

    Define it at the top level of a module, and keep objects that can't be pickled (open files, lambdas) out of its
    attributes.
    """
    copy = pickle.loads(pickle.dumps(metric))
    ours, theirs = ((m.name, m.version, dict(m.parameters)) for m in (metric, copy))
    if ours != theirs:
        raise Broken(f"it is {ours}, and its copy {theirs}")
    for compute, of_copy in zip(computations(metric), computations(copy), strict=True):
        require_same(of_copy(mixed()), compute(mixed()), ("of the copy", "of the metric"), mixed().description)
