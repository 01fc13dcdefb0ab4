"""The tasks that repeat a measurement, and which metrics depend on the labels at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from probekit._measure.accumulator import ACROSS, leaders
from probekit._measure.grouping import Observations
from probekit._measure.metric_set import MetricSet, needs_target
from probekit._measure.needs import need, state_bytes
from probekit._measure.planner import reading_bytes
from probekit._measure.resampling.draws import Draws
from probekit._measure.resampling.repeats import ALL_SITES, CI, NULL, Repeats, What
from probekit._measure.resampling.settings import Resampling
from probekit._measure.resampling.units import ROW, SAMPLE_ID, Units
from probekit._measure.room import Least
from probekit._measure.site_rows import at_site, spec_of
from probekit._measure.site_source import Source
from probekit._measure.tasks import Task, Work
from probekit._results.missing import said_elsewhere
from probekit.errors import DataError, ProbekitError
from probekit.metrics import Metric, StreamingMetric
from probekit.metrics.protocol import BATCH

__all__ = ["column_bytes", "repeat_tasks", "repeats_least", "repeats_of", "seeing_labels"]

Measure: TypeAlias = Callable[[xr.DataTree, Metric], xr.DataTree]

_SAMPLES, _NODES, _CLASSES = 240, 3, 4  # of the small store on which a metric shows whether it depends on labels
_TASKS = 4  # of streaming metrics at a site, unless there are more cores
_TOGETHER = 10  # repeats of a sample metric in a task, which is what progress counts


def seeing_labels(asked: Resampling, metrics: Sequence[Metric], measure: Measure) -> frozenset[str]:
    """The names of the metrics that may be measured with shuffled labels. `measure` measures a small store.

    Raises DataError where nulls are asked for, and no metric depends on the labels.
    """
    shuffled = [metric for metric in metrics if asked.shuffles(metric, several=True)]
    seeing = frozenset(metric.name for metric in shuffled if not asked.null or _sees_labels(metric, measure))
    if asked.null and not seeing:
        raise DataError(
            f"null={asked.null!r} shuffles labels, and nothing that was asked for depends on them: "
            f"{', '.join(metric.name for metric in metrics)}. Ask for a metric that compares classes.",
            arguments=("null",),
        )
    return seeing


def repeats_of(asked: Resampling, seeing: frozenset[str], work: Work, root: xr.Dataset) -> Repeats | None:
    """The nulls, of the metrics `seeing` labels, and the intervals that are asked for; None where there are none.

    Raises DataError where labels or targets can't be shuffled.
    """
    shuffles = _shuffles(asked, seeing, work)
    if not shuffles and not asked.ci:
        return None
    draws = {key: _draws(asked, source, work.rows[key], root) for key, source in work.sources.items()}
    if work.common is not None:
        first = next(iter(work.sources.values()))
        draws[ALL_SITES] = _draws(asked, first, work.common, root)
    of_units = [draw.units for draw in draws.values()]
    if not asked.null and not (any(each.several for each in of_units) and all(each.shuffle for each in of_units)):
        shuffles = {name: number for name, number in shuffles.items() if name in _with_own(work)}
    found = Repeats(asked, draws, shuffles)
    if shuffles:
        _check_labels(found, work)
        _check_targets(found, work)
    return found if shuffles or asked.ci else None


def _shuffles(asked: Resampling, seeing: frozenset[str], work: Work) -> dict[str, int]:
    """How often labels are shuffled for each metric, by its name; not those for which they aren't."""
    sources = work.sources.values()
    several = asked.together not in (None, ROW) or any(source.tokens or source.each > 1 for source in sources)
    found = {m.name: asked.shuffles(m, several=several) for m in work.metrics.metrics if m.name in seeing}
    return {name: number for name, number in found.items() if number}


def _with_own(work: Work) -> set[str]:
    """The metrics that ask for a null themselves."""
    return {metric.name for metric in work.metrics.metrics if getattr(metric, "null_repeats", 0)}


def _draws(asked: Resampling, source: Source, rows: Observations, root: xr.Dataset) -> Draws:
    columns, together = source.columns(root), asked.together
    alone = not (asked.null or asked.ci)  # nobody asked for the null, which a metric has of its own
    if alone and together is None and source.tokens and not columns.has(SAMPLE_ID):
        together = ROW
    units = Units.find(source, columns, rows, asked.within, together)
    if alone and units.labels is None:
        units = Units.find(source, columns, rows, None, ROW)
    return Draws(units, asked.seed, source.name)


def _check_labels(repeats: Repeats, work: Work) -> None:
    by_labels = [m.name for m in work.metrics.metrics if m.name in repeats.shuffles and not needs_target(m)]
    for key in work.sources if by_labels else ():
        if work.rows[key].labels.values is None:
            raise DataError(
                f"A null of {by_labels[0]} shuffles labels, and the samples are not grouped: the store has no labels, "
                "or by=None was given. Group by one of its columns (by=).",
                arguments=("null", "by"),
            )
        repeats.draws[key].labels(0)


def _check_targets(repeats: Repeats, work: Work) -> None:
    if any(needs_target(metric) and metric.name in repeats.shuffles for metric in work.metrics.metrics):
        for key, rows in work.rows.items():
            repeats.draws[key].units.of_target(work.targets[key][rows.numbers], repeats.draws[key].site)


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
            with said_elsewhere():
                found.append(measure(xr.DataTree.from_dict({"/": root, **sites}), metric))
        except ProbekitError:  # it needs something else, such as bounds
            return True
    return not found[0].identical(found[1])


def column_bytes(repeats: Repeats | None, metrics: MetricSet) -> int:
    """The bytes that an observation of a node takes in addition, where column metrics are repeated."""
    # The unsorted values, those of a repeat, and what a metric prepares.
    return 32 if repeats is not None and repeats.any_of(metrics.columns) else 0


def repeats_least(repeats: Repeats, work: Work) -> Iterator[Least]:
    """What each of the tasks takes that repeat one thing once; none where blocks of nodes do it all."""
    for what in (NULL, CI):
        for group in _groups(repeats, work, what):
            named = f"the {'null' if what == NULL else 'interval'} of {', '.join(each.name for each in group.metrics)}"
            where = at_site(work.sources[group.task.site]) if group.task.site else ACROSS
            yield Least(
                group.bytes(1),
                f"One repeat of {named} {where}",
                ", group or pool to less (by=, sites=, reduce= of probekit.capture), or ask for fewer metrics",
                ("by", "sites", "reduce"),
            )


def repeat_tasks(repeats: Repeats, work: Work, memory: int, parallel: int) -> Iterator[Task]:
    """The tasks that repeat what blocks of nodes don't: each holds its repeats in so much memory, at least one."""
    metrics, sources = work.metrics, work.sources
    for what in (NULL, CI):
        for group in _groups(repeats, work, what):
            least = ceil(parallel / len(sources)) if group.task.site else parallel
            yield from _streams(repeats, what, group, memory, least)
        for key, source in sources.items():
            for metric in repeats.chosen(what, metrics.samples):
                task = Task("samples", key, metric=metric.name, repeat=what)
                rows = work.rows[key]
                needed = need(metric, spec_of(source, rows, source.nodes), rows.number, at_site(source))
                task = replace(task, held=_fits([source], work.rows, needed, memory))
                yield from _readings(repeats, what, metric, task)
        for metric in repeats.chosen(what, metrics.comparing):
            task = Task("compare", metric=metric.name, repeat=what)
            every = [*sources.values()]
            specs = [spec_of(source, work.rows[source.key], source.nodes) for source in every]
            needed = need(metric, specs, max(rows.number for rows in work.rows.values()), ACROSS)
            yield from _readings(repeats, what, metric, replace(task, held=_fits(every, work.rows, needed, memory)))


def _fits(sources: Sequence[Source], rows: Mapping[str, Observations], needed: int, memory: int) -> bool:
    """Whether all values of the sites fit beside what a metric needs, so that its repeats read them once."""
    reading = max(reading_bytes(source, rows[source.key], []) for source in sources)
    return sum(source.variable.nbytes for source in sources) + reading + needed <= memory


def _readings(repeats: Repeats, what: What, metric: Metric, task: Task) -> Iterator[Task]:
    """The tasks of a metric that reads the samples itself."""
    number = repeats.number_at(what, metric, task.site)
    for start in range(0, number, _TOGETHER):
        yield replace(task, start=start, stop=min(start + _TOGETHER, number))


@dataclass(frozen=True)
class _Group:
    """Streaming metrics whose repeats are made in one pass, as `task` says, and the bytes that they take.

    `fixed` of them whatever the number of repeats, and `each` for a repeat, or for the samples as they are.
    """

    task: Task
    metrics: Sequence[StreamingMetric]
    fixed: int
    each: int

    def bytes(self, repeats: int) -> int:
        return self.fixed + (repeats + 1) * self.each


def _groups(repeats: Repeats, work: Work, what: What) -> Iterator[_Group]:
    metrics, sources = work.metrics, work.sources
    for how in ("bootstrap", "jackknife") if what == CI else (None,):
        streams = repeats.chosen(what, metrics.streaming("node", "site"), how)
        for key, source in sources.items() if streams else ():
            spec = spec_of(source, work.rows[key], source.nodes)
            kept = 48 * len(streams) * spec.classes * spec.nodes  # six sums over the repeats of a variable
            reading, task = reading_bytes(source, work.rows[key], streams), Task("site", key, repeat=what, how=how)
            yield _group(task, streams, spec, work.rows[key].number, reading + kept, at_site(source))
    between = repeats.chosen(what, metrics.streaming("sites"))
    if between and work.common is not None:
        specs = [spec_of(source, work.common, source.nodes) for source in sources.values()]
        reading = sum(reading_bytes(source, work.common, between) for source in sources.values())
        task = Task("sites", repeat=what, how="jackknife" if what == CI else None)
        yield _group(task, between, specs, work.common.number, reading, ACROSS)


def _group(task: Task, metrics: Sequence[StreamingMetric], spec: Any, samples: int, fixed: int, where: str) -> _Group:
    """A repeat takes its states before and after an update, and the label or the weight of each sample.

    Shuffles also take the place of each row of a batch in the order of its classes.
    """
    kept = {metric.name: metric for metric in leaders(metrics).values()}
    states = sum(state_bytes(metric, spec) for metric in kept.values())
    placed = 32 * min(BATCH, samples) if task.repeat == NULL else 0
    finalized = max(need(metric, spec, samples, where) for metric in metrics)
    return _Group(task, metrics, fixed + finalized, 2 * states + 2 * samples + placed)


def _streams(repeats: Repeats, what: What, group: _Group, memory: int, least: int) -> Iterator[Task]:
    number = repeats.number_at(what, group.metrics[0], group.task.site)
    if group.task.how == "jackknife" and group.bytes(number) <= memory:
        yield group.task  # all blocks at once, whose states add up
        return
    fitting = (memory - group.fixed) // group.each - 1
    # The sums of every task are kept, so a task is of many repeats, in several passes if need be.
    together = ceil(number / max(least, min(_TASKS, ceil(number / fitting))))
    for start in range(0, number, together):
        stop = min(start + together, number)
        yield replace(group.task, start=start, stop=stop, together=min(fitting, stop - start))
