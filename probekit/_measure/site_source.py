"""The sites of a store as a measurement reads them: chunks of observations by nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from probekit._probe.selectors import Selector, match_names
from probekit._store.layout import ACTIVATION, MASK, ROW, SAMPLE, group_names, node_axis
from probekit._store.lazy_array import as_stored
from probekit._store.sample_columns import SampleColumns
from probekit.errors import DataError, StoreError
from probekit.metrics.block import Array, working_dtype

__all__ = ["Source", "as_tree", "bounds_of", "find_sources", "steps_of"]

_ROWS, _NODES = 4096, 128  # samples read at a time, and nodes where an array has no chunks, being in memory
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
_WITHIN = ("mean", "max", "flatten", "cls", "last", "tokens")  # reductions that keep values within their bounds
_CHOSEN = ({"nodes"}, {"slice"})  # those of nodes, which keep some of the values


def bounds_of(site: Mapping[str, Any]) -> tuple[float, float] | None:
    """The least and the greatest value that a site of such attributes can have, where that is known."""
    if site.get("kind") not in _GIVES:
        return None
    if any(set(step) not in _CHOSEN if isinstance(step, dict) else step not in _WITHIN for step in steps_of(site)):
        return None
    return _BOUNDS.get(str(site.get("type", "")).casefold())


def steps_of(site: Mapping[str, Any]) -> Iterator[Any]:
    """The steps of the reduction of a site with such attributes; none where its activation was kept as it is."""
    try:
        yield from json.loads(str(site.get("reduce", "none")))
    except ValueError:  # "none", or what an older version wrote
        return


@dataclass(frozen=True)
class Source:
    """The activations of one site, read as chunks (observation, node).

    `key` is the site's group in the store, `name` its name in the model. An observation is a row, a sample's or a
    token's. The node of a feature map is the channel, else the last axis; what other axes an activation has are
    positions, which are pooled by their ``"mean"`` or ``"max"``, or are observations ``"each"``. Those that a mask
    beside the activation calls padding are left out.
    """

    key: str
    name: str
    site: xr.Dataset
    pooling: str = "mean"

    def columns(self, root: xr.Dataset) -> SampleColumns:
        """The columns of its rows, in a tree with this `root`."""
        return SampleColumns(self.name, self.site, root, ROW if self.tokens else SAMPLE)

    @cached_property  # since xarray takes long to tell whether it has chunks
    def variable(self) -> xr.Variable:
        return as_stored(self.site.variables[ACTIVATION])

    @property
    def mask(self) -> xr.Variable | None:
        """Which positions of each row are real, (row, position), where the store says so."""
        mask: xr.Variable | None = self.site.variables.get(MASK)
        if mask is None or mask.dtype != bool:
            return None
        positions = (dim for axis, dim in enumerate(self.variable.dims) if axis not in (0, self._axis))
        return mask if mask.dims == (self.variable.dims[0], *positions) else None

    @property
    def real(self) -> npt.NDArray[np.bool_] | None:
        """Which observations are real and no padding, (observation,); None where all are."""
        mask = self.mask if self.pooling == "each" else None
        return None if mask is None else mask.values.ravel()

    @property
    def attrs(self) -> dict[str, Any]:
        return {str(key): value for key, value in self.site.attrs.items()}

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The least and the greatest value that it can have, where that is known."""
        return bounds_of(self.attrs)

    @property
    def tokens(self) -> bool:
        return self.variable.dims[0] == ROW

    @property
    def rows(self) -> int:
        return int(self.variable.shape[0])

    @property
    def each(self) -> int:
        """Observations of a row."""
        return self.positions if self.pooling == "each" else 1

    @property
    def nodes(self) -> int:
        return int(self.variable.shape[self._axis]) if self._axis else 1

    @property
    def positions(self) -> int:
        """Values that a row has of a node."""
        return prod(self.variable.shape[1:]) // max(1, self.nodes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that the values are measured in."""
        return working_dtype(self.variable.dtype)

    @property
    def chunk(self) -> tuple[int, int]:
        """Observations and nodes that are read together: a chunk, or several where chunks are small."""
        chunks = self.variable.encoding.get("chunks") or self._unstored_chunks()
        nodes = min(chunks[self._axis], self.nodes) if self._axis else 1
        row_bytes = nodes * self.positions * self.variable.dtype.itemsize
        together = max(1, min(_ROWS, _READ_BYTES // row_bytes) // chunks[0])
        return min(together * chunks[0], self.rows), nodes

    def _unstored_chunks(self) -> tuple[int, ...]:
        return tuple(_NODES if axis == self._axis else 1 for axis in range(self.variable.ndim))

    @property
    def _axis(self) -> int | None:
        dims = [str(dim) for dim in self.variable.dims[1:]]
        return 1 + node_axis(dims) if dims else None

    def held(self) -> Source:
        """The same, with all of its values in memory."""
        variable = self.variable
        values = xr.Variable(variable.dims, variable.values, variable.attrs, variable.encoding)
        return replace(self, site=self.site.assign({ACTIVATION: values}))

    def read(self, start: int, stop: int) -> Iterator[tuple[int, Array]]:
        """The nodes `start` to `stop` of all rows, one chunk row after the other: (first observation, values)."""
        rows = self.chunk[0]
        for first in range(0, self.rows, rows):
            yield first * self.each, self.values(slice(first, first + rows), slice(start, stop))

    @np.errstate(over="ignore", invalid="ignore")
    def values(self, rows: slice, nodes: slice) -> Array:
        """The values (observation, node) of some rows and nodes; an array of its own, in the order of the rows."""
        axis = self._axis
        if axis is None:
            return self.variable[rows].values[:, None].astype(self.dtype, order="C")
        index = tuple(rows if n == 0 else nodes if n == axis else slice(None) for n in range(self.variable.ndim))
        values = np.moveaxis(self.variable[index].values, axis, 1)
        if values.ndim > 2:
            real = None if self.mask is None or self.pooling == "each" else self.mask[rows].values
            values = self._pooled(values.reshape(*values.shape[:2], -1), real)
        return _as_torch_takes(np.require(values, self.dtype, "W"))

    def _pooled(self, values: Array, real: Array | None) -> Array:
        """The observations (observation, node) that values (row, node, position) stand for."""
        if self.pooling == "each":
            return values.transpose(0, 2, 1).reshape(-1, values.shape[1])
        if real is None or real.all():
            pooled: Array = values.max(axis=2) if self.pooling == "max" else values.mean(axis=2, dtype=np.float64)
            return pooled
        if not real.any(1).all():
            raise DataError(f"Site {self.name!r} has samples without a real token: their mask is false everywhere.")
        if self.pooling == "max":
            greatest: Array = np.where(real[:, None], values, -np.inf).max(axis=2)
            return greatest
        mean: Array = values.mean(axis=2, dtype=np.float64, where=real[:, None])
        return mean

    def with_nan(self) -> npt.NDArray[np.bool_]:
        """Which observations have a NaN at one of the nodes, (observation,)."""
        found = np.zeros(self.rows * self.each, dtype=bool)
        width = self.chunk[1]
        for start in range(0, self.nodes, width):
            for first, x in self.read(start, min(start + width, self.nodes)):
                found[first : first + len(x)] |= np.isnan(x).any(axis=1)
        return found


def _as_torch_takes(values: Array) -> Array:
    """The values without negative strides and ones that aren't whole elements, of which torch makes no tensor."""
    return values.copy() if any(step < 0 or step % values.itemsize for step in values.strides) else values


def as_tree(given: xr.DataTree | xr.Dataset | xr.DataArray) -> xr.DataTree:
    """A tree of sites: the one that is given, or one around the single site that is given.

    Raises:
        DataError: a Dataset without activations.
    """
    if isinstance(given, xr.DataTree):
        if ACTIVATION not in given.data_vars:
            return given
        site, parent = given.to_dataset(inherit=False), given.parent
        return _with_one_site(xr.Dataset() if parent is None else parent.to_dataset(inherit=False), given.name, site)
    if isinstance(given, xr.DataArray):
        return _with_one_site(xr.Dataset(), given.name, given.to_dataset(name=ACTIVATION))
    if ACTIVATION not in given.data_vars:
        raise DataError(
            f"A Dataset is measured as one site, whose variable is called {ACTIVATION!r}; this one has "
            f"{', '.join(map(repr, given.data_vars)) or 'no variables'}. Give the path of a store, the tree of sites "
            "that probekit.open gives, or a Dataset in which the variable has that name.",
            arguments=("store",),
        )
    return _with_one_site(xr.Dataset(), None, given)


def _with_one_site(root: xr.Dataset, name: Any, site: xr.Dataset) -> xr.DataTree:
    called = str(site.attrs.get("site", name or ACTIVATION))
    return xr.DataTree.from_dict({"/": root, group_names([called])[called]: site})


def find_sources(tree: xr.DataTree, sites: Selector | None, where: str, pooling: str = "mean") -> list[Source]:
    """The sites of a store that `sites` selects, all of them for None, in the store's order.

    Raises:
        SiteError: a selector that selects nothing.
        StoreError: the store has no sites.
        DataError: a site's activations don't have a row for each sample, or there are no samples.
    """
    groups = {key: child for key, child in tree.children.items() if ACTIVATION in child.data_vars}
    if not groups:
        deeper = [node.path for node in tree.subtree if ACTIVATION in node.data_vars]
        hint = f" {deeper[0]!r} has, but sites are the groups right below the root." if deeper else ""
        raise StoreError(f"{where} holds no sites: no group of it has a variable {ACTIVATION!r}.{hint}")
    names = {str(child.attrs.get("site", key)): key for key, child in groups.items()}
    chosen = list(names) if sites is None else match_names(list(names), sites, where=where)
    samples = tree.to_dataset(inherit=False).sizes.get(SAMPLE)
    if samples == 0:
        raise DataError("The store holds no samples, so there is nothing to measure.")
    return [
        _checked(Source(names[name], name, groups[names[name]].to_dataset(inherit=False), pooling), samples)
        for name in chosen
    ]


def _checked(source: Source, samples: int | None) -> Source:
    """The source, where it has a row for each of so many samples, or for any number where none are known."""
    variable = source.variable
    first = variable.dims[0] if variable.dims else None
    if first != ROW and (first != SAMPLE or source.rows != (source.rows if samples is None else samples)):
        of_all = "sample" if samples is None else f"of the store's {samples} samples"
        raise DataError(
            f"The activations of site {source.name!r} have the dims {variable.dims} and the shape {variable.shape}; "
            f"measure needs one row for each {of_all}, dims ('sample', ...), or for each token, dims ('row', ...)."
        )
    if not source.nodes * source.positions or not source.rows:
        raise DataError(f"The activations of site {source.name!r} are empty: shape {variable.shape}.")
    return source
