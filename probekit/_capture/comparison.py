"""Whether the samples that come are those that a store holds: their columns, compared value by value."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from probekit._store.backend import Backend
from probekit._store.codec import Array
from probekit._store.lazy_array import read_array
from probekit._store.record import CommitRecord
from probekit.errors import DataError

__all__ = ["Columns"]


class Columns:
    """The columns of the samples that a store holds, but for those called `but`, to compare others with."""

    def __init__(self, backend: Backend, record: CommitRecord, but: Collection[str] = ()) -> None:
        self._url = backend.url
        self.rows = record.rows
        self._names, self._but = set(record.columns), set(but)
        self._values = {name: read_array(backend, name, record.nodes[name]) for name in self._names - self._but}

    def check(self, columns: Mapping[str, Array], start: int) -> None:
        """Raise DataError where `columns`, whose first sample is number `start`, aren't those of the store.

        Samples that the store doesn't hold aren't looked at.
        """
        if columns.keys() | self._but != self._names:
            given, there = (", ".join(sorted(names)) for names in (columns.keys() | self._but, self._names))
            raise DataError(f"The samples would have the columns {given}, and {self._url} has {there}.")
        for name, values in columns.items():
            theirs = self._values[name][start : start + len(values)]
            ours = values[: len(theirs)]
            same = np.array_equal(theirs, ours, equal_nan=ours.dtype.kind == "f")
            if not same:
                first = start + int(np.flatnonzero(theirs != ours)[0])
                raise DataError(
                    f"The data differ from those of {self._url}, or come in another order: {name} of sample {first} is "
                    f"{values[first - start]} and was {self._values[name][first]}. Give the same data in the same "
                    "order, without shuffling."
                )
