"""Which metrics are repeated how often, and the sums over their repeats that a task gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from probekit._beats import in_turn
from probekit._measure.grouping import Observations
from probekit._measure.metric_set import needs_target
from probekit._measure.resampling.draws import Draws
from probekit._measure.resampling.evaluation import Batches, Columns, redrawn, relabelled, streamed, without_each
from probekit._measure.resampling.settings import Resampling
from probekit._measure.resampling.tally import Tally
from probekit.metrics import Metric, StreamingMetric, Variables
from probekit.metrics.block import Array, Codes

__all__ = ["ALL_SITES", "CI", "NULL", "Repeats", "What"]

What: TypeAlias = Literal["null", "ci"]
Check: TypeAlias = Callable[[Metric, Any], Variables]
Measured: TypeAlias = Callable[[Observations, Array | None], Variables]

NULL: What = "null"
CI: What = "ci"
ALL_SITES = ""  # instead of a site's key


@dataclass(frozen=True)
class Repeats:
    """The nulls and intervals of a measurement.

    `draws` are those of each site, and of the rows of all sites, where some metric compares them. `shuffles` says how
    often labels are shuffled for a metric, by its name; the others have no null.
    """

    settings: Resampling
    draws: Mapping[str, Draws] = field(default_factory=dict)
    shuffles: Mapping[str, int] = field(default_factory=dict)

    def number(self, what: What, metric: Metric) -> int:
        """How many shuffles or draws a metric is asked for; 0 for none."""
        if what == NULL:
            return self.shuffles.get(metric.name, 0)
        return self.settings.draws(metric)

    def chosen(self, what: What, metrics: Sequence[Metric], how: str | None = None) -> list[Any]:
        """The metrics that are repeated: for intervals, those whose intervals are found by `how`."""
        asked = [metric for metric in metrics if self.number(what, metric)]
        return asked if how is None else [metric for metric in asked if self.settings.interval(metric) == how]

    def any_of(self, metrics: Sequence[Metric]) -> bool:
        return any(self.number(what, metric) for what in (NULL, CI) for metric in metrics)

    def times(self, metrics: Sequence[Metric]) -> float:
        """How many times as much the repeats of the metrics are as these themselves."""
        return sum(self.number(what, metric) for what in (NULL, CI) for metric in metrics) / len(metrics)

    def blocks(self, key: str) -> Codes:
        return self.draws[key].blocks(self.settings.repeats)

    def number_at(self, what: What, metric: Metric, key: str) -> int:
        """The repeats of a metric at a site: of a jackknife, its blocks."""
        if what == CI and self.settings.interval(metric) == "jackknife":
            return int(self.blocks(key).max()) + 1
        return self.number(what, metric)

    def of_columns(
        self,
        metrics: Sequence[Any],
        columns: Columns,
        found: Mapping[str, Variables],
        key: str,
        where: str,
        check: Check,
    ) -> dict[str, Variables]:
        """The sums of column metrics over all repeats, at the nodes of a block, by what they are for and the metric."""
        sums: dict[str, Variables] = {}
        asked = [(what, metric) for metric in metrics for what in (NULL, CI) if self.number(what, metric)]
        numbers = [self.number_at(what, metric, key) for what, metric in asked]
        for number, (what, metric) in zip(numbers, in_turn(asked, numbers), strict=True):
            if what == NULL:
                repeats = columns.shuffled(metric, self.draws[key], number, where)
            elif self.settings.interval(metric) == "jackknife":
                repeats = columns.without_each(metric, self.blocks(key), where)
            else:
                repeats = columns.redrawn(metric, self.draws[key], number, where)
            tally = Tally(metric, found[metric.name], null=what == NULL, whole=False)
            for variables in in_turn(repeats, [1] * number):
                tally.add(check(metric, variables))
            sums[f"{what}/{metric.name}"] = tally.variables
        return sums

    def of_streams(
        self,
        what: What,
        how: str | None,
        metrics: Sequence[StreamingMetric],
        passes: Sequence[range],
        spec: Any,
        batches: Batches,
        rows: Observations,
        key: str,
        where: str,
        check: Check,
    ) -> dict[str, Variables]:
        """The sums of streaming metrics over the repeats of each of the `passes` over the samples.

        Of intervals they are those of the metrics whose intervals are found by `how`. An empty pass are all blocks of a
        jackknife, from the blocks' states.
        """
        chosen: list[StreamingMetric] = self.chosen(what, metrics, how)
        tallies: dict[str, Tally] = {}
        for part in in_turn(passes):
            if len(part):
                as_they_are = relabelled(rows.codes, rows.labels.number)
                repeats = [as_they_are, *(self._repeat(what, how, repeat, rows, key) for repeat in part)]
                found = streamed(chosen, spec, where, batches, repeats)
            else:
                found = without_each(chosen, spec, where, batches, self.blocks(key))
            first = next(found)
            for m in chosen if not tallies else ():
                tallies[m.name] = Tally(m, check(m, first[m.name]), null=what == NULL, whole=True)
            for variables in found:
                for metric in chosen:
                    tallies[metric.name].add(check(metric, variables[metric.name]))
        return {f"{what}/{name}": tally.variables for name, tally in tallies.items()}

    def _repeat(self, what: What, how: str | None, repeat: int, rows: Observations, key: str) -> Any:
        draws = self.draws[key]
        if what == NULL:
            return relabelled(draws.labels(repeat), rows.labels.number)
        if how == "jackknife":
            return redrawn((self.blocks(key) != repeat).astype(np.int64))
        return redrawn(draws.counts(repeat))

    def of_samples(
        self,
        what: What,
        metric: Metric,
        part: range,
        measured: Measured,
        rows: Observations,
        target: Array | None,
        key: str,
    ) -> dict[str, Variables]:
        """The sums of a sample metric over a `part` of the repeats."""

        def of(repeat: int | None) -> Variables:
            if repeat is None:
                return measured(rows, target)
            if what == CI:
                return measured(rows.only(self.blocks(key) != repeat), target)
            if needs_target(metric):
                return measured(rows, self._other_target(target, repeat, rows, key))
            return measured(replace(rows, shuffled=self.draws[key].labels(repeat)), target)

        found = (of(repeat) for repeat in in_turn([None, *part]))
        tally = Tally(metric, next(found), null=what == NULL, whole=True)
        for variables in found:
            tally.add(variables)
        return {f"{what}/{metric.name}": tally.variables}

    def _other_target(self, target: Array | None, repeat: int, rows: Observations, key: str) -> Array | None:
        """The target of each row of the site, after those of the units were shuffled."""
        if target is None:
            return None
        draws, shuffled = self.draws[key], target.copy()
        of_units = draws.units.of_target(target[rows.numbers], draws.site)
        shuffled[rows.numbers] = of_units[draws.order(repeat)][draws.units.of]
        return shuffled
