"""What a measurement reads: the sites of a store as (sample, node) tiles, and the groups of its samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from probekit.errors import DataError, StoreError, near
from probekit.layout import ACTIVATION, CLASS_NAME, ROW, SAMPLE, node_axis
from probekit.metrics.block import Array, Codes, Grouping, working_dtype
from probekit.names import Selector, match_names
from probekit.opening import as_stored

__all__ = ["Groups", "Source", "find_sources"]

_ROWS, _NODES = 4096, 128  # samples read at a time, and nodes where an array has no tiles, being in memory
_READ_BYTES = 8 * 2**20
_GIVES = ("output", "operation")  # the kinds of site that hold what a module or an operation gives
_BOUNDS = {
    "relu": (0.0, np.inf),
    "relu6": (0.0, 6.0),
    "sigmoid": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "softplus": (0.0, np.inf),
    "tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
}


@dataclass(frozen=True)
class Groups:
    """The group of each sample as a code, the value and the name of each group; `labels` is None for a single group."""

    by: str | None
    codes: Codes
    labels: Array | None
    names: tuple[str, ...]

    @property
    def number(self) -> int:
        return len(self.names)

    def grouping(self) -> Grouping:
        return Grouping.of(self.codes, self.number)

    @classmethod
    def of(cls, store: xr.Dataset, by: str | None) -> Groups:
        """The samples of a store's root grouped by one of its columns.

        The groups of `label` are all its classes, those without samples too; of another column, the values it has.
        There is a single group for `by` None, and by label where the store has none.

        Raises:
            DataError: there is no such column, it isn't one of integers, bools or strings, or there are no samples.
        """
        if "sample" not in store.sizes or not store.sizes["sample"]:
            raise DataError("The store holds no samples, so there is nothing to measure.")
        if by is None or (by == "label" and by not in store.variables):
            return cls(None, np.zeros(store.sizes["sample"], np.int64), None, ("",))
        values = _column(store, by)
        if by == "label" and CLASS_NAME in store.variables:
            return cls._of_classes(values, tuple(map(str, store.variables[CLASS_NAME].values)))
        labels, codes = np.unique(values, return_inverse=True)
        return cls(by, codes.astype(np.int64), labels, tuple(map(str, labels)))

    def of_tokens(self, site: xr.Dataset) -> Groups:
        """The same groups of the rows of a token site, which has the samples' columns beside each row."""
        if self.by is None or self.labels is None:
            return replace(self, codes=np.zeros(site.sizes[ROW], np.int64))
        codes = np.searchsorted(self.labels, _column(site, self.by, ROW))
        return replace(self, codes=codes.astype(np.int64))

    @classmethod
    def _of_classes(cls, codes: Array, names: tuple[str, ...]) -> Groups:
        if codes.min() < 0 or codes.max() >= len(names):
            raise DataError(
                f"Labels go from {codes.min()} to {codes.max()}, but the store names {len(names)} classes, "
                f"0 to {len(names) - 1}."
            )
        return cls("label", codes.astype(np.int64), np.arange(len(names)), names)


def _column(store: xr.Dataset, name: str, dim: str = SAMPLE) -> Array:
    columns = [str(column) for column, variable in store.variables.items() if variable.dims == (dim,)]
    if name not in columns:
        raise DataError(
            f"The store has no column {name!r} to group samples by; it has {', '.join(columns) or 'none'}."
            f"{near(name, columns)} Or group by none with by=None."
        )
    values = store.variables[name].values
    if values.dtype.kind not in "iubUTO":
        raise DataError(f"Samples can't be grouped by {name!r}: its values are {values.dtype}, not codes or names.")
    return values.astype(object) if values.dtype.kind in "UT" else values


@dataclass(frozen=True)
class Source:
    """The activations of one site, read as tiles (sample, node), or (token, node) where `site` has tokens for rows.

    `key` is the site's group in the store, `name` its name in the model. The node of a feature map is the channel, else
    the last axis; what other axes an activation has are pooled by their mean.
    """

    key: str
    name: str
    site: xr.Dataset

    @property
    def variable(self) -> xr.Variable:
        return as_stored(self.site.variables[ACTIVATION])

    @property
    def attrs(self) -> dict[str, Any]:
        return {str(key): value for key, value in self.site.attrs.items()}

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The least and the greatest value that its module or operation can give, where that is known."""
        return _BOUNDS.get(str(self.attrs.get("type", "")).casefold()) if self.attrs.get("kind") in _GIVES else None

    @property
    def tokens(self) -> bool:
        return self.variable.dims[0] == ROW

    @property
    def samples(self) -> int:
        """Its rows."""
        return int(self.variable.shape[0])

    @property
    def nodes(self) -> int:
        return int(self.variable.shape[self._axis]) if self._axis else 1

    @property
    def positions(self) -> int:
        """Values that are pooled into one."""
        return prod(self.variable.shape[1:]) // max(1, self.nodes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that the values are measured in."""
        return working_dtype(self.variable.dtype)

    @property
    def tile(self) -> tuple[int, int]:
        """Samples and nodes that are read together: those stored together, or several such rows where they are few."""
        chunks = self.variable.encoding.get("chunks") or self._unstored_chunks()
        nodes = min(chunks[self._axis], self.nodes) if self._axis else 1
        row_bytes = nodes * self.positions * self.variable.dtype.itemsize
        together = max(1, min(_ROWS, _READ_BYTES // row_bytes) // chunks[0])
        return min(together * chunks[0], self.samples), nodes

    def _unstored_chunks(self) -> tuple[int, ...]:
        return tuple(_NODES if axis == self._axis else 1 for axis in range(self.variable.ndim))

    @property
    def _axis(self) -> int | None:
        dims = [str(dim) for dim in self.variable.dims[1:]]
        return 1 + node_axis(dims) if dims else None

    def read(self, start: int, stop: int) -> Iterator[tuple[int, Array]]:
        """The nodes `start` to `stop` of all samples, one row of tiles after the other: (first sample, values)."""
        rows = self.tile[0]
        for first in range(0, self.samples, rows):
            yield first, self._values(slice(first, min(first + rows, self.samples)), slice(start, stop))

    def _values(self, samples: slice, nodes: slice) -> Array:
        axis = self._axis
        if axis is None:
            return self.variable[samples].values[:, None].astype(self.dtype)
        index = tuple(samples if n == 0 else nodes if n == axis else slice(None) for n in range(self.variable.ndim))
        values = np.moveaxis(self.variable[index].values, axis, 1)
        if values.ndim > 2:
            values = values.reshape(*values.shape[:2], -1).mean(axis=2, dtype=np.float64)
        return np.require(values, self.dtype, "W")


def find_sources(tree: xr.DataTree, sites: Selector | None, where: str) -> list[Source]:
    """The sites of a store that `sites` selects, all of them for None, in the store's order.

    Raises:
        SiteError: a selector that selects nothing.
        StoreError: the store has no sites.
        DataError: a site's activations don't have a row for each sample.
    """
    groups = {key: child for key, child in tree.children.items() if ACTIVATION in child.data_vars}
    if not groups:
        raise StoreError(f"{where} holds no sites: no group of it has a variable {ACTIVATION!r}.")
    names = {str(child.attrs.get("site", key)): key for key, child in groups.items()}
    chosen = list(names) if sites is None else match_names(list(names), sites, where=where)
    samples = tree.sizes["sample"]
    return [_source(names[name], name, groups[names[name]], samples) for name in chosen]


def _source(key: str, name: str, child: xr.DataTree, samples: int) -> Source:
    source = Source(key, name, child.to_dataset(inherit=False))
    variable = source.variable
    first = variable.dims[0] if variable.dims else None
    if first != ROW and (first != SAMPLE or source.samples != samples):
        raise DataError(
            f"The activations of site {name!r} have the dims {variable.dims} and the shape {variable.shape}; measure "
            f"needs one row for each of the store's {samples} samples, dims ('sample', ...), or for each token, dims "
            "('row', ...)."
        )
    if not source.nodes * source.positions or (source.tokens and not source.samples):
        raise DataError(f"The activations of site {name!r} are empty: shape {variable.shape}.")
    return source
