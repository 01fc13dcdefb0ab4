"""Which rows of a site belong together, for the metrics that hold rows out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from probekit._measure.site_source import Source
from probekit._store.sample_columns import SAMPLE_ID, SampleColumns
from probekit.errors import DataError
from probekit.metrics import Metric
from probekit.metrics.block import Array, Codes

__all__ = ["Units", "units_of"]

Units: TypeAlias = Mapping[tuple[str, str | None], Codes]  # of each row of a site, by the site's key and the column


def units_of(metrics: Sequence[Metric], sources: Mapping[str, Source], root: xr.Dataset) -> Units:
    """The unit of each row, (row,) int64, of each site, for every column by which a metric splits the rows.

    Raises DataError where there is no such column, or nothing tells to which sample a row belongs.
    """
    asked: set[str | None] = {metric.split_by for metric in metrics if hasattr(metric, "split_by")}
    return {(key, by): _units(source.columns(root), by, source) for key, source in sources.items() for by in asked}


def _units(columns: SampleColumns, by: str | None, source: Source) -> Codes:
    if by is not None:
        try:
            values = _plain(columns.find(by).values)
        except DataError as error:
            raise DataError(f"Rows are to be split by {by!r} (split_by=). {error}", arguments=("metrics",)) from error
        # The same units at every site, also where a site has no row of some samples.
        every = np.concatenate([values, *(_plain(each.values) for each in columns.of_all_samples(by))])
        return np.searchsorted(np.unique(every), values).astype(np.int64)
    if not source.tokens:
        return np.arange(source.rows)
    if SAMPLE_ID in columns.of_samples:
        return columns.samples_of_rows(np.arange(source.rows)).astype(np.int64)
    if SAMPLE_ID not in columns.own:
        raise DataError(
            f"Site {source.name!r} has a row for each token and no 'sample_id', which tells the rows of one sample: "
            "they must not be on both sides of a split. Give the site that column.",
            arguments=("sites",),
        )
    return np.unique(columns.own[SAMPLE_ID].values, return_inverse=True)[1].astype(np.int64)


def _plain(values: Array) -> Array:
    """Values that can be put in order: strings as Python's own."""
    plain: Any = values.astype(object) if values.dtype.kind in "UT" else values
    found: Array = plain
    return found
