"""The standard set of figures of a store or of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import NoneType

import xarray as xr

from probekit._bars import default
from probekit._measure.measure import fitting_metrics, measure
from probekit._measure.site_source import find_sources
from probekit._probe.selectors import Selector, match_names
from probekit._results.opening import is_store, open_any
from probekit.errors import DataError, check_kind, near
from probekit.plot.drawing import Drawings
from probekit.plot.kinds import KINDS, Kind, Source
from probekit.progress import Progress

__all__ = ["standard"]

_ALWAYS = ("median", "histogram")  # which any store has, beside what `measure` takes by default
_OF_POSITIONS = ("std", "sparsity")


def standard(
    source: str | Path | xr.DataTree,
    kinds: Sequence[str] | None = None,
    *,
    sites: Selector | None = None,
    progress: Progress | None = None,
) -> Drawings:
    """The figures that belong to a store or to results, by name, such as ``"profile-overlap"``: a dict of `Drawing`.

    A store is measured for them, by those metrics that `probekit.measure` would take by default, and by the median and
    the histogram.

    Args:
        source: the path of a store or of results, or such a tree.
        kinds: which kinds of figures, such as ``["medians", "matrix"]``; by default all for which `source` has what
            they need.
        sites: which sites, as in `probekit.measure`; by default all.
        progress: wraps what is measured, as in `probekit.measure`.

    Raises:
        DataError: no such kind, or `source` lacks what a kind that was asked for needs, or what any kind needs.
        SiteError: no site matches `sites`.
        StoreError: there is neither a store nor results at `source`.

    >>> import numpy as np, xarray as xr
    >>> layer = xr.Dataset({"median": (("label", "node"), np.eye(3))}, {"label": range(3)})
    >>> list(standard(xr.DataTree.from_dict({"relu1": layer})))
    ['medians', 'heatmap-median']
    """
    expected = "the path of a store or of results, or such a tree (a DataTree)"
    check_kind("source", source, (str, Path, xr.DataTree), expected)
    chosen = _chosen(kinds)
    tree = source if isinstance(source, xr.DataTree) else open_any(source)
    named = "The tree" if isinstance(source, xr.DataTree) else str(source)
    found = (
        _measured(tree, chosen, sites, named, default(progress)) if is_store(tree) else _of_results(tree, sites, named)
    )
    drawn = Drawings()
    for kind in chosen:
        figures = {"-".join(filter(None, (kind.name, about))): drawing for about, drawing in kind.draw(found)}
        if kinds is not None and not figures:
            raise DataError(f"{named} lacks what {kind.name} needs: {kind.needs}.", arguments=("kinds",))
        drawn |= figures
    if not drawn:
        needs = "; ".join(f"{kind.name}: {kind.needs}" for kind in chosen)
        raise DataError(f"{named} has nothing that a kind of figure is drawn of. They need {needs}.")
    return drawn


def _chosen(kinds: Sequence[str] | None) -> list[Kind]:
    check_kind("kinds", kinds, (list, tuple, NoneType), "a list of kinds of figures")
    for name in kinds or ():
        if name not in KINDS:
            raise DataError(
                f"There is no kind of figure {name!r}.{near(str(name), KINDS)} The kinds: {', '.join(KINDS)}.",
                arguments=("kinds",),
            )
    return [KINDS[name] for name in dict.fromkeys(kinds or KINDS)]


def _of_results(tree: xr.DataTree, sites: Selector | None, named: str) -> Source:
    """Results, of the sites that were asked for, as what figures are drawn of."""
    if sites is not None:
        names = {str(child.attrs.get("site", key)): key for key, child in tree.children.items()}
        kept = match_names(list(names), sites, where=named)
        root = tree.to_dataset(inherit=False)
        for dim in {"site", "site_b"} & {*root.dims}:
            root = root.sel({dim: [name for name in root[dim].values if name in kept]})
        groups = {names[name]: tree.children[names[name]].to_dataset(inherit=False) for name in kept}
        tree = xr.DataTree.from_dict({"/": root, **groups})
    return Source(positions=tree) if tree.attrs.get("by") == "position" else Source(tree)


def _measured(
    tree: xr.DataTree, kinds: Sequence[Kind], sites: Selector | None, named: str, progress: Progress
) -> Source:
    """A store, with what the kinds are drawn of measured."""
    results, positions = xr.DataTree(), xr.DataTree()
    fitting = {name.partition(":")[0]: name for name in (*_ALWAYS, *fitting_metrics(tree, sites, named)[0])}
    wanted = dict.fromkeys(name for kind in kinds for name in kind.metrics)
    if metrics := [fitting[name] for name in wanted if name in fitting]:
        results = measure(tree, metrics, sites=sites, progress=progress)
    tokens = [site.name for site in find_sources(tree, sites, named, "mean") if site.tokens]
    if tokens and any(kind.name == "by-position" for kind in kinds):
        positions = measure(tree, _OF_POSITIONS, sites=tokens, by="position", progress=progress)
    return Source(results, tree, positions)
