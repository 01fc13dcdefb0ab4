"""What a metric says of itself."""

from __future__ import annotations

import json
import pickle
from collections.abc import Hashable, Mapping
from typing import Any

import xarray as xr

from probekit._measure.accumulator import scope_of
from probekit._measure.measure import measure
from probekit._results.assemble import join
from probekit.metrics import ColumnMetric
from probekit.testing.data import Data, mixed
from probekit.testing.law import Broken, every, law
from probekit.testing.runs import require_same, runs, told

__all__ = ["declared_dims", "goes_to_other_processes", "says_what_it_is"]

_SCOPES = ("node", "site", "sites")


@law(every)
def says_what_it_is(metric: Any) -> None:
    """A metric has a name, a version, parameters and a docstring, which go into results and listings.

    name is a string without a colon (what follows one are parameters), version an int from 1 on, parameters a mapping
    that json.dumps takes; the docstring's first line says what the metric gives. Of a streaming metric scope is
    "node", "site" or "sites", and state_key, where there is one, hashable.
    """
    if not isinstance(metric.name, str) or not metric.name or ":" in metric.name:
        raise Broken(f"name is {metric.name!r}")
    if type(metric.version) is not int or metric.version < 1:
        raise Broken(f"version is {metric.version!r}")
    if not isinstance(metric.parameters, Mapping) or not all(isinstance(key, str) for key in metric.parameters):
        raise Broken(f"parameters are {metric.parameters!r}")
    try:
        json.dumps(dict(metric.parameters))
    except (TypeError, ValueError) as error:
        raise Broken(f"json.dumps refuses the parameters {dict(metric.parameters)}: {error}") from error
    if not _summary(metric):
        raise Broken("there is no docstring of its own")
    if scope_of(metric) not in _SCOPES or not isinstance(getattr(metric, "state_key", None), Hashable):
        raise Broken(f"scope is {scope_of(metric)!r}, state_key {getattr(metric, 'state_key', None)!r}")


def _summary(metric: Any) -> str:
    """The first line of the docstring, as it is listed; empty where it is but the signature that a dataclass writes."""
    line = (metric.__doc__ or "").strip().partition("\n")[0]
    return "" if line.startswith(f"{type(metric).__name__}(") else line


@law(every)
def declared_dims(metric: Any) -> None:
    """The variables are {name: (dims, array of numbers)}, and the dims label, label_b, node, site and site_b are as
    long as the data have classes, nodes and sites.

    A column metric's variables all have the dim node, along which blocks are joined. Where coords names the positions
    along a dim of the metric's own, it is as long as that dim.
    """
    data = mixed()
    for run in runs(metric):
        found = run(data)
        if not found:
            raise Broken(f"{run.says} gave no variable", data.says)
        odd = {name: array.dtype for name, (_, array) in found.items() if array.dtype.kind not in "fiub"}
        if odd:
            raise Broken(f"{run.says} gave arrays that aren't of numbers: {odd}", data.says)
        if isinstance(metric, ColumnMetric) and run.says == "compute":
            join(metric, [found])
    with told("pk.measure of", data):
        measure(_tree(data), metric)


def _tree(data: Data) -> xr.DataTree:
    """A store in memory, with two sites."""
    root = xr.Dataset(coords={"label": ("sample", data.y)})
    a, b = (xr.Dataset({"activation": (("sample", "node"), x)}) for x in data.sites)
    return xr.DataTree.from_dict({"/": root, "a": a, "b": b})


@law(every)
def goes_to_other_processes(metric: Any) -> None:
    """A metric can be pickled, so that it goes to the processes of a cluster, and is the same there.

    Define it at the top level of a module, and keep what can't be pickled (open files, lambdas) out of its attributes.
    """
    copy = pickle.loads(pickle.dumps(metric))
    ours, theirs = ((m.name, m.version, dict(m.parameters)) for m in (metric, copy))
    if ours != theirs:
        raise Broken(f"it is {ours}, and its copy {theirs}")
    for run, of_copy in zip(runs(metric), runs(copy), strict=True):
        require_same(of_copy(mixed()), run(mixed()), ("of the copy", "of the metric"), mixed().says)
