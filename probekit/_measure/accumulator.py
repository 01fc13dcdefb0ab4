"""Streaming metrics over batches: one state for those that share it, on the device where the batches are."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeVar, TypeVarTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probekit._beats import in_turn
from probekit._results.assemble import Labels, dataset_of
from probekit.errors import DataError, PluginError, ProbekitError, arguments_of
from probekit.metrics import Metric, SampleMetric, Spec, State, StreamingMetric, Variables
from probekit.metrics.sketch import Sketch

__all__ = [
    "ACROSS",
    "SITES",
    "Accumulator",
    "call",
    "finalized",
    "leaders",
    "scope_of",
    "side_by_side",
    "sites_results",
    "state_from",
]

Given = TypeVarTuple("Given")
R = TypeVar("R")

ACROSS, SITES = "over the sites", ("site", "site_b")  # where metrics are that compare sites, for errors; their dims


class Adding(Protocol):
    """The methods of a streaming metric that keep a state over batches."""

    @property
    def name(self) -> str: ...
    def init(self, spec: Any) -> State: ...
    def update(self, state: State, x: Any, y: Tensor) -> State: ...


A = TypeVar("A", bound=Adding)


def scope_of(metric: Metric) -> str:
    """What a streaming metric sees at once: blocks of nodes (``"node"``), a ``"site"`` or all ``"sites"``."""
    return str(getattr(metric, "scope", "node"))


def leaders(metrics: Sequence[A]) -> dict[str, A]:
    """For each metric, by its name, the first of those that share its state: that one keeps it."""
    first: dict[Hashable, A] = {}
    return {m.name: first.setdefault(getattr(m, "state_key", None) or m.name, m) for m in metrics}


class Accumulator:
    """The states of streaming metrics over the batches of one site, or of several for metrics of that scope.

    Args:
        metrics: of one scope.
        spec: what their states are for; a list of specs, one a site, for those of several sites.
        where: what is measured, for errors.
    """

    def __init__(self, metrics: Sequence[Adding], spec: Any, where: str) -> None:
        self._leaders = {metric.name: metric for metric in leaders(metrics).values()}
        self._spec, self._where = spec, where
        self._classes = (spec if isinstance(spec, Spec) else spec[0]).classes
        self.states = {name: state_from(metric, where, "init", spec) for name, metric in self._leaders.items()}

    @torch.no_grad()
    def update(self, x: Any, y: Tensor) -> None:
        """Add a batch: `x` (observation, node), or a list of such, with the class codes `y` (observation)."""
        for name, metric in self._leaders.items():
            self.states[name] = state_from(metric, self._where, "update", self.states[name], x, y)

    def grow(self, classes: int) -> None:
        """Make room for classes that have appeared: their rows of every state are those of no samples."""
        if classes == self._classes:
            return
        self._classes = classes
        self._spec = _with_classes(self._spec, classes)
        for name, metric in self._leaders.items():
            self.states[name] = self._grown(metric, self.states[name], classes)

    def _grown(self, metric: Adding, state: State, classes: int) -> State:
        if isinstance(metric, Sketch):  # whose states don't have one shape
            return metric.grow(state, classes)
        empty = state_from(metric, self._where, "init", self._spec)
        return {key: _longer(state[key], empty[key]) for key in state}


def _with_classes(spec: Any, classes: int) -> Any:
    if isinstance(spec, Spec):
        return replace(spec, classes=classes)
    return [replace(one, classes=classes) for one in spec]


def _longer(state: Tensor, empty: Tensor) -> Tensor:
    if state.shape == empty.shape:
        return state
    return torch.cat([state, empty[len(state) :]])


def finalized(
    metrics: Sequence[StreamingMetric],
    states: Mapping[str, State],
    where: str,
    durations: Sequence[float] | None = None,
) -> Iterator[tuple[StreamingMetric, Variables]]:
    """Each metric with its variables; `durations` are in what proportion they take time."""
    keepers = leaders(metrics)
    for metric in in_turn(metrics, durations):
        yield metric, call(metric, where, metric.finalize, states[keepers[metric.name].name])


def side_by_side(states: Sequence[State]) -> State:
    """The state of all nodes from those of blocks of nodes; what has the axis (class,) alone is the same in each."""
    return {
        key: torch.cat([state[key] for state in states], dim=1) if first.ndim > 1 else first
        for key, first in states[0].items()
    }


def call(metric: Adding | Metric, where: str, function: Callable[[*Given], R], *given: *Given, asked: str = "") -> R:
    """Call a method of the metric; where it raises, a PluginError says which metric failed and where.

    `asked` says what the method is asked for, if it isn't a result. A ProbekitError is a metric's own word that it
    can't be measured, and no failure. A DataError of a sample metric isn't even its own: it comes from the samples that
    it reads.
    """
    try:
        with np.errstate(all="ignore"):  # what comes of infinities is the metric's to say, as it is numpy's
            return function(*given)
    except Exception as error:
        if isinstance(error, DataError) and isinstance(metric, SampleMetric):
            raise
        if isinstance(error, ProbekitError):
            fault = f"can't be measured {where}: {error}"
        else:
            when = f" when it was asked {asked}" if asked else ""
            fault = f"failed {where}{when}: {type(error).__name__}: {error}"
        raise PluginError(f"The metric {metric.name!r} {fault.rstrip('.')}.", arguments=arguments_of(error)) from error


def state_from(metric: Adding, where: str, method: Literal["init", "update", "merge"], *given: Any) -> State:
    """The state that a method of the metric returns; PluginError, addressed to the metric's author, if it is none."""
    state: State = call(metric, where, getattr(metric, method), *given)
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        of = f" of {sorted({type(each).__name__ for each in state.values()})}" if isinstance(state, Mapping) else ""
        raise PluginError(
            f"The method {method!r} of the metric {metric.name!r} returned {type(state).__name__}{of} {where}, "
            "not a state as a dict {name: tensor}. The metric's author has to fix this."
        )
    return state


def sites_results(
    metrics: Sequence[Metric],
    found: Mapping[str, Variables],
    names: Sequence[str],
    labels: Labels,
    about: Mapping[str, Any],
) -> xr.Dataset:
    """The results that compare sites, with their names as coordinates."""
    made = dataset_of([(metric, found[metric.name]) for metric in metrics], labels, lambda _: about)
    coordinate = np.array(names, dtype=object)  # as which strings are stored in any length
    return made.assign_coords({dim: coordinate for dim in SITES if dim in made.sizes})
