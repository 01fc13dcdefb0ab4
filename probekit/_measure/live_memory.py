"""Whether the states of a measurement fit into the memory of the device on which the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from probekit._measure.metric_set import MetricSet
from probekit._measure.needs import available, need, sharing, state_bytes
from probekit._sizes import format_size
from probekit.errors import ProbekitError
from probekit.metrics import Spec, StreamingMetric
from probekit.metrics.sketch import Sketch

__all__ = ["LiveMemory"]


class LiveMemory:
    """The states of all sites of a running model, which are held at the same time.

    Args:
        metrics: what is measured.
        device: where the model runs.
        specs: for each site, the spec of its states, given the number of classes.
        seen: the metrics of each site, together with the number of observations of a row, for each way to see
            positions.
        batches: their number, if it is known.
    """

    def __init__(
        self,
        metrics: MetricSet,
        device: torch.device,
        specs: Mapping[str, Callable[[int], Spec]],
        seen: Mapping[str, Sequence[tuple[MetricSet, int]]],
        batches: int | None,
    ) -> None:
        self._metrics, self._device, self._specs = metrics, device, specs
        self._seen, self._batches = seen, batches
        self._rows = 0  # so far
        self._checked = 0, 0  # classes and rows that are known to fit

    def check(self, classes: int, rows: int) -> None:
        """Before a batch of so many rows, with so many classes so far: ProbekitError where the states don't fit."""
        expected = rows * (self._batches or 0) if not self._rows else 0
        self._rows += rows
        if classes <= self._checked[0] and self._rows <= self._checked[1]:
            return
        self._checked = classes, max(expected or 2 * self._rows, self._checked[1])
        self._require_room(*self._checked)

    def _require_room(self, classes: int, rows: int) -> None:
        states = [each for site in self._specs for each in self._of_site(site, classes, rows)]
        together = self._metrics.streaming("sites")
        specs = [spec(classes) for spec in self._specs.values()]
        states += _states(together, specs, rows, f"over the {len(specs)} sites")
        # All are held, and one of them is updated at a time.
        total = sum(state.held for state in states) + max(state.peak - state.held for state in states)
        there = available(self._device)
        if total <= there:
            return
        most = max(states, key=lambda state: state.peak)
        raise ProbekitError(
            f"{most.what} needs up to {format_size(most.peak)} for {classes} classes and {rows} rows while the model "
            f"runs, all together need {format_size(total)}, and memory is {format_size(there)} ({self._device}). "
            "Measure fewer sites (sites=), reduce them to fewer nodes (reduce=), or capture a store with "
            "probekit.capture and measure that.",
            arguments=("sites", "reduce"),
        )

    def _of_site(self, site: str, classes: int, rows: int) -> Iterator[_State]:
        spec = self._specs[site](classes)
        where = f"at site {site!r} with {spec.nodes} nodes"
        for metrics, observations in self._seen[site]:
            number = rows * observations
            yield from _states(metrics.streaming("node", "site"), spec, number, where)
            columns = ", ".join(repr(metric.name) for metric in metrics.columns)
            if columns:
                held = Sketch().state_bytes(spec, number)
                yield _State(f"The sketch for {columns} {where}", held, Sketch().memory(spec, number))


@dataclass(frozen=True)
class _State:
    """A state: `what` it is of, and the bytes that are `held`, and at most while it is updated or finalized."""

    what: str
    held: int
    peak: int


def _states(metrics: Sequence[StreamingMetric], spec: Any, samples: int, where: str) -> list[_State]:
    found = []
    for name, alike in sharing(metrics).items():
        held = state_bytes(next(metric for metric in metrics if metric.name == name), spec)
        peak = max(need(metric, spec, samples, where) for metric in alike)
        found.append(_State(f"The metric {name!r} {where}", held, max(held, peak)))
    return found
