"""The explorer: the results of every site, packed for a page whose script lets a reader choose among them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from probekit._table import shown
from probekit.errors import RESULTS, DataError, check_kind
from probekit.plot.densities import drawn_cells
from probekit.plot.lookup import class_names, headline_of, neutral_of, tells_below
from probekit.report.charts import charts
from probekit.report.colours import class_colours
from probekit.report.meanings import meaning_of
from probekit.report.packing import packed, packed_pairs

__all__ = ["MOST_BYTES", "Explorer", "explorer_of", "has_nodes"]

MOST_BYTES = 8_000_000  # of packed results; the charting library takes 1.3 MB more

_KINDS = {("node",): "node", ("label", "node"): "class", ("label", "label_b", "node"): "pairs"}
_CELLS = ("histogram", "histogram_edges", "histogram_atoms", "histogram_atom")
_RESOLUTION = 40  # cells of a node's range, at most
_MOST_PARTS = 9  # of a variable with one more dim, such as quantile
_FILL = (np.nan, 0.0, np.nan, np.nan)  # of edges, heights, values and shares


Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Explorer:
    """What a page holds: a JSON object for its script, the number of nodes shown, and of those that were measured."""

    data: dict[str, Any]
    shown: int
    total: int


@dataclass(frozen=True)
class _Variable:
    """A measured variable: its `values`, the value that is `neutral`, and what it is `about` if it is a headline's.

    Where it is `below`, values tell the more the further they lie below the neutral one, and nothing above it.
    """

    values: xr.DataArray
    neutral: float | None
    below: bool
    about: str

    @property
    def kind(self) -> str | None:
        """Whether it is one of nodes, of classes or of pairs of classes; None for others."""
        return next((kind for dims, kind in _KINDS.items() if set(self.values.dims) == set(dims)), None)

    def rank_key(self) -> Floats:
        """How early each node comes, larger first: the distance from what is neutral, or the value; NaN last."""
        values = self.values.transpose(..., "node").values.astype(float)
        apart = values if self.neutral is None else values - self.neutral
        key = -apart if self.below else apart if self.neutral is None else np.abs(apart)
        filled: Floats = np.where(np.isnan(key), -np.inf, key).reshape(-1, key.shape[-1]).max(0)
        return filled

    def packed(self, name: str) -> dict[str, Any]:
        dims = next(dims for dims, kind in _KINDS.items() if kind == self.kind)
        values = self.values.transpose(*dims).values
        made = packed_pairs(values) if self.kind == "pairs" else packed(values)
        about = {"neutral": self.neutral, "below": self.below, "about": self.about, "of": self.values.attrs.get("of")}
        return {"name": name, "kind": self.kind, **about, "values": made}


@dataclass(frozen=True)
class _Site:
    """A site as it is shown: `variables` and `cells` of the `nodes` that are shown, of `total`."""

    name: str
    classes: Sequence[str]
    variables: Mapping[str, _Variable]
    cells: xr.Dataset | None
    nodes: npt.NDArray[np.intp]
    total: int

    @property
    def first(self) -> str:
        """The variable that is shown first: the first headline that says how nodes tell classes apart, if any.

        One that most nodes lack isn't, such as the selectivity of nodes that go below 0.
        """
        measured = {name: each for name, each in self.variables.items() if "of" not in each.values.attrs}
        ranked = {name: each for name, each in measured.items() if each.kind != "pairs"}
        numbers = {name: each for name, each in ranked.items() if each.values.dtype != bool}
        known = [name for name, each in numbers.items() if np.isfinite(each.rank_key()).mean() > 0.5]
        told = [name for name in known if ranked[name].about]
        return next((name for name in told if ranked[name].neutral is not None), [*told, *known, *ranked][0])

    @property
    def size(self) -> int:
        """Values that would be packed."""
        cells = [] if self.cells is None else list(self.cells.data_vars.values())
        return sum(each.size for each in [*(each.values for each in self.variables.values()), *cells])

    def best(self, share: float) -> _Site:
        """The site with a share of its nodes, at least one: those with the first rank by its first variable."""
        order = np.argsort(-self.variables[self.first].rank_key(), kind="stable")
        kept = np.sort(order[: max(1, int(share * len(order)))])
        return replace(
            self,
            variables={
                name: replace(each, values=each.values.isel(node=kept)) for name, each in self.variables.items()
            },
            cells=None if self.cells is None else self.cells.isel(node=kept),
            nodes=self.nodes[kept],
        )


def explorer_of(tree: xr.DataTree, most_bytes: int = MOST_BYTES) -> Explorer:
    """The explorer of measured results, in at most about so many bytes.

    Where there is more than fits, each site keeps the same share of its nodes, those that its first variable ranks
    first. Of results at several steps it shows the last.

    Raises:
        DataError: no site has numbers for its nodes.
    """
    check_kind("tree", tree, xr.DataTree, RESULTS)
    sites = _sites(tree)
    if not sites:
        raise DataError("There is nothing to explore: the results have no site with numbers for its nodes.")
    classes = list(dict.fromkeys(name for site in sites for name in site.classes))
    share, found = min(1.0, most_bytes / (0.2 * sum(site.size for site in sites) + 1)), []
    while True:
        kept = [site.best(share) if share < 1 else site for site in sites]
        found = [_packed_site(site) | {"classes": [classes.index(name) for name in site.classes]} for site in kept]
        bytes_ = len(json.dumps(found))
        if bytes_ <= most_bytes or all(len(site.nodes) == 1 for site in kept):
            break
        share *= 0.95 * most_bytes / bytes_
    data = {
        "sites": found,
        "classes": classes,
        "colours": class_colours(len(classes)),
        "charts": charts(len(classes)),
    }
    return Explorer(data, sum(len(site.nodes) for site in kept), sum(site.total for site in kept))


def has_nodes(tree: xr.DataTree) -> bool:
    """Whether there is anything to explore."""
    return bool(_sites(tree))


def _sites(tree: xr.DataTree) -> list[_Site]:
    return [site for key, group in tree.children.items() if (site := _site(tree, key, group)) is not None]


def _site(tree: xr.DataTree, key: str, group: xr.DataTree) -> _Site | None:
    """A site with what can be shown of it; None where its nodes have no numbers."""
    site = group.to_dataset()
    if "step" in site.dims:
        site = site.isel(step=-1)
    found = {name: _variable(tree, name, each) for name, each in _parts(site)}
    variables = {name: each for name, each in found.items() if each.kind is not None}
    if all(each.kind == "pairs" for each in variables.values()):
        return None
    total = site.sizes["node"]
    return _Site(
        name=str(group.attrs.get("site", key)),
        classes=class_names(site) if "label" in site.dims else ["all samples"],
        variables=variables,
        cells=site[list(_CELLS)] if set(_CELLS) <= set(map(str, site.data_vars)) else None,
        nodes=np.arange(total),
        total=total,
    )


def _variable(tree: xr.DataTree, name: str, values: xr.DataArray) -> _Variable:
    headline = headline_of(tree, name)
    neutral = None if values.dtype == bool else neutral_of(tree, name)
    # A headline's own words are about whole sites, such as «for every class, some node …».
    about = (meaning_of(str(values.attrs.get("metric"))) or headline.large) if headline and headline.large else ""
    return _Variable(values, neutral, neutral is not None and tells_below(tree, name), about)


def _parts(site: xr.Dataset) -> Iterator[tuple[str, xr.DataArray]]:
    """The variables with numbers; those with one more dim of few values, such as quantile, one by one."""
    for name, variable in site.data_vars.items():
        if variable.dtype.kind not in "iufb" or name in _CELLS:
            continue
        more = [dim for dim in variable.dims if dim not in ("label", "label_b", "node")]
        if not more:
            yield str(name), variable
        elif more[0] in variable.coords and len(more) == 1 and variable.sizes[more[0]] <= _MOST_PARTS:
            for at, value in enumerate(variable[more[0]].values.tolist()):
                yield f"{name} {shown(value)}", variable.isel({more[0]: at})


def _packed_site(site: _Site) -> dict[str, Any]:
    return {
        "name": site.name,
        "total": site.total,
        "shown": len(site.nodes),
        "nodes": None if len(site.nodes) == site.total else site.nodes.tolist(),
        "first": site.first,
        "variables": [each.packed(name) for name, each in site.variables.items()],
        "cells": None if site.cells is None else _packed_cells(site.cells),
    }


def _packed_cells(cells: xr.Dataset) -> dict[str, Any]:
    """The distributions of nodes: heights (class, node, bin) of 255ths of the node's highest density, over edges
    (node, bin + 1); shares (class, node, atom) of each class's samples at the values atoms (node, atom)."""
    if "label" not in cells.dims:
        cells = cells.assign({name: cells[name].expand_dims("label") for name in ("histogram", "histogram_atoms")})
    dims = [("node", "edge"), ("node", "label", "bin"), ("node", "atom"), ("node", "label", "atom")]
    names = ("histogram_edges", "histogram", "histogram_atom", "histogram_atoms")
    arrays = [cells[name].transpose(*each).values.astype(float) for name, each in zip(names, dims, strict=True)]
    drawn = zip(*(_drawn(*node) for node in zip(*arrays, strict=True)), strict=True)
    edges, heights, values, shares = (_stacked(each, fill) for each, fill in zip(drawn, _FILL, strict=True))
    return {
        "bins": heights.shape[-1],
        "atoms": values.shape[-1],
        "edges": packed(edges),
        "heights": packed(heights.swapaxes(0, 1).astype(np.uint8)),
        "values": packed(values),
        "shares": packed(shares.swapaxes(0, 1), 3),
    }


def _drawn(edges: Floats, counts: Floats, atoms: Floats, on_atoms: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Edges, heights, atoms and shares of one node; nothing of a node with infinite values, which has no scale."""
    if np.isinf(edges).any() or np.isinf(atoms).any():
        edges, atoms = np.full_like(edges, np.nan), np.full_like(atoms, np.nan)
    total = counts.sum(1) + on_atoms.sum(1)
    edges, counts, atoms, on_atoms = drawn_cells(edges, counts, atoms, on_atoms, _RESOLUTION)
    per_class = np.where(total > 0, total, np.nan)[:, None]
    density = np.nan_to_num(counts / per_class / np.diff(edges)) if len(edges) else counts
    heights = np.round(255 * density / (density.max(initial=0) or 1)).astype(np.float64)
    return edges, heights, atoms, on_atoms / per_class


def _stacked(arrays: Sequence[Floats], fill: float) -> Floats:
    """The nodes' arrays as one (node, …), whose last axis is as long as the longest."""
    longest = max(each.shape[-1] for each in arrays)
    stacked = np.full((len(arrays), *arrays[0].shape[:-1], longest), fill)
    for whole, each in zip(stacked, arrays, strict=True):
        whole[..., : each.shape[-1]] = each
    return stacked
