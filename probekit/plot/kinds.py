"""The kinds of figures that belong to a store or to results: what each shows, needs, and is measured from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import xarray as xr

from probekit._measure.top import top
from probekit._results.headlines import compared, headlines_of
from probekit.plot.densities import distribution_grid
from probekit.plot.drawing import Drawing
from probekit.plot.heatmaps import by_class, heatmap_grid
from probekit.plot.layers import profile
from probekit.plot.matrices import confusion, matrix, pairs
from probekit.plot.nodes import medians
from probekit.plot.progressions import by_position, by_step
from probekit.plot.samples import samples

__all__ = ["KINDS", "Kind", "Source"]

_SAMPLES = 6  # of a node
_FEW = 4  # sites that have figures of their own, spread over the depth of the model
# Variables in the order in which they are preferred.
_AT_NODES = ("mean", "auroc_rest", "overlap_rest", "median", "sparsity")
_OF_CLASSES = ("mean", "sparsity", "auroc_rest", "overlap_rest", "silhouette")
_OF_PAIRS = ("overlap_pairs", "auroc", "dprime", "ks", "wasserstein")


@dataclass(frozen=True)
class Source:
    """What figures are drawn of: `results`, the `store` that they are of if it is at hand, and results by position."""

    results: xr.DataTree = field(default_factory=xr.DataTree)
    store: xr.DataTree = field(default_factory=xr.DataTree)
    positions: xr.DataTree = field(default_factory=xr.DataTree)

    def sites(self, variable: str, *dims: str) -> list[str]:
        """The sites that have a variable of numbers with these dims in any order, or with all of them but label."""
        wanted = [{*dims}, {*dims} - {"label"}]
        return [
            site
            for site, child in self.results.children.items()
            if variable in child.data_vars and {*child[variable].dims} in wanted and child[variable].dtype.kind in "iuf"
        ]


Named: TypeAlias = Iterator[tuple[str, Drawing]]


@dataclass(frozen=True)
class Kind:
    """One kind of figure.

    Attributes:
        name: as the command line calls it.
        shows: what it shows, in a few words.
        needs: what has to be there, for an error where it isn't.
        draw: the figures of a source, by what tells them apart; none where it lacks what they need.
        metrics: what is measured of a store for it, as far as it fits the store.
    """

    name: str
    shows: str
    needs: str
    draw: Callable[[Source], Named]
    metrics: tuple[str, ...] = ()


def _spread(sites: Sequence[str], most: int = _FEW) -> list[str]:
    """At most so many sites, from the first to the last."""
    at = np.linspace(0, len(sites) - 1, min(most, len(sites))).round().astype(int)
    return [sites[index] for index in at]


def _headlines(tree: xr.DataTree) -> Iterator[tuple[str, set[Hashable]]]:
    """Each variable of sites that a headline is about, with its dims."""
    for headline in headlines_of(tree).values():
        name = headline.variable
        having = [child[name] for child in tree.children.values() if name in child.data_vars]
        if having:
            yield name, {dim for variable in having for dim in variable.dims}


def _profiles(source: Source) -> Named:
    for name, dims in _headlines(source.results):
        if "step" not in dims:
            yield name, profile(source.results, name)


def _medians(source: Source) -> Named:
    if sites := source.sites("median", "label", "node"):
        yield "", medians(source.results, sites=sites)


def _distributions(source: Source) -> Named:
    if sites := source.sites("histogram", "label", "node", "bin"):
        yield "", distribution_grid(source.results, {site: _telling(source.results, site) for site in _spread(sites)})


def _telling(tree: xr.DataTree, site: str, count: int = 3) -> list[int]:
    """Nodes of a site from the one that tells classes apart best to the one that does least, evenly spread.

    A node tells classes apart as far as its value is from the neutral one of a headline; without one, nodes are evenly
    spread by their number.
    """
    data = tree.children[site]
    order = np.arange(data["histogram"].sizes["node"])
    for each in headlines_of(tree).values():
        if each.neutral is not None and each.variable in data.data_vars and "node" in data[each.variable].dims:
            apart = data[each.variable] - each.neutral
            distance = -apart if each.smallest else abs(apart)
            distance = distance.max([dim for dim in distance.dims if dim != "node"])
            kept = np.flatnonzero(np.isfinite(distance.values) & (distance.values > 0))
            order = kept[np.argsort(-distance.values[kept], kind="stable")] if len(kept) else order
            break
    return [int(order[at]) for at in np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)]


def _heatmaps(source: Source) -> Named:
    for name in [name for name in _AT_NODES if source.sites(name, "label", "node")][:2]:
        yield name, heatmap_grid(source.results, name, sites=_spread(source.sites(name, "label", "node")))


def _by_class(source: Source) -> Named:
    for name in _OF_CLASSES:
        sites = source.sites(name, "label", "node") or source.sites(name, "label")
        if sites and "label" in source.results.children[sites[0]][name].dims:
            yield name, by_class(source.results, name, sites=sites)


def _matrices(source: Source) -> Named:
    for name in compared(source.results):
        yield name, matrix(source.results, name)


def _pairs(source: Source) -> Named:
    dims = ("label", "label_b", "node")
    if name := next((name for name in _OF_PAIRS if source.sites(name, *dims)), None):
        for site in _spread(source.sites(name, *dims)):
            yield f"{name}-{site}", pairs(source.results, site, name)


def _confusion(source: Source) -> Named:
    if {"label", "prediction"} <= {*source.store.to_dataset().variables}:
        yield "", confusion(source.store)


def _samples(source: Source) -> Named:
    sites = source.sites("auroc_rest", "label", "node")
    if not sites or not source.store.children:
        return
    classes = source.results.children[sites[0]].to_dataset()["label"].values.tolist()
    at = np.linspace(0, len(classes) - 1, min(_FEW, len(classes))).round().astype(int)
    best = top(source.results, "auroc", per_class=1, classes=[classes[index] for index in at])
    found = best.samples(source.store, n=_SAMPLES)
    if all(each.text is not None or (each.file is not None and Path(each.file).is_file()) for each in found.samples):
        yield "", samples(found)


def _by_step(source: Source) -> Named:
    for name, dims in _headlines(source.results):
        if "step" in dims:
            yield name, by_step(source.results, name)


def _by_position(source: Source) -> Named:
    of_sites = [child.data_vars.items() for child in source.positions.children.values()]
    found = {str(name): variable for variables in of_sites for name, variable in variables}
    for name, variable in found.items():
        if {*variable.dims} in ({"label"}, {"label", "node"}) and variable.dtype.kind == "f":
            yield name, by_position(source.positions, name)


_EACH = (
    Kind(
        "profile",
        "each metric's headline over the sites, beside its chance or null",
        "metrics measured at sites, of one step",
        _profiles,
        ("sparsity", "overlap", "auroc", "selectivity", "linear_probe", "effective_rank"),
    ),
    Kind("medians", "the median of each class at every node", "the metric median", _medians, ("median",)),
    Kind(
        "distributions",
        "the distribution of each class at three nodes of up to four sites",
        "the metric histogram",
        _distributions,
        ("histogram", "overlap"),
    ),
    Kind(
        "heatmap",
        "classes × nodes of up to four sites",
        f"one of the variables {', '.join(_AT_NODES)} by class and node",
        _heatmaps,
        ("mean", "auroc"),
    ),
    Kind(
        "by-class",
        "classes × sites",
        f"one of the variables {', '.join(_OF_CLASSES)} by class",
        _by_class,
        ("mean", "sparsity", "auroc"),
    ),
    Kind("matrix", "how alike sites are", "a metric that compares sites, such as cka", _matrices, ("cka",)),
    Kind(
        "pairs",
        "how alike classes are at up to four sites",
        f"one of the variables {', '.join(_OF_PAIRS)} by pair of classes",
        _pairs,
        ("overlap",),
    ),
    Kind("confusion", "which class the model takes for which", "a store with labels and predictions", _confusion),
    Kind(
        "samples",
        "the samples that excite the best nodes of up to four classes most",
        "a labelled store with texts, or with the paths of images that are still there",
        _samples,
        ("auroc",),
    ),
    Kind("by-step", "each metric's headline over the steps of a training", "results of probekit.Watch", _by_step),
    Kind(
        "by-position",
        "what was measured at each position of the tokens",
        "a store with a row for each token, or its results by position",
        _by_position,
    ),
)
KINDS = {kind.name: kind for kind in _EACH}
