"""What users hand in as data, as one stream of batches: inputs, labels, and how many rows there are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from probekit.errors import DataError

__all__ = ["Batch", "Batches"]

LABEL_KEYS = ("labels", "label")


@dataclass(frozen=True)
class Batch:
    """The inputs of one forward pass, how many samples they are, and the samples' label codes (int64), if any."""

    inputs: Any
    rows: int
    labels: np.ndarray[Any, np.dtype[np.int64]] | None


class Batches:
    """The batches of `data`, in order.

    Args:
        data: a DataLoader, a Dataset (a loader is made, in order), tensors ``x`` or ``(x, y)`` of all samples, or an
            iterable of batches: ``(x, y)``, ``x``, or dicts with their labels under ``labels`` or ``label``.
        batch_size: samples a batch, of a Dataset or tensors.

    Attributes:
        rows: the number of samples, None where the data can't say.
        count: the number of batches, None where the data can't say.
        class_names: the data set's ``classes``, where it has them.
    """

    def __init__(self, data: Any, *, batch_size: int = 256) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; it must be at least 1.")
        names = _class_names(data)
        if isinstance(data, TensorDataset):
            data = data.tensors
        if isinstance(data, Tensor):
            data = (data,)
        if isinstance(data, tuple) and data and all(isinstance(part, Tensor) for part in data):
            data = _Slices(data, batch_size)
        elif isinstance(data, Dataset):
            data = DataLoader(data, batch_size=batch_size)
        if not isinstance(data, Iterable):
            raise DataError(
                f"{type(data).__name__} is no data. Give a DataLoader, a Dataset, a tensor, or an iterable of batches."
            )
        self._data = data
        self.rows = _rows(data)
        self.count = _length(data)
        self.class_names = names or _class_names(getattr(data, "dataset", None))

    def __iter__(self) -> Iterator[Batch]:
        labelled: bool | None = None
        for index, item in enumerate(self._data):
            batch = _batch(item, index)
            if labelled is not None and labelled != (batch.labels is not None):
                raise DataError(f"Batch {index} {'has no' if labelled else 'has'} labels, unlike those before it.")
            labelled = batch.labels is not None
            yield batch


class _Slices:
    """Batches of tensors in memory: slices, with none of the work that a loader does for each sample."""

    def __init__(self, tensors: tuple[Tensor, ...], batch_size: int) -> None:
        lengths = [len(tensor) for tensor in tensors]
        if len(set(lengths)) > 1:
            raise DataError(f"The tensors hold different numbers of samples: {lengths}.")
        self.rows = lengths[0]
        self._tensors, self._batch_size = tensors, batch_size

    def __len__(self) -> int:
        return math.ceil(self.rows / self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for start in range(0, self.rows, self._batch_size):
            yield tuple(tensor[start : start + self._batch_size] for tensor in self._tensors)


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # also from loaders of iterable data sets, which have a __len__ that can't say
        return None


def _rows(data: Any) -> int | None:
    if isinstance(data, _Slices):
        return data.rows
    if isinstance(data, DataLoader) and data.batch_sampler is not None and not data.drop_last:
        return _length(data.sampler)
    return None


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    names = getattr(dataset, "classes", None)
    return None if names is None else tuple(map(str, names))


def _batch(item: Any, index: int) -> Batch:
    inputs, labels = _split(item)
    sizes = {len(tensor) for tensor in _tensors(inputs) if tensor.dim()}
    if not sizes:
        raise DataError(f"Batch {index} is a {type(item).__name__} that holds no tensor to give to the model.")
    if len(sizes) > 1:
        raise DataError(f"The inputs of batch {index} have different numbers of samples: {sorted(sizes)}.")
    [rows] = sizes
    return Batch(inputs, rows, None if labels is None else _codes(labels, rows, index))


def _split(item: Any) -> tuple[Any, Any]:
    """Inputs and labels of one item: dicts by key, pairs by place; a longer tuple's last place is the label."""
    if isinstance(item, Mapping):
        key = next((key for key in LABEL_KEYS if key in item), None)
        return {name: value for name, value in item.items() if name != key}, None if key is None else item[key]
    if isinstance(item, tuple | list):
        return (item[0], None) if len(item) == 1 else (item[0], item[1])
    return item, None


def _tensors(inputs: Any) -> Iterator[Tensor]:
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, Mapping):
        yield from _tensors(tuple(inputs.values()))
    elif isinstance(inputs, tuple | list):
        for value in inputs:
            yield from _tensors(value)


def _codes(labels: Any, rows: int, index: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    codes = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if codes.shape != (rows,):
        raise DataError(
            f"Batch {index} has {rows} samples, and labels of shape {codes.shape}: give one label a sample."
        )
    if codes.dtype.kind not in "iub" or (codes.size and codes.min() < 0):
        raise DataError(f"The labels of batch {index} are {codes[:3]}…: give class codes, integers from 0.")
    return codes.astype(np.int64)
