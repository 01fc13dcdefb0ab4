"""Comparing stores in one call."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from numbers import Integral

import pandas as pd
import xarray as xr
from scipy.special import stdtrit

from probekit._bars import default
from probekit._compare.between import Between, between
from probekit._compare.comparison import Comparison, Settings
from probekit._compare.differences import Differences, differences
from probekit._compare.members import Member, Stores, matched, opened
from probekit._compare.notes import incomparable
from probekit._measure.measure import fitting_metrics
from probekit._measure.metric_set import needs_target, resolved
from probekit._measure.resampling.settings import check_draws
from probekit._probe.selectors import Selector
from probekit._provenance import COMMAND, call_of
from probekit._sizes import parse_size
from probekit._store.layout import group_names
from probekit.errors import DataError, check_kind
from probekit.metrics import Headline, Metric
from probekit.metrics.ranges import range_of
from probekit.progress import Progress

__all__ = ["compare"]

_BETWEEN = ("cka", "rsa")  # which compare measures of different stores
_ORIGINS = (
    *("model_name", "model", "weights_from", "weights", "mode", "data", "data_split", "data_limit"),
    *("preprocessing", "created", "command"),
)


def compare(
    stores: Stores,
    metrics: str | Metric | Sequence[str | Metric] | None = None,
    *,
    sites: Selector | None = None,
    repeats: int = 10,
    confidence: float = 0.95,
    seed: int = 0,
    memory: str | int = "1GiB",
    progress: Progress | None = None,
) -> Comparison:
    """Several stores side by side: checkpoints, seeds, models, with an adapter and without, quantised and not.

    Every store is compared with the first one, on the samples that all of them have, joined by ``sample_id`` whatever
    their order (rows of tokens by ``sample_id`` and ``position``). The result has the differences of each metric's
    headline, at sites and at nodes, with their uncertainty over the samples; how alike all sites of the first store and
    of the others are, by debiased CKA and by RSA; and how the nodes of the same sites correlate. It prints itself,
    draws itself (``.plot``) and writes a page (``.write``). What isn't comparable is among its ``cautions``.

    The uncertainty is that of the difference over samples, paired: the samples are cut at random into two halves, with
    half of every class, and the metrics are measured in both halves of every store. With d₁ and d₂ the difference in
    either half, the mean over the cuts of ((d₁ − d₂) / 2)² estimates the variance of the difference in all samples
    (the jackknife that deletes half of the samples: Shao and Wu 1989). Intervals take Student's t with `repeats`
    degrees of freedom. This serves means, medians, ranks and trained probes alike; it tells nothing of other seeds of a
    training. Each class keeps its share of the samples. Where half of the samples are too few for a metric, the
    interval is NaN. The metrics are measured once on all samples and ``2 * repeats`` times on half of them.

    Chunk rows of the stores are read, never whole stores. The sites of a store whose samples are in another order than
    those of the first are put in order in a temporary file of their size, in the folder that TMPDIR names. For feature
    maps, means over the positions are compared.

    Args:
        stores: two or more, as paths or open, in a list or by name: ``{"epoch 1": "a.zarr", "epoch 9": "b.zarr"}``.
        metrics: as for `probekit.measure`, each with a headline; by default those that fit all stores.
        sites: a glob, a regex or a list of them; by default all sites.
        repeats: how often the samples are cut into halves.
        confidence: of the intervals.
        seed: of the cuts.
        memory: the most memory for values of the stores, for cross-scatters, and for states of metrics.
        progress: wraps the iterables of what is done; by default bars, see `probekit.options`.

    Raises:
        StoreError: there is no store at a path.
        DataError: fewer than two stores or common samples, a store without unique sample ids, a metric without a
            headline, or NaN in the data.
        SiteError: no site of a store matches `sites`.
        ProbekitError: what is needed doesn't fit in `memory`, or a temporary file doesn't fit on its disk.

    Example:
        >>> import numpy as np, xarray as xr, probekit as pk
        >>> x, ids = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40)
        >>> def store(x, ids):
        ...     root = xr.Dataset(coords={"sample_id": ("sample", ids)})
        ...     return xr.DataTree.from_dict({"/": root, "relu": xr.Dataset({"activation": (("sample", "node"), x)})})
        >>> found = pk.compare({"before": store(x, ids), "after": store(x[::-1] + 1, ids[::-1])}, "mean")
        >>> found.to_dataframe()["difference"].round(6).tolist()
        [1.0]
        >>> found.similarity["cka"].values.round(6).tolist()
        [[[1.0]]]
    """
    given = locals().copy()
    check_kind("repeats", repeats, Integral, "a number of cuts into halves")
    if repeats < 2:
        raise DataError(f"repeats is {repeats}; an interval needs at least 2 cuts.", arguments=("repeats",))
    check_draws(seed, confidence)
    shown = default(progress)
    bytes_allowed = parse_size(memory)
    chosen = None if metrics is None else _comparable(resolved(metrics))
    members = opened(stores, sites)
    common = matched(members)
    compared = chosen or _fitting(common)
    measured = differences(common, compared, repeats=repeats, seed=seed, memory=memory, progress=shown)
    alike = between(common, bytes_allowed, shown)
    quantile = float(stdtrit(repeats, (1 + confidence) / 2))
    return Comparison(
        names=tuple(each.name for each in members),
        samples=common[0].samples,
        differences=measured.rows,
        similarity=alike.similarity,
        nodes=_nodes(members, measured, alike),
        origins=_origins(members),
        cautions=(*incomparable(members, common), *measured.missing),
        headlines=dict(measured.headlines),
        spans={each.name: _span(each, measured.headlines.get(each.name)) for each in compared},
        settings=Settings(repeats, seed, confidence, quantile, COMMAND.get() or call_of(compare, given)),
    )


def _comparable(metrics: Sequence[Metric]) -> list[Metric]:
    for each in metrics:
        if getattr(each, "scope", "") == "sites":
            raise DataError(
                f"{each.name} compares the sites of one store. compare finds cka and rsa between the stores itself: "
                f"leave {each.name} out."
            )
        if needs_target(each):
            raise DataError(
                f"{each.name} needs a target, which compare doesn't take: leave {each.name} out.",
                arguments=("metrics",),
            )
    return list(metrics)


def _span(metric: Metric, headline: Headline | None) -> float:
    """How far apart two values of a metric's headline can be."""
    if headline is None or headline.over_nodes == "sum":
        return inf
    least, greatest = range_of(metric, headline.variable)
    return greatest - least


def _fitting(members: Sequence[Member]) -> list[Metric]:
    """The metrics that fit all stores: without those that compare sites, and without nulls, which cancel."""
    shared = [site for site in members[0].chosen if all(site in each.chosen for each in members)]
    if not shared:
        return []
    found = [list(fitting_metrics(each.tree, shared, each.name)[0]) for each in members]
    names = [name for name in found[0] if all(name in others for others in found)]
    return list(resolved([name.partition(":")[0] for name in names if name not in _BETWEEN]))


def _nodes(members: Sequence[Member], measured: Differences, alike: Between) -> xr.DataTree:
    """A group for each site that all stores have, of what is known of its nodes, along the dim store."""
    others = [each.name for each in members[1:]]
    sites = [site for site in members[0].chosen if all((other, site) in alike.nodes for other in others)]
    groups = {}
    for site, key in group_names(sites).items():
        parts = [xr.merge([alike.nodes[name, site], measured.nodes.get((name, site), xr.Dataset())]) for name in others]
        together = xr.concat(parts, pd.Index(others, name="store"), data_vars="all", coords="minimal", join="outer")
        groups[key] = together.assign_attrs(site=site)
    return xr.DataTree.from_dict(groups)


def _origins(members: Sequence[Member]) -> pd.DataFrame:
    """What is known of each store, a row for each fact that is known of any of them, and whether it is the same."""
    facts = {name: [each.attrs.get(name) for each in members] for name in _ORIGINS}
    facts |= {"samples": [each.samples for each in members], "sites": [len(each.chosen) for each in members]}
    rows = {
        name.replace("_", " "): [_alike(values), *(None if value is None else str(value) for value in values)]
        for name, values in facts.items()
        if any(value is not None for value in values)
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["", *(each.name for each in members)], dtype=object)


def _alike(values: Sequence[object]) -> str:
    return "same" if all(value == values[0] for value in values) else "differs"
