"""What a report is about: measured results and, where it is known, the store that they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from probekit._measure.measure import measure
from probekit._probe.selectors import Selector
from probekit._results.files import holds_results, read
from probekit._store.store import open_store
from probekit.errors import DataError, check_kind
from probekit.metrics import Metric
from probekit.plot.lookup import class_names
from probekit.progress import Progress

__all__ = ["Metrics", "Source", "Subject"]

Source: TypeAlias = str | Path | xr.DataTree
Metrics: TypeAlias = str | Metric | Sequence[str | Metric]

_EXPECTED = "a store or results: the path of one, an open store, or the tree that measure gave"
_STORE = "a store: its path, or an open one"
_MORE = ("histogram", "top_samples")  # which the page needs beside the usual metrics


@dataclass(frozen=True)
class Subject:
    """`measured` results, the `store` they are of if it is known, and how both were named: `source`."""

    measured: xr.DataTree
    store: xr.DataTree | None
    source: str

    @classmethod
    def of(
        cls, source: Source, store: str | Path | xr.DataTree | None, metrics: Metrics | None, sites: Selector | None,
        progress: Progress,
    ) -> Subject:
        """The subject that is meant; a store is measured."""
        check_kind("source", source, (str, Path, xr.DataTree), _EXPECTED)
        named = "an open tree" if isinstance(source, xr.DataTree) else str(source)
        opened = source if isinstance(source, xr.DataTree) else read(source) if holds_results(source) else None
        if opened is not None and not _is_store(opened):
            if metrics is not None:
                raise DataError(
                    f"{named} holds results, so metrics= has nothing to measure. Give the store for that, or leave it "
                    "out.",
                    arguments=("metrics",),
                )
            return cls(_chosen(opened.load(), sites), None if store is None else _open(store), named)
        if store is not None:
            raise DataError(
                f"{named} is a store itself: store= is for the store that results are of.", arguments=("store",)
            )
        tree = open_store(source) if opened is None else opened
        measured = measure(tree if opened is not None else source, metrics or _usual(tree), sites=sites, progress=progress)
        return cls(measured, tree, named)
