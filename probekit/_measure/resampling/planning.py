"""The tasks that repeat a measurement, and which metrics depend on the labels at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import ceil
from typing import TypeAlias

import numpy as np
import xarray as xr

from probekit._measure.accumulator import leaders
from probekit._measure.grouping import Observations
from probekit._measure.metric_set import MetricSet, needs_target
from probekit._measure.needs import state_bytes
from probekit._measure.resampling.draws import Draws
from probekit._measure.resampling.repeats import ALL_SITES, CI, NULL, Repeats, What
from probekit._measure.resampling.settings import Resampling
from probekit._measure.resampling.units import ROW, SAMPLE_ID, Units
from probekit._measure.site_rows import spec_of
from probekit._measure.site_source import Source
from probekit._measure.tasks import Task, Work
from probekit.errors import DataError, ProbekitError
from probekit.metrics import Metric, StreamingMetric

__all__ = ["column_bytes", "repeat_tasks", "repeats_of", "seeing_labels"]

Measure: TypeAlias = Callable[[xr.DataTree, Metric], xr.DataTree]

_SAMPLES, _NODES, _CLASSES = 240, 3, 4  # of the small store on which a metric shows whether it depends on labels
_TOGETHER = 10  # repeats of a sample metric in a task, which is what progress counts


def seeing_labels(asked: Resampling, metrics: Sequence[Metric], measure: Measure) -> frozenset[str]:
    """The names of the metrics that are measured with shuffled labels. `measure` measures a small store.

    Raises DataError where nulls are asked for, and no metric depends on the labels.
    """
    shuffled = [metric for metric in metrics if asked.shuffles(metric)]
    seeing = frozenset(metric.name for metric in shuffled if not asked.null or _sees_labels(metric, measure))
    if asked.null and not seeing:
        raise DataError(
            f"null={asked.null!r} shuffles labels, and nothing that was asked for depends on them: "
            f"{', '.join(metric.name for metric in metrics)}. Ask for a metric that compares classes.",
            arguments=("null",),
        )
    return seeing


def repeats_of(asked: Resampling, seeing: frozenset[str], work: Work, root: xr.Dataset) -> Repeats | None:
    """The repeats that metrics are asked for, with shuffled labels those `seeing`; None where there are none.

    Raises DataError where labels can't be shuffled.
    """
    metrics = work.metrics
    seeing &= {metric.name for metric in metrics.metrics}
    if not seeing and not asked.ci:
        return None
    draws = {key: _draws(asked, source, work.rows[key], root) for key, source in work.sources.items()}
    if work.common is not None:
        first = next(iter(work.sources.values()))
        draws[ALL_SITES] = _draws(asked, first, work.common, root)
    found = Repeats(asked, draws, seeing)
    if seeing:
        _check_labels(found, work)
    return found if found.any_of(metrics.metrics) else None


def _draws(asked: Resampling, source: Source, rows: Observations, root: xr.Dataset) -> Draws:
    columns, together = source.columns(root), asked.together
    if asked == Resampling(seed=asked.seed):  # nobody asked for the null, which a metric has of its own
        units = None if source.tokens and not columns.has(SAMPLE_ID) else Units.find(source, columns, rows, None, None)
        together = ROW if units is None or units.labels is None else None
    units = Units.find(source, columns, rows, asked.within, together)
    return Draws(units, asked.seed, source.name)


def _check_labels(repeats: Repeats, work: Work) -> None:
    by_labels = [m.name for m in work.metrics.metrics if m.name in repeats.seeing and not needs_target(m)]
    for key in work.sources if by_labels else ():
        if work.rows[key].labels.values is None:
            raise DataError(
                f"A null of {by_labels[0]} shuffles labels, and the samples are not grouped: the store has no labels, "
                "or by=None was given. Group by one of its columns (by=).",
                arguments=("null", "by"),
            )
        repeats.draws[key].labels(0)


def _sees_labels(metric: Metric, measure: Measure) -> bool:
    """Whether a metric gives something else on the same samples with other labels, or depends on a target."""
    if needs_target(metric):
        return True
    rng = np.random.default_rng(0)
    x = {name: rng.standard_normal((_SAMPLES, _NODES), np.float32) for name in "ab"}
    for values in x.values():  # some metrics are NaN at nodes with values below 0
        np.maximum(values[:, 1], 0, out=values[:, 1])
        np.abs(values[:, 2], out=values[:, 2])
    found = []
    for labels in (np.arange(_SAMPLES) % _CLASSES, rng.permutation(_SAMPLES) % _CLASSES):
        root = xr.Dataset(coords={"label": ("sample", labels)})
        sites = {name: xr.Dataset({"activation": (("sample", "node"), x[name])}) for name in "ab"}
        try:
            found.append(measure(xr.DataTree.from_dict({"/": root, **sites}), metric))
        except ProbekitError:  # it needs something else, such as bounds
            return True
    return not found[0].identical(found[1])


def column_bytes(repeats: Repeats | None, metrics: MetricSet) -> int:
    """The bytes that an observation of a node takes in addition, where column metrics are repeated."""
    # The unsorted values, those of a repeat, and what a metric prepares.
    return 32 if repeats is not None and repeats.any_of(metrics.columns) else 0


def repeat_tasks(repeats: Repeats, work: Work, memory: int, parallel: int) -> Iterator[Task]:
    """The tasks that repeat what blocks of nodes don't: each holds the states of its repeats in so much memory."""
    metrics, sources = work.metrics, work.sources
    for what in (NULL, CI):
        streams = repeats.chosen(what, metrics.streaming("node", "site"))
        for key, source in sources.items():
            if streams:
                state = _state(streams, spec_of(source, work.rows[key], source.nodes), work.rows[key].number)
                least = ceil(parallel / len(sources))
                yield from _streams(repeats, what, streams, Task("site", key, repeat=what), state, memory, least)
            for metric in repeats.chosen(what, metrics.samples):
                yield from _readings(repeats, what, metric, Task("samples", key, metric=metric.name, repeat=what))
        for metric in repeats.chosen(what, metrics.comparing):
            yield from _readings(repeats, what, metric, Task("compare", metric=metric.name, repeat=what))
        between = repeats.chosen(what, metrics.streaming("sites"))
        if between and work.common is not None:
            specs = [spec_of(source, work.common, source.nodes) for source in sources.values()]
            state = _state(between, specs, work.common.number)
            yield from _streams(repeats, what, between, Task("sites", repeat=what), state, memory, parallel)


def _readings(repeats: Repeats, what: What, metric: Metric, task: Task) -> Iterator[Task]:
    """The tasks of a metric that reads the samples itself."""
    number = _number(repeats, what, metric, task.site)
    for start in range(0, number, _TOGETHER):
        yield replace(task, start=start, stop=min(start + _TOGETHER, number))


def _number(repeats: Repeats, what: What, metric: Metric, key: str) -> int:
    if what == CI and repeats.settings.interval(metric) == "jackknife":
        return int(repeats.blocks(key).max()) + 1
    return repeats.number(what, metric)


def _state(metrics: Sequence[StreamingMetric], spec: object, samples: int) -> int:
    """The bytes of a repeat: its states, and the label or the weight of each sample."""
    kept = {metric.name: metric for metric in leaders(metrics).values()}
    return sum(state_bytes(metric, spec) for metric in kept.values()) + 2 * samples


def _streams(
    repeats: Repeats, what: What, metrics: Sequence[Metric], task: Task, state: int, memory: int, least: int
) -> Iterator[Task]:
    number = _number(repeats, what, metrics[0], task.site)
    if what == CI and repeats.settings.interval(metrics[0]) == "jackknife" and 2 * (number + 1) * state <= memory:
        yield task  # all blocks at once, whose states add up
        return
    fitting = max(1, memory // state // 2 - 1)
    together = min(fitting, ceil(number / least))
    for start in range(0, number, together):
        yield replace(task, start=start, stop=min(start + together, number))
