"""The rows of a site as a torch data set: for a linear probe, a sparse autoencoder, or whatever learns from them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from copy import copy
from math import prod
from types import NoneType
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from probekit._sizes import format_size, parse_size
from probekit._store.codec import Array
from probekit._store.layout import ACTIVATION
from probekit._store.lazy_array import as_stored
from probekit._store.sample_columns import SampleColumns
from probekit.errors import DataError, check_kind, near

__all__ = ["SiteRows", "as_dataset"]

Index: TypeAlias = "slice | Sequence[int] | Tensor"
Batch: TypeAlias = "tuple[Tensor, Tensor] | Tensor"

UNCHUNKED = 4096  # rows read together where they lie in no chunks, being in memory


def as_dataset(
    site: xr.DataTree | xr.Dataset, *, label: str | None = "label", memory: str | int = "256MiB"
) -> SiteRows:
    """The rows of a site, samples or tokens, as a torch data set of (activation, label).

    Values keep their dtype and shape, labels are int64 codes; without labels it gives the activation alone. It reads
    whole chunk rows and keeps those last used: neighbours cost one read. Take batches from ``rows.loader(512)``, or
    ``rows.loader(512, shuffle=True)``, which shuffles chunk rows and the rows within as many of them as fit in half of
    `memory`. A DataLoader of your own works too; with ``shuffle=True`` it is fast where
    the site fits in `memory`, and reads a chunk row for almost every row where it doesn't.

    Args:
        site: a site of an open store, ``tree["layers.0"]``.
        label: the column beside the activation: another one, or None for the activation alone.
        memory: what the chunk rows that are kept may take, in each process that reads.

    Raises:
        DataError: it is not a site, it has no such column of numbers, or one chunk row doesn't fit in `memory`.

    Example:
        >>> import numpy as np, xarray as xr, probekit as pk
        >>> x = np.arange(8.0).reshape(4, 2)
        >>> site = xr.Dataset({"activation": (("sample", "node"), x)}, {"label": ("sample", [0, 1, 0, 1])})
        >>> rows = pk.as_dataset(site)
        >>> rows[3]
        (tensor([6., 7.], dtype=torch.float64), 1)
        >>> [labels.tolist() for activations, labels in rows.loader(3)]
        [[0, 1, 0], [1]]
    """
    check_kind("site", site, (xr.DataTree, xr.Dataset), "one site of an open store, such as tree['layers.0']")
    check_kind("label", label, (str, NoneType), "the name of a column, or None")
    data = site.to_dataset(inherit=False) if isinstance(site, xr.DataTree) else site
    if ACTIVATION not in data.data_vars:
        children = f" It has the sites {', '.join(list(site.children)[:5])}." if isinstance(site, xr.DataTree) else ""
        raise DataError(f"A data set of rows takes one site, such as tree['layers.0'].{children}")
    activation = as_stored(data.variables[ACTIVATION])
    parent = site.parent if isinstance(site, xr.DataTree) else None
    root = xr.Dataset() if parent is None else parent.to_dataset(inherit=False)
    columns = SampleColumns(str(data.attrs.get("site", "")), data, root, str(activation.dims[0]))
    return SiteRows(activation, _target(columns, label), parse_size(memory))


def _target(columns: SampleColumns, name: str | None) -> xr.Variable | None:
    if name is None or (name == "label" and not columns.has(name)):
        return None
    numbers = [str(key) for key, column in columns.all.items() if column.dtype.kind in "biuf"]
    if name not in numbers:
        raise DataError(
            f"There is no column {name!r} of numbers, one for each {columns.dim}; there is "
            f"{', '.join(numbers) or 'none'}.{near(name, numbers)}"
        )
    return as_stored(columns.find(name))


class SiteRows(Dataset[Any]):
    """SiteRows of one site, read by chunk rows; made by `as_dataset`.

    ``rows[5]`` is one row: a tensor and its label. ``rows[10:20]`` and ``rows[[3, 1, 4]]`` are batches: a tensor of
    rows and one of labels.
    """

    def __init__(self, activation: xr.Variable, target: xr.Variable | None, memory: int) -> None:
        self._activation = activation
        self._target = target
        chunk = activation.encoding.get("chunks", (UNCHUNKED,))
        #: SiteRows that are read together.
        self.together = max(1, min(chunk[0], len(self)))
        size = self.together * (prod(activation.shape[1:]) * activation.dtype.itemsize + (target is not None) * 8)
        #: Chunk rows that are kept.
        self.kept = memory // max(1, size)
        if not self.kept:
            raise DataError(
                f"A chunk row takes {format_size(size)}, and memory is {format_size(memory)}. Give "
                f"memory={format_size(1.01 * size)!r} or more.",
                arguments=("memory",),
            )
        self._cache: OrderedDict[int, tuple[Array, Array | None]] = OrderedDict()

    def __len__(self) -> int:
        return int(self._activation.shape[0])

    def __repr__(self) -> str:
        labels = "no labels" if self._target is None else "labels"
        return f"Rows({len(self)} of shape {self._activation.shape[1:]}, {self._activation.dtype}, {labels})"

    def __getitem__(self, index: SupportsIndex | Index) -> Any:
        if not isinstance(index, SupportsIndex) or (isinstance(index, Tensor) and index.dim()):
            return self._batch(index)
        at = range(len(self))[index]  # which raises IndexError beyond the end, the end of a plain loop
        values, labels = self._read(at // self.together)
        row = torch.tensor(values[at % self.together])
        return row if labels is None else (row, labels[at % self.together].item())

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The rows at `indices`, one by one: what a DataLoader asks for, and puts together again."""
        batch = self._batch(indices)
        return (
            list(batch.unbind()) if isinstance(batch, Tensor) else list(zip(batch[0], batch[1].tolist(), strict=True))
        )

    def loader(
        self,
        batch_size: int = 512,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> DataLoader[Any]:
        """A DataLoader of batches (activations, labels), which reads each chunk row once an epoch.

        Args:
            batch_size: rows in a batch; the last has fewer, unless `drop_last`.
            shuffle: give the chunk rows in a random order, and the rows within several of them mixed.
            generator: what the order is drawn from, anew for each epoch; by default torch's own.
            options: of `torch.utils.data.DataLoader`. ``num_workers`` is seldom worth it: what costs is to hand the
                batches over, and each worker reads the chunks for itself.
        """
        rows = self if shuffle else copy(self)
        if not shuffle:
            rows.kept = 1  # none is asked for again, and memory that is used again is faster than more of it
        batches = _Batches(rows, batch_size, shuffle, drop_last, generator)
        return DataLoader(rows, batch_size=None, sampler=batches, **options)

    def _batch(self, index: Index) -> Batch:
        values, labels = self._span(index) if isinstance(index, slice) else self._gathered(index)
        given = torch.from_numpy(values)
        return given if labels is None else (given, torch.from_numpy(labels))

    def _span(self, span: slice) -> tuple[Array, Array | None]:
        start, stop, step = span.indices(len(self))
        if step != 1 or start >= stop:
            return self._gathered(range(start, stop, step))
        values, labels = [], []
        for block in range(start // self.together, -(-stop // self.together)):
            first = block * self.together
            rows, their_labels = self._read(block)
            part = slice(max(0, start - first), stop - first)
            values.append(rows[part])
            labels += [] if their_labels is None else [their_labels[part]]
        return np.concatenate(values), np.concatenate(labels) if labels else None

    def _gathered(self, index: Sequence[int] | Tensor) -> tuple[Array, Array | None]:
        at = np.asarray(index, np.int64)
        if at.size and not -len(self) <= at.min() <= at.max() < len(self):
            raise IndexError(f"rows {at.min()} to {at.max()} of {len(self)}")
        number, inside = np.divmod(at % max(1, len(self)), self.together)
        values = np.empty((len(at), *self._activation.shape[1:]), self._activation.dtype)
        labels = None if self._target is None else np.empty(len(at), self._target.dtype)
        for block in np.unique(number).tolist():
            rows, their_labels = self._read(block)
            where = np.flatnonzero(number == block)
            values[where] = rows[inside[where]]
            if labels is not None and their_labels is not None:
                labels[where] = their_labels[inside[where]]
        return values, labels

    def _read(self, block: int) -> tuple[Array, Array | None]:
        """The values and the labels of the chunk row number `block`, kept for the next who asks."""
        if block in self._cache:
            self._cache.move_to_end(block)
        else:
            while len(self._cache) >= self.kept:
                self._cache.popitem(last=False)
            rows = slice(block * self.together, (block + 1) * self.together)
            labels = None if self._target is None else self._target[rows].values
            self._cache[block] = self._activation[rows].values, labels
        return self._cache[block]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict()}  # a worker reads for itself


class _Batches(Sampler[Any]):
    """The rows of each batch of an epoch, so that each chunk row is read once."""

    def __init__(
        self, rows: SiteRows, batch_size: int, shuffle: bool, drop_last: bool, generator: torch.Generator | None
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; it must be at least 1.", arguments=("batch_size",))
        self._rows = rows
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._drop_last = drop_last
        self._generator = generator

    def __len__(self) -> int:
        rows = len(self._rows)
        return rows // self._batch_size if self._drop_last else -(-rows // self._batch_size)

    def __iter__(self) -> Iterator[slice | Tensor]:
        size, total = self._batch_size, len(self._rows)
        if not self._shuffle:
            yield from (slice(i * size, min((i + 1) * size, total)) for i in range(len(self)))
            return
        rest = torch.empty(0, dtype=torch.int64)
        for mixed in self._mixed():
            rest = torch.cat([rest, mixed])
            whole = len(rest) - len(rest) % size
            yield from rest[:whole].split(size) if whole else ()
            rest = rest[whole:]
        if len(rest) and not self._drop_last:
            yield rest

    def _mixed(self) -> Iterator[Tensor]:
        """All rows in random order, as many chunk rows at a time as half of the cache has."""
        generator = self._generator
        if generator is None:
            generator = torch.Generator().manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
        together, total = self._rows.together, len(self._rows)
        blocks = torch.randperm(-(-total // together), generator=generator)
        for few in blocks.split(max(1, self._rows.kept // 2)):
            rows = torch.cat([torch.arange(b * together, min((b + 1) * together, total)) for b in few.tolist()])
            yield rows[torch.randperm(len(rows), generator=generator)]
