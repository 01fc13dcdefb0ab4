"""About how long metrics take, by which progress divides a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from probekit._measure.accumulator import ACROSS, call, leaders
from probekit.metrics import Spec

__all__ = ["finalizing", "updating", "updating_share"]

_VALUE = 1e-8  # seconds to read a value and add it to a state, where a metric doesn't say more


def updating(metrics: Sequence[Any], spec: Any, samples: int) -> float:
    """The seconds of all updates, for a spec, or a list of them for metrics that compare sites; a shared state once."""
    values = samples * (spec.nodes if isinstance(spec, Spec) else sum(one.nodes for one in spec))
    keepers = {metric.name: metric for metric in leaders(metrics).values()}
    return sum(_VALUE * values + _seconds(metric, spec, samples)[0] for metric in keepers.values())


def finalizing(metrics: Sequence[Any], spec: Any, samples: int) -> list[float]:
    """The seconds that `finalize` of each metric takes."""
    return [_seconds(metric, spec, samples)[1] for metric in metrics]


def updating_share(metrics: Sequence[Any], spec: Any, samples: int, times: int = 1) -> float:
    """The share of all updates in the time that they and `finalize`, so many `times`, take."""
    updates = updating(metrics, spec, samples)
    whole = updates + times * sum(finalizing(metrics, spec, samples))
    return updates / whole if whole else 1.0


def _seconds(metric: Any, spec: Any, samples: int) -> tuple[float, float]:
    """What the metric says of its updates and `finalize`, if it does."""
    if not callable(getattr(metric, "seconds", None)):
        return 0.0, 0.0
    where = f"at {spec.nodes} nodes" if isinstance(spec, Spec) else ACROSS
    updates, finalize = call(metric, where, metric.seconds, spec, samples, asked="how long it takes")
    return float(updates), float(finalize)
