"""The rows of a site as columns, read a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from probekit._measure.grouping import Where, selected
from probekit._measure.site_source import Source
from probekit._store.codec import Array
from probekit._store.layout import ACTIVATION, INPUTS, MASK, SAMPLE, TEXTS
from probekit._store.lazy_array import as_stored
from probekit._store.sample_columns import SampleColumns

__all__ = ["SAMPLES", "Column", "SiteRows", "rows_of_samples", "rows_of_site"]

SAMPLES = "(samples)"  # what the samples of token rows are called among the sites; no module's name begins so
_COPIES = 3  # of the values that are read: as they are in the store, those that are kept, and those of the file


@dataclass(frozen=True)
class Column:
    """A value, or an array of values, for each row; of all rows, those that are `kept`."""

    variable: xr.Variable
    kept: npt.NDArray[np.bool_] | None

    @property
    def is_text(self) -> bool:
        return self.variable.dtype.kind in "OUT"

    @property
    def dtype(self) -> np.dtype[Any]:
        found: np.dtype[Any] = self.variable.dtype
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        rows = len(self.variable) if self.kept is None else int(self.kept.sum())
        return rows, *self.variable.shape[1:]

    def batches(self, rows: int) -> Iterator[Array]:
        """The values of the rows that are kept, of so many rows at a time."""
        for first in range(0, len(self.variable), rows):
            span = slice(first, first + rows)
            values = self.variable[span].values
            yield values if self.kept is None else values[self.kept[span]]


@dataclass(frozen=True)
class SiteRows:
    """The columns of one site: what is known of each row, its mask, and its activation.

    Attributes:
        key: what the site's files are called.
        about: what the columns are: the site, the dims of each of several, its attributes, the names of the classes.
        columns: by name.
        class_names: of the codes in the column `label`.
        rows: that are read together, whole chunk rows where they fit.
    """

    key: str
    about: Mapping[str, Any]
    columns: Mapping[str, Column]
    class_names: tuple[str, ...] | None
    rows: int

    @property
    def batches(self) -> int:
        """How many reads that takes."""
        return -(-len(next(iter(self.columns.values())).variable) // self.rows)


def rows_of_site(source: Source, root: xr.Dataset, where: Where | None, memory: int) -> SiteRows:
    """What is exported of a site.

    Raises:
        DataError: `where` selects none of its rows, or there is no such column.
    """
    columns = source.columns(root)
    kept = selected(columns, source.rows, where)
    chosen = [name for name in columns.names if name != INPUTS and not (source.tokens and name in TEXTS)]
    found = {name: columns.find(name) for name in chosen}
    found |= {name: source.site.variables[name] for name in (MASK, ACTIVATION) if name in source.site.variables}
    about = {"site": source.name, **source.attrs}
    return _site_rows(source.key, about, found, kept, columns, _rows_together(source.variable, memory))


def rows_of_samples(root: xr.Dataset, where: Where | None, memory: int) -> SiteRows:
    """What is exported of the samples themselves, to which the rows of tokens belong by their `sample_id`."""
    columns = SampleColumns("the samples", root, root)
    kept = selected(columns, root.sizes[SAMPLE], where)
    found = {name: columns.find(name) for name in columns.names if name != INPUTS}
    return _site_rows(SAMPLES, {}, found, kept, columns, max(1, memory // 2**12))


def _site_rows(
    key: str,
    about: Mapping[str, Any],
    found: Mapping[str, xr.Variable],
    kept: npt.NDArray[np.bool_] | None,
    columns: SampleColumns,
    rows: int,
) -> SiteRows:
    names = columns.class_names if columns.has("label") else None
    told: dict[str, Any] = {"dims": {name: list(map(str, variable.dims)) for name, variable in found.items()}}
    told |= {} if names is None else {"class_name": list(names)}
    return SiteRows(
        key,
        {**about, **told},
        {name: Column(as_stored(variable), kept) for name, variable in found.items()},
        names,
        rows,
    )


def _rows_together(activation: xr.Variable, memory: int) -> int:
    """Rows that fit in memory, as whole chunk rows where one does."""
    fit = max(1, memory // (_COPIES * max(1, prod(activation.shape[1:]) * activation.dtype.itemsize)))
    chunk: int = activation.encoding.get("chunks", (1,))[0]
    together: int = fit - fit % chunk if fit >= chunk else fit
    return together
