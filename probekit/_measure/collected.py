"""The results of each site, put together from those of the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from probekit._beats import in_turn
from probekit._measure.accumulator import finalized, side_by_side, sites_results
from probekit._measure.durations import finalizing
from probekit._measure.grouping import Observations
from probekit._measure.positions import all_said, positions_said
from probekit._measure.resampling.repeats import ALL_SITES
from probekit._measure.resampling.results import Found, beside, found_at
from probekit._measure.site_rows import at_site, spec_of
from probekit._measure.tasks import Task, TaskResult, Work
from probekit._results.assemble import check, dataset_of, join
from probekit._results.estimates import bins_of
from probekit.metrics import Metric, State, Variables
from probekit.metrics.block import Codes

__all__ = ["results_of"]


def results_of(work: Work, done: Sequence[tuple[Task, TaskResult]]) -> dict[str, xr.Dataset]:
    """The results of each site, and of all together, from those of the tasks in the order of the plan."""
    keys = in_turn([*work.sources], [source.nodes for source in work.sources.values()])
    children = {key: _of_site(work, key, [each for each in done if each[0].site == key]) for key in keys}
    overall = [result for task, result in done if task.kind in ("sites", "compare") and not task.repeat]
    root = _of_sites(work, overall) if overall else xr.Dataset()
    made = {ALL_SITES: root, **children}
    if work.repeats is not None:
        made = beside(made, {key: _repeated(work, key, done) for key in made}, work.repeats, work.metrics.metrics)
    return made


def _repeated(work: Work, key: str, done: Sequence[tuple[Task, TaskResult]]) -> list[Found]:
    """What the repeats of a site gave, or those of all sites."""
    of_site = [(task, result.repeats) for task, result in done if task.site == key]
    blocks = [repeats for task, repeats in of_site if task.kind == "block"]
    parts = [repeats for task, repeats in of_site if task.repeat]
    return found_at(work.metrics.metrics, blocks, parts)


def _of_site(work: Work, key: str, done: Sequence[tuple[Task, TaskResult]]) -> xr.Dataset:
    source, rows, metrics = work.sources[key], work.rows[key], work.metrics
    blocks = [result for task, result in done if task.kind in ("block", "select")]
    found: dict[str, Variables] = {}
    for task, result in done:
        found |= result.variables if task.kind in ("site", "samples") else {}
    found |= {
        metric.name: join(metric, [block.variables[metric.name] for block in blocks]) for metric in metrics.columns
    }
    streaming = metrics.of_blocks
    if streaming:
        states = _joined([block.states for block in blocks])
        durations = finalizing(streaming, spec_of(source, rows, source.nodes), rows.number)
        for metric, variables in finalized(streaming, states, at_site(source), durations):
            found[metric.name] = check(metric, variables, rows.labels, at_site(source), node=source.nodes)
    samples = np.bincount(rows.codes, minlength=rows.labels.number)
    about = _numbers(rows, samples) | {"activation_dtype": str(source.variable.dtype), "approximate": 0}
    about |= {"omitted": rows.omitted} if rows.omitted else {}
    about |= {"tokens": 1} if source.tokens else {}

    def said(metric: Metric) -> dict[str, Any]:
        return about | bins_of(metric, samples) | positions_said(metric, source.pooling, source.positions, source.attrs)

    made = dataset_of([(m, found[m.name]) for m in metrics.metrics if m.name in found], rows.labels, said)
    return made.assign_attrs(source.attrs | {"site": source.name} | all_said([source.pooling], source.positions))


def _numbers(rows: Observations, samples: Codes) -> dict[str, int]:
    """How many observations are measured, and how many classes have some `samples`; 0 where these aren't grouped."""
    return {"n": rows.number, "classes": int(np.count_nonzero(samples)) if rows.labels.values is not None else 0}


def _joined(states: Sequence[Mapping[str, State]]) -> dict[str, State]:
    return {name: side_by_side([each[name] for each in states]) for name in states[0]}


def _of_sites(work: Work, results: Sequence[TaskResult]) -> xr.Dataset:
    """The results that compare sites, in the order of `work`."""
    assert work.common is not None
    sources = list(work.sources.values())
    about: dict[str, Any] = _numbers(work.common, np.bincount(work.common.codes)) | {"approximate": 0}
    about |= all_said([sources[0].pooling], *(source.positions for source in sources))
    found = {name: variables for result in results for name, variables in result.variables.items()}
    names = [source.name for source in sources]
    return sites_results(work.metrics.of_sites, found, names, work.common.labels, about)
