"""Whether the samples that come are those that a store holds: their columns, and the checksums of their inputs."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping

import numpy as np

from probekit._store.backend import Backend
from probekit._store.codec import Array
from probekit._store.layout import INPUTS
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
        wanted = (self._names - self._but) | ({INPUTS} & record.nodes.keys())
        self._values = {name: read_array(backend, record, name) for name in wanted}
        self._inputs: Array | None = self._values.pop(INPUTS, None)
        self._start, self._batch_size = record.start, record.batch_size  # of the last capture into the store
        self._left = 0  # samples whose inputs couldn't be compared

    def check(self, columns: Mapping[str, Array], inputs: int, start: int) -> None:
        """Raise DataError where a batch, whose first sample is number `start`, isn't the one that the store was given.

        `inputs` is the checksum of its inputs. Samples that the store doesn't hold aren't looked at.
        """
        self._check_inputs(inputs, start, start + len(columns["sample_id"]))
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

    def _check_inputs(self, inputs: int, start: int, stop: int) -> None:
        """Compare the checksum where the store was given a batch of the very same samples."""
        there = min(stop, self.rows)
        if there <= start:
            return
        if self._inputs is None or not self._had_batch(self._inputs, start, there):
            self._left += there - start
        elif self._inputs[start] != inputs:
            raise DataError(
                f"The data differ from those of {self._url}, or come in another order: the inputs of samples {start} "
                f"to {stop - 1} have another checksum. Give the same data in the same order, without shuffling and "
                "without random transforms."
            )

    def _had_batch(self, checksums: Array, start: int, stop: int) -> bool:
        """Whether a batch of the store had these samples."""
        ours, around = checksums[start:stop], checksums[max(0, start - 1) : stop + 1]
        alone = int(np.count_nonzero(around == ours[0])) == len(ours)
        in_step = start >= self._start and (start - self._start) % self._batch_size == 0
        return bool((ours == ours[0]).all()) and (alone or in_step)

    def warn(self) -> None:
        """Warn where only columns were compared."""
        if self._left:
            why = "was captured before checksums were kept" if self._inputs is None else "was given other batches"
            warnings.warn(
                f"{self._url} {why}, so the inputs of {self._left} of its samples couldn't be compared with those of "
                "the data; only their columns were.",
                stacklevel=6,
            )
