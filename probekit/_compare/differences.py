"""The headlines of metrics in several stores, their differences, and how uncertain these are over the samples.

The uncertainty comes from random halves: the samples are cut into two halves, each with half the samples of every
class, and the same samples in each store. With d₁ and d₂ the difference between two stores in either half, the mean of
((d₁ − d₂) / 2)² over several cuts estimates the variance of the difference in all samples. It is the jackknife that
deletes half of the samples (Shao and Wu 1989, A general theory for jackknife variance estimation, with d = n / 2, where
its factor is 1), which also serves medians, ranks and trained probes. Resampling with replacement would put one sample
into a probe's training and its test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import nan
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from probekit._compare.members import Member
from probekit._measure.measure import measure
from probekit._measure.site_rows import HoldsNaN
from probekit._results.assemble import NotGrouped
from probekit._results.headlines import headline_value, headlines_of
from probekit._results.missing import Missing, explained, missing_in, said_elsewhere
from probekit._results.summary import sites_of
from probekit.errors import DataError
from probekit.metrics import Headline, Metric
from probekit.metrics.block import Array, Codes
from probekit.progress import Progress, silent

__all__ = ["Difference", "Differences", "differences"]

Mask: TypeAlias = npt.NDArray[np.bool_]
Key: TypeAlias = tuple[str, str]  # a site and a metric
Apart: TypeAlias = dict[tuple[Key, bool], Array]  # also whether it is of nodes


@dataclass(frozen=True)
class Difference:
    """The headline of a metric at a site, in a store and in the first one.

    `difference` is `value` less `value_first`, and `error` its standard error over the samples.
    """

    store: str
    site: str
    metric: str
    value_first: float
    value: float
    difference: float
    error: float


@dataclass(frozen=True)
class Differences:
    """All differences, how to read the metrics, and for each store and site the differences of single nodes.

    `nodes` has, by the names of store and site, variables (node,) or (label, node): the metric's name is the
    difference's, and ``<metric>_error`` its standard error's, beside ``<metric>_first``, the value in the first store.
    `missing` says where a metric has no number, and why.
    """

    rows: tuple[Difference, ...]
    headlines: Mapping[str, Headline]
    nodes: Mapping[tuple[str, str], xr.Dataset]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class _Values:
    """What was measured of a store: the number of each site and metric, and of each of its nodes where it has them."""

    sites: Mapping[Key, float]
    nodes: Mapping[Key, xr.DataArray]


def differences(
    members: Sequence[Member],
    metrics: Sequence[Metric],
    *,
    repeats: int,
    seed: int,
    memory: str | int,
    progress: Progress,
) -> Differences:
    """The differences of every store from the first one; `members` have the same samples in the same order."""
    shared = [site for site in members[0].chosen if all(site in each.chosen for each in members)]
    if not shared:
        return Differences((), {}, {}, ())
    headlines: dict[str, Headline] = {}
    parts = [None, *_halves(members[0], repeats, seed)]
    full, missing = list[_Values](), tuple[str, ...]()
    errors = [_Errors() for _ in members[1:]]
    for part in progress(parts, f"{len(members)} stores, {repeats} times in halves", len(parts)):
        trees = [_measured(each, metrics, shared, part, memory) for each in members]
        headlines |= {name: one for tree in trees for name, one in headlines_of(tree).items()}
        _check_headlines(metrics, headlines)
        found = [_values(tree, headlines) for tree in trees]
        if part is None:
            full = found
            missing = tuple(explained(_missing(members, trees, headlines), headlines, of_stores=True))
        else:
            for error, values in zip(errors, found[1:], strict=True):
                error.add_half(_apart(values, found[0]))
    without = _without_interval(metrics, headlines, members[0].labels)
    rows = tuple(replace(each, error=nan) if each.metric in without else each for each in _rows(members, full, errors))
    nodes = {key: _cleared(each, without) for key, each in _of_nodes(members, shared, full, errors)}
    return Differences(rows, headlines, nodes, missing)


def _without_interval(
    metrics: Sequence[Metric], headlines: Mapping[str, Headline], labels: Codes | None
) -> dict[str, bool]:
    """The metrics of whose number halves of the samples don't tell how it varies, and whether they do of each node's.

    They don't of the largest of the nodes, which depends on the samples, nor where a class has enough samples for a
    metric and half of them are too few: the halves are of fewer classes then.
    """
    sizes = np.bincount(np.unique(labels, return_inverse=True)[1]) if labels is not None else np.zeros(0)
    found = {}
    for metric in metrics:
        needed = getattr(metric, "min_count", 0)
        if ((sizes >= needed) & (sizes // 2 < needed)).any():
            found[metric.name] = False
        elif headlines[metric.name].over_nodes == "max":
            found[metric.name] = True
    return found


def _cleared(nodes: xr.Dataset, without: Mapping[str, bool]) -> xr.Dataset:
    """The differences of single nodes, without errors over the classes where halves have fewer of these."""
    names = [f"{metric}_error" for metric, of_nodes in without.items() if not of_nodes]
    return nodes.assign(
        {name: nodes[name] * nan for name in names if name in nodes and "label" not in nodes[name].dims}
    )


def _missing(
    members: Sequence[Member], trees: Sequence[xr.DataTree], headlines: Mapping[str, Headline]
) -> Iterator[Missing]:
    """The metrics that have no number at a site of a store, named with the store."""
    for member, tree in zip(members, trees, strict=True):
        for each in chain.from_iterable(missing_in(tree, headlines)):
            if each.missing == each.size:
                yield replace(each, site=f"{each.site} of {member.name}")


def _measured(
    member: Member, metrics: Sequence[Metric], sites: list[str], part: Mask | None, memory: str | int
) -> xr.DataTree:
    try:
        with said_elsewhere():  # notes say what is missing of halves
            return measure(member.tree, metrics, sites=sites, where=part, memory=memory, progress=silent)
    except HoldsNaN as error:  # its message offers an argument that compare lacks
        raise DataError(
            f"{member.name} can't be compared. {error.fact}. compare leaves no samples out, since each has to be in "
            "every store: mend the model or the data, or choose other sites (sites=).",
            arguments=("sites",),
        ) from error
    except NotGrouped as error:  # so does this one
        raise DataError(
            f"{error.fact}, since {member.name} has no labels: leave the metric out, or capture the labels.",
            arguments=("metrics",),
        ) from error
    except DataError as error:
        raise DataError(
            f"{member.name} can't be measured. {error} compare leaves no samples out: choose other sites= or metrics.",
            arguments=error.arguments,
        ) from error


def _check_headlines(metrics: Sequence[Metric], known: Mapping[str, Headline]) -> None:
    for each in metrics:
        if each.name not in known:
            raise DataError(
                f"{each.name} has no headline, a number that can be compared. Give its class one (see "
                "probekit.metrics.Headline), or leave it out."
            )


def _halves(member: Member, repeats: int, seed: int) -> Iterator[Mask]:
    """So many times two masks of the samples, a half and the other one; of every class half of its samples.

    They depend on the ids of the samples, whatever the order is in which they come.
    """
    by_id = np.argsort(member.ids, kind="stable")
    strata = np.zeros(len(by_id), np.int64) if member.labels is None else member.labels[by_id]
    for repeat in range(repeats):
        shuffled = np.random.default_rng([seed, repeat]).permutation(len(by_id))
        # In the order of the classes, and within them a random one, every other sample.
        turn = shuffled[np.argsort(strata[shuffled], kind="stable")]
        half = np.zeros(len(by_id), np.bool_)
        half[by_id[turn[::2]]] = True
        yield half
        yield ~half


def _values(tree: xr.DataTree, headlines: Mapping[str, Headline]) -> _Values:
    sites, nodes = {}, {}
    for site, key in sites_of(tree, None).items():
        data = tree.children[key].to_dataset()
        for metric, headline in headlines.items():
            if headline.variable in data:
                variable = data[headline.variable]
                sites[site, metric] = headline_value(variable, headline).item()
                if "node" in variable.dims:
                    nodes[site, metric] = _by_node(variable)
    return _Values(sites, nodes)


def _by_node(variable: xr.DataArray) -> xr.DataArray:
    """The value of each node, for each class if it has classes: the mean over any other dims."""
    others = [dim for dim in variable.dims if dim not in ("label", "node")]
    values = variable.astype(np.float64).mean(others, skipna=True)
    return values.transpose(..., "node")


def _apart(values: _Values, first: _Values) -> Apart:
    """The differences of one store from the first, where both have one: for a site and metric and for its nodes."""
    sites = {
        (key, False): np.array(each - first.sites[key]) for key, each in values.sites.items() if key in first.sites
    }
    nodes = {
        (key, True): (each - first.nodes[key]).values
        for key, each in values.nodes.items()
        if _alike(each, first.nodes.get(key))
    }
    return sites | nodes


class _Errors:
    """The standard errors of the differences of a store, from those in halves, of which two and two are one cut."""

    def __init__(self) -> None:
        self._squares: Apart = {}
        self._cuts = 0
        self._other: Apart | None = None

    def add_half(self, apart: Apart) -> None:
        if self._other is None:
            self._other = apart
            return
        for key, values in apart.items():
            self._squares[key] = self._squares.get(key, np.zeros(())) + ((self._other[key] - values) / 2) ** 2
        self._other, self._cuts = None, self._cuts + 1

    def of(self, key: Key, *, nodes: bool) -> Array:
        error: Array = np.sqrt(self._squares[key, nodes] / self._cuts)
        return error


def _rows(members: Sequence[Member], full: Sequence[_Values], errors: Sequence[_Errors]) -> Iterator[Difference]:
    for member, values, error in zip(members[1:], full[1:], errors, strict=True):
        for (key, nodes), apart in _apart(values, full[0]).items():
            if not nodes:
                yield Difference(
                    member.name,
                    *key,
                    full[0].sites[key],
                    values.sites[key],
                    float(apart),
                    float(error.of(key, nodes=False)),
                )


def _of_nodes(
    members: Sequence[Member], sites: Sequence[str], full: Sequence[_Values], errors: Sequence[_Errors]
) -> Iterator[tuple[tuple[str, str], xr.Dataset]]:
    """The differences of single nodes, where a site has as many nodes in both stores, and the same classes."""
    for member, values, error in zip(members[1:], full[1:], errors, strict=True):
        apart = _apart(values, full[0])
        for site in sites:
            found: dict[str, xr.DataArray] = {}
            for key, nodes in apart:
                if nodes and key[0] == site:
                    first, metric = full[0].nodes[key].drop_attrs(), key[1]
                    found |= {metric: first.copy(data=apart[key, True]), f"{metric}_first": first}
                    found[f"{metric}_error"] = first.copy(data=error.of(key, nodes=True))
            yield (member.name, site), xr.Dataset(found)


def _alike(values: xr.DataArray, first: xr.DataArray | None) -> bool:
    """Whether two measured variables are of the same nodes and classes."""
    if first is None or values.shape != first.shape:
        return False
    return all(values[name].equals(first[name]) for name in ("label", "class_name") if name in first.coords)
