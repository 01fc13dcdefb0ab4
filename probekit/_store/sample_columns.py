"""The columns of a site's rows: its own, and beside them those of the samples at the tree's root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from probekit._store.codec import Array
from probekit._store.layout import CLASS_NAME, ROW, SAMPLE
from probekit.errors import DataError, near

__all__ = ["SAMPLE_ID", "SampleColumns"]

SAMPLE_ID = "sample_id"
_CORRECT, _AGREE = "correct", ("prediction", "label")  # a column that tells whether two others agree


@dataclass(frozen=True)
class SampleColumns:
    """The columns of the rows of the site called `name`, in a tree with this `root`.

    As xarray sees it, a column of the site's own wins over one of the root. A column that the root alone has belongs to
    samples: a site of tokens finds the sample of each row by its id, and any other site has the samples in the root's
    order, unless it has a column that differs from the root's.
    """

    name: str
    site: xr.Dataset
    root: xr.Dataset
    dim: str = SAMPLE

    @cached_property
    def own(self) -> Mapping[str, xr.Variable]:
        return _columns(self.site, self.dim)

    @cached_property
    def of_samples(self) -> Mapping[str, xr.Variable]:
        """Those of the root."""
        return _columns(self.root, SAMPLE)

    @property
    def all(self) -> dict[str, xr.Variable]:
        return {**self.of_samples, **self.own}

    @property
    def names(self) -> list[str]:
        return list(self.all)

    @property
    def samples(self) -> SampleColumns:
        """The same of the samples, where a row of the site is a token."""
        return self if self.dim == SAMPLE else SampleColumns(self.name, self.root, self.root)

    @cached_property
    def differing(self) -> list[str]:
        """Those that the site has for its samples with other values than the root."""
        if self.dim == ROW:
            return []
        return [name for name, mine in self.own.items() if not _equal(mine, self.of_samples.get(name, mine))]

    @property
    def are_the_roots(self) -> bool:
        """Whether the site has no column of its own that isn't the root's."""
        return self.dim == SAMPLE and not self.differing and self.own.keys() <= self.of_samples.keys()

    def differing_from(self, other: SampleColumns) -> list[str]:
        """The columns of which another site of the tree has other values."""
        if self.are_the_roots and other.are_the_roots:
            return []
        theirs = other.all
        return [name for name, mine in self.all.items() if name in theirs and not _equal(mine, theirs[name])]

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, where there are such: a variable of its own dim, which isn't the rows'."""
        for dataset, dim in ((self.site, self.dim), (self.root, SAMPLE)):
            variable = dataset.variables.get(CLASS_NAME)
            if variable is not None and variable.ndim == 1 and variable.dims != (dim,):
                return tuple(map(str, variable.values))
        return None

    def of_all_samples(self, name: str) -> list[xr.Variable]:
        """The column as the samples have it, where a row is a token and some sample may have none."""
        return [self.of_samples[name]] if self.dim == ROW and name in self.of_samples else []

    def has(self, name: str) -> bool:
        return name in self.names or (name == _CORRECT and {*_AGREE} <= {*self.names})

    def find(self, name: str) -> xr.Variable:
        """The column of that name, a value for each row of the site.

        Raises:
            DataError: there is no such column, or nothing tells to which rows the root's values belong.
        """
        if name in self.own:
            return self.own[name]
        if name in self.of_samples:
            return self.of_rows(self.of_samples[name], f"column {name!r}")
        if self.has(name):
            prediction, label = (self.find(each).values for each in _AGREE)
            return xr.Variable((self.dim,), prediction == label)
        raise DataError(
            f"There is no column {name!r}; site {self.name!r} has {', '.join(self.names) or 'none'}."
            f"{near(name, self.names)}"
        )

    def of_rows(self, values: xr.Variable, what: str) -> xr.Variable:
        """A value of each sample of the root as one of each row of the site; `what` names the values in errors."""
        if self.dim == ROW:
            return values[self._sample_of_each_row]
        if self.differing:
            raise DataError(
                f"Site {self.name!r} has a {self.differing[0]!r} of its own, which differs from the root's, so nothing "
                f"tells whether the root's {what} is in the order of its samples. Give the site that column too, or "
                "leave the order of its samples as the root has it."
            )
        return values

    def samples_of_rows(self, rows: Array) -> Array:
        """The places of the samples, in the order of the root, of some rows of the site."""
        if self.dim == ROW:
            found: Array = self._sample_of_each_row[rows]
            return found
        self.of_rows(xr.Variable((SAMPLE,), rows), "order")
        return rows

    @cached_property
    def _sample_of_each_row(self) -> Array:
        """The index of each row's sample among the samples, by its id."""
        missing = [SAMPLE_ID not in columns for columns in (self.own, self.of_samples)]
        if any(missing):
            raise DataError(f"The rows of site {self.name!r} can't be assigned to samples: there is no 'sample_id'.")
        ids, rows = self.of_samples[SAMPLE_ID].values, self.own[SAMPLE_ID].values
        unique, places = np.unique(ids, return_index=True)
        if len(unique) < len(ids):
            raise DataError(
                f"Samples that share an id can't be told apart by their tokens, so nothing of the samples can be "
                f"assigned to the rows of site {self.name!r}.",
            )
        at = np.searchsorted(unique, rows).clip(max=len(unique) - 1)
        if (unique[at] != rows).any():
            strange = rows[unique[at] != rows].tolist()[0]
            raise DataError(f"Site {self.name!r} has rows of the sample {strange!r}, which the root doesn't have.")
        found: Array = places[at]
        return found


def _columns(dataset: xr.Dataset, dim: str) -> dict[str, xr.Variable]:
    variables = dataset.variables.items()
    return {str(name): variable.to_base_variable() for name, variable in variables if variable.dims == (dim,)}


def _equal(a: xr.Variable, b: xr.Variable) -> bool:
    # Which doesn't read the values where both are views of the same.
    return bool(a.equals(b))  # type: ignore[no-untyped-call]
