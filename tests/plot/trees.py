"""Small results, as `measure` gives them, with what figures read from their attributes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

Array = npt.NDArray[Any]


def variable(dims: tuple[str, ...], values: Any, metric: str, **headline: Any) -> xr.Variable:
    """A variable of a metric; with `headline`, the one that its headline is about."""
    told = {"over_nodes": "mean", "large": "much", "neutral": None, "beside": None} | headline
    return xr.Variable(dims, values, {"metric": metric} | ({"headline": json.dumps(told)} if headline else {}))


def tree(
    sites: Mapping[str, Mapping[str, xr.Variable]],
    names: list[str] | None = None,
    root: xr.Dataset | None = None,
    **attrs: Any,
) -> xr.DataTree:
    """Results of these variables by site, of classes with these names."""
    coords: dict[str, Any] = {}
    if names is not None:
        coords = {"label": range(len(names)), "class_name": ("label", names)}
    datasets = {site: xr.Dataset(dict(variables), _fitting(variables, coords)) for site, variables in sites.items()}
    return xr.DataTree.from_dict({"/": (xr.Dataset() if root is None else root).assign_attrs(attrs), **datasets})


def _fitting(variables: Mapping[str, xr.Variable], coords: dict[str, Any]) -> dict[str, Any]:
    return coords if any("label" in each.dims for each in variables.values()) else {}


def similarities(name: str, values: Array, sites: list[str]) -> xr.Dataset:
    """The root of results in which sites are compared."""
    return xr.Dataset({name: (("site", "site_b"), values)}, {"site": sites, "site_b": sites})


def overlaps(seed: int = 0, shift: float = 0.0, sites: int = 3) -> xr.DataTree:
    """Overlap at 3 sites of 20 nodes, and its null, as the metric gives them."""
    random = np.random.default_rng(seed)
    return tree(
        {
            f"relu{number}": {
                "overlap": variable(
                    ("node",),
                    random.uniform(0.3, 0.8, 20) - shift - 0.05 * number,
                    "overlap",
                    neutral=1.0,
                    beside="overlap_null",
                ),
                "overlap_null": variable(("node",), random.uniform(0.85, 0.9, 20), "overlap"),
            }
            for number in range(sites)
        }
    )


def aurocs(seed: int = 0, classes: int = 10, nodes: int = 24, sites: int = 2) -> xr.DataTree:
    """The area under the curve of every class against the rest, on both sides of its neutral ½."""
    random = np.random.default_rng(seed)
    return tree(
        {
            f"relu{number}": {
                "auroc_rest": variable(
                    ("label", "node"),
                    0.5 + random.uniform(-0.45, 0.45, (classes, nodes)) / (number + 1),
                    "auroc",
                    over_nodes="max",
                    neutral=0.5,
                )
            }
            for number in range(sites)
        },
        [f"class {code}" for code in range(classes)],
    )
