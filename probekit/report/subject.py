"""What a report is about: measured results and, where it is known, the store that they are of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from probekit._measure.measure import fitting_metrics, measure
from probekit._probe.selectors import Selector
from probekit._results.opening import is_store, open_any
from probekit._results.summary import sites_of
from probekit.errors import DataError, check_kind
from probekit.metrics import Metric
from probekit.plot.lookup import class_names
from probekit.progress import Progress

__all__ = ["Metrics", "Source", "Subject"]

Source: TypeAlias = str | Path | xr.DataTree
Metrics: TypeAlias = str | Metric | Sequence[str | Metric]

_CAPTURE = ("weights", "created")  # what tells captures apart
_EXPECTED = "a store or results: the path of one, an open store, or the tree that measure gave"


@dataclass(frozen=True)
class Subject:
    """`measured` results, the `store` they are of where it is known, and how the reader knows them: `named`."""

    measured: xr.DataTree
    store: xr.DataTree | None
    named: str

    @classmethod
    def of(
        cls,
        source: Source,
        store: Source | None,
        metrics: Metrics | None,
        sites: Selector | None,
        progress: Progress,
    ) -> Subject:
        """The results that are meant, or those of a store that is measured now.

        Raises:
            DataError: `metrics` for results, a `store` for a store, or one that the results aren't of.
        """
        check_kind("source", source, (str, Path, xr.DataTree), _EXPECTED)
        tree = _opened(source)
        if not is_store(tree):
            _refuse(metrics, "metrics", f"{_name(source)} holds results: there is nothing to measure.")
            kept = tree.isel(step=-1) if "step" in tree.sizes else tree
            of = None if store is None else _opened_store(store)
            if of is not None and store is not None:
                _check_origin(tree, source, of, store)
            return cls(_chosen(kept.load(), sites), of, _name(source))
        _refuse(store, "store", f"{_name(source)} is a store itself.")
        return cls(_measured(source, tree, metrics, sites, progress), tree, _name(source))

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What is known of model and data."""
        found = dict(self.measured.attrs) | ({} if self.store is None else dict(self.store.attrs))
        return {str(key): value for key, value in found.items()}

    @cached_property
    def sites(self) -> list[str]:
        return [str(group.attrs.get("site", key)) for key, group in self.measured.children.items()]

    @cached_property
    def nodes(self) -> int:
        """The nodes of all sites."""
        return sum(group.to_dataset().sizes.get("node", 0) for group in self.measured.children.values())

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes; none where the samples aren't in groups."""
        most: list[str] = []
        for group in self.measured.children.values():
            names = class_names(group.to_dataset()) if "label" in group.to_dataset().dims else []
            most = max(most, names, key=len)
        return most

    @cached_property
    def class_samples(self) -> dict[str, int] | None:
        """The samples of each class, where the store has labels; None where that isn't known."""
        root = xr.Dataset() if self.store is None else self.store.to_dataset()
        if "label" not in root.variables or self.attrs.get("by") != "label":
            return None
        counts = np.bincount(root["label"].values, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=False))

    @cached_property
    def samples(self) -> int | None:
        return None if self.store is None else self.store.to_dataset().sizes.get("sample")

    @cached_property
    def accuracy(self) -> float | None:
        """The share of samples whose label the model predicted, where the store has both."""
        root = xr.Dataset() if self.store is None else self.store.to_dataset()
        if not {"label", "prediction"} <= set(root.variables):
            return None
        return float((root["prediction"].values == root["label"].values).mean())


def _measured(
    source: Source, tree: xr.DataTree, metrics: Metrics | None, sites: Selector | None, progress: Progress
) -> xr.DataTree:
    """The results of a store; by default of what fits it, and of distributions."""
    measurable = source if isinstance(source, xr.DataTree) else str(source)
    if metrics is not None:
        return measure(measurable, metrics, sites=sites, progress=progress)
    reasons, left_out = fitting_metrics(tree, sites, _name(source))
    found = measure(measurable, [*reasons, "histogram"], sites=sites, progress=progress)
    found.attrs["left_out"] = json.dumps(left_out)
    return found


def _opened(source: Source) -> xr.DataTree:
    return source if isinstance(source, xr.DataTree) else open_any(source)


def _opened_store(source: Source) -> xr.DataTree:
    tree = _opened(source)
    if not is_store(tree):
        raise DataError(f"{_name(source)} holds results; store= is the store that they are of.", arguments=("store",))
    return tree


def _check_origin(results: xr.DataTree, named: Source, tree: xr.DataTree, store: Source) -> None:
    """Raise DataError where results are of another capture than the store."""
    for fact in _CAPTURE:
        measured, captured = results.attrs.get(fact), tree.attrs.get(fact)
        if measured is not None and captured is not None and measured != captured:
            raise DataError(
                f"{_name(store)} isn't the store that {_name(named)} was measured of: {fact} is {captured} in the "
                f"store and {measured} in the results. Give the store that was measured (store=).",
                arguments=("store",),
            )


def _name(source: Source) -> str:
    return "the tree" if isinstance(source, xr.DataTree) else str(source)


def _refuse(value: object, argument: str, reason: str) -> None:
    if value is not None:
        raise DataError(f"{reason} Leave {argument}= out.", arguments=(argument,))


def _chosen(tree: xr.DataTree, sites: Selector | None) -> xr.DataTree:
    """The results of some sites alone."""
    if sites is None:
        return tree
    found = sites_of(tree, sites)
    root = tree.to_dataset()
    if "site" in root.dims:
        root = root.sel(site=list(found), site_b=list(found))
    return xr.DataTree.from_dict({"/": root} | {key: tree.children[key].to_dataset() for key in found.values()})
