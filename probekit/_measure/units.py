"""Which rows of a site belong together, for the metrics that hold rows out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from probekit._measure.grouping import Observations
from probekit._measure.metric_set import compares_classes
from probekit._measure.resampling.units import ROW
from probekit._measure.site_source import Source
from probekit._store.sample_columns import SAMPLE_ID, SampleColumns
from probekit.errors import DataError
from probekit.metrics import Metric
from probekit.metrics.block import Array, Codes

__all__ = ["Units", "check_units", "check_use", "units_of"]

Units: TypeAlias = Mapping[tuple[str, str | None], Codes]  # of each row of a site, by the site's key and the column


def units_of(metrics: Sequence[Metric], sources: Mapping[str, Source], root: xr.Dataset, together: str | None) -> Units:
    """The unit of each row, (row,) int64, of each site, for every column by which a metric splits the rows.

    A metric that names no column splits by the column `together`, if there is one, else by sample.

    Raises DataError where there is no such column, or nothing tells to which sample a row belongs.
    """
    asked = dict.fromkeys(metric.split_by for metric in metrics if hasattr(metric, "split_by"))
    return {
        (key, by): _units(source.columns(root), *_column(by, together), source)
        for key, source in sources.items()
        for by in asked
    }


def check_units(
    units: Units,
    metrics: Sequence[Metric],
    sources: Mapping[str, Source],
    rows: Mapping[str, Observations],
    together: str | None,
) -> None:
    """Raise DataError where a column by which a metric splits the rows leaves nothing to hold out at a site."""
    for metric in (each for each in metrics if hasattr(each, "split_by")):
        column, argument = _column(metric.split_by, together)
        for key, source in sources.items() if column is not None else ():
            of_rows = units[key, metric.split_by][rows[key].numbers]
            _check(metric, of_rows, rows[key], f"{column!r} ({argument}=)", source.name)


def check_use(together: str | None, metrics: Sequence[Metric], repeated: bool) -> None:
    """Raise DataError where it makes no difference which rows belong together; `repeated` says if rows are drawn."""
    if together in (None, ROW) or repeated or any(getattr(metric, "split_by", "") is None for metric in metrics):
        return
    raise DataError(
        f"together is {together!r}, and nothing that was asked for shuffles, draws or holds out rows: ask for "
        "null='permute', a ci, or a metric that holds rows out, such as linear_probe.",
        arguments=("together",),
    )


def _column(by: str | None, together: str | None) -> tuple[str | None, str]:
    """The column by which rows are split, None for samples, and the argument that names it."""
    return (by, "split_by") if by is not None or together == ROW else (together, "together")


def _check(metric: Any, units: Codes, rows: Observations, by: str, site: str) -> None:
    """Raise DataError where all rows have one unit, or those of each class for a metric that compares classes."""
    by_class = compares_classes(metric)
    classes, width = rows.codes if by_class else np.zeros_like(units), int(units.max(initial=0)) + 1
    if len(units) > 1 and np.bincount(np.unique(classes * width + units) // width).max() == 1:
        raise DataError(
            f"{metric.name} is split by {by}, of which {'the samples of each class' if by_class else 'all samples'} "
            f"have one value at site {site!r}: held out, they leave no others to learn from. Name a column with more, "
            "or none.",
            arguments=("metrics",),
        )


def _units(columns: SampleColumns, by: str | None, argument: str, source: Source) -> Codes:
    if by is not None:
        try:
            values = _plain(columns.find(by).values)
        except DataError as error:
            arguments = ("metrics",) if argument == "split_by" else (argument,)
            raise DataError(f"Rows are to be split by {by!r} ({argument}=). {error}", arguments=arguments) from error
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
