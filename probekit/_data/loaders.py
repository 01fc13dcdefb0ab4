"""The sources that batches come from: slices of what is in memory, loaders over data sets, iterables as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
)

from probekit._data.prompts import Prompts
from probekit._data.sampler import ChunkSampler
from probekit.errors import DataError, check_kind

__all__ = [
    "Joined",
    "Slices",
    "batch_size_of",
    "chunks_of",
    "count_of",
    "cut",
    "order_fault",
    "rows_of",
    "stream",
]

# What is in memory, of all samples: a tensor or array, or several of them and lists.
Whole: TypeAlias = Tensor | np.ndarray[Any, Any] | tuple[Any, ...] | Mapping[str, Any]


def stream(data: Any, batch_size: int, workers: int = 0) -> Iterable[Any]:
    """The items of `data`, one a batch; a data set's are read in so many worker processes.

    Raises:
        DataError: `data` is nothing that gives batches, or what one item of it is can't be told.
    """
    _check_workers(data, workers)
    if type(data) is TensorDataset:  # a subclass may give other samples than its tensors hold
        data = data.tensors
    _check_kind(data)
    if is_array(data) or _is_whole(data):
        return Slices(data, batch_size)
    if is_hugging_face(data):
        return DataLoader(_as_torch(data), batch_size=batch_size, collate_fn=_collate, num_workers=workers)
    if isinstance(data, IterableDataset):
        return Joined(data, batch_size)
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size=batch_size, collate_fn=_collate_of(data), num_workers=workers)
    if isinstance(data, Mapping):
        raise DataError(
            f"The data are a dict with the keys {', '.join(map(repr, data))}, whose values aren't tensors. Give one "
            "of them, such as a split's data set."
        )
    if not isinstance(data, Iterable) or isinstance(data, str):
        raise DataError(
            f"{type(data).__name__} is not data that can be read. Give a DataLoader, a Dataset, a tensor, or an "
            "iterable of batches."
        )
    return data


def _check_workers(data: Any, workers: int) -> None:
    check_kind("workers", workers, Integral, "a number of processes")
    if workers < 0 or (workers and not isinstance(data, Dataset) and not is_hugging_face(data)):
        raise DataError(
            f"workers is {workers}, and the data are a {type(data).__name__}. Worker processes read a data set; a "
            "DataLoader has its own, num_workers.",
            arguments=("workers",),
        )


def _check_kind(data: Any) -> None:
    """Raise DataError for data whose items could be taken for something else than they are."""
    kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}"
    parts = list(data.values()) if isinstance(data, Mapping) else list(data) if isinstance(data, tuple) else [data]
    if any(isinstance(part, np.ma.MaskedArray) for part in parts):
        raise DataError("The data hold a masked array, and tensors have no mask. Fill it first: array.filled(value).")
    if hasattr(data, "iloc") or kind in ("dask.DataFrame", "polars.DataFrame", "xarray.Dataset", "xarray.DataTree"):
        raise DataError(
            f"The data are a {kind}, of which some columns may be inputs and others labels. Give arrays: "
            "(data[[…]].to_numpy(), data['label'].to_numpy())."
        )
    if isinstance(data, list) and data and all(_is_vector(item) for item in data):
        raise DataError(
            f"The data are a list of {len(data)} vectors of shape {tuple(data[0].shape)}. If each is a sample, give "
            "torch.stack(data); if each is a batch of scalars, give each as (batch, 1) or in a DataLoader with "
            "batch_size=None."
        )


def _is_vector(item: Any) -> bool:
    return isinstance(item, Tensor | np.ndarray) and item.ndim == 1


def rows_of(data: Iterable[Any]) -> int | None:
    """The number of samples in a stream, None where it can't say."""
    if isinstance(data, Slices | Prompts):
        return data.rows
    # With a batch sampler of one's own, batch_size is None: which samples it draws, only it knows.
    if isinstance(data, DataLoader) and data.batch_size is not None and not data.drop_last:
        return count_of(data.sampler)
    return None


def count_of(data: Any) -> int | None:
    """The length of `data`, None where it can't say."""
    try:
        return len(data)
    except TypeError:  # also from loaders of iterable data sets, which have a __len__ that can't say
        return None


def chunks_of(data: Iterable[Any]) -> ChunkSampler | None:
    """The sampler of a loader whose data several processes share."""
    sampler = getattr(data.batch_sampler, "sampler", data.sampler) if isinstance(data, DataLoader) else None
    return sampler if isinstance(sampler, ChunkSampler) else None


def batch_size_of(data: Iterable[Any]) -> int:
    """The samples in a batch of a loader, 1 where each item of the data set is one."""
    return getattr(getattr(data, "batch_sampler", None), "batch_size", None) or 1


def order_fault(data: Iterable[Any]) -> str | None:
    """Why a stream's samples may come in another order than the data set's, as a clause; None where they don't."""
    if not isinstance(data, DataLoader):
        return None
    if data.collate_fn not in (_collate_of(data.dataset), default_collate, default_convert):
        return "the DataLoader has a collate_fn of its own, which may put samples in another order or make more of them"
    if not getattr(data, "in_order", True):
        return "the DataLoader has in_order=False"
    if isinstance(data.dataset, IterableDataset):
        return "several workers read an IterableDataset" if data.num_workers > 1 else None
    batches = data.batch_sampler
    if batches is not None and type(batches) is not BatchSampler:
        return f"the DataLoader has a {type(batches).__name__}, whose order isn't known"
    sampler = data.sampler if batches is None else batches.sampler
    if isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler):
        return "the DataLoader shuffles"
    if type(sampler) in (SequentialSampler, ChunkSampler):
        return None
    return f"the DataLoader has a {type(sampler).__name__}, whose order isn't known"


class Joined:
    """Batches of an iterable data set, which gives samples, or batches that are passed on as they are.

    Batches have labels of an axis of their own, samples have none.
    """

    def __init__(self, dataset: IterableDataset[Any], batch_size: int) -> None:
        self.dataset, self._batch_size = dataset, batch_size

    def __iter__(self) -> Iterator[Any]:
        items = iter(self.dataset)
        first = next(items, None)
        if first is None:
            return iter(())
        if _gives_batches(first, self.dataset):
            return chain([first], items)
        return self._batches(chain([first], items))

    def _batches(self, samples: Iterator[Any]) -> Iterator[Any]:
        while few := list(islice(samples, self._batch_size)):
            yield _collate(few)


def _gives_batches(item: Any, data: IterableDataset[Any]) -> bool:
    """Whether an item of an iterable data set is a batch; DataError where it may be a sample as well."""
    parts = list(item.values()) if isinstance(item, Mapping) else item if isinstance(item, tuple | list) else [item]
    if any(np.ndim(part) == 0 for part in parts if isinstance(part, Tensor | np.generic | int | float | str)):
        return False
    arrays = [part for part in parts if isinstance(part, Tensor | np.ndarray)]
    vectors = [part for part in arrays if part.ndim == 1]
    if len(arrays) > len(vectors) > 0 and len({len(part) for part in arrays}) == 1:
        return True
    kind = type(data).__name__
    raise DataError(
        f"Whether an item of {kind} is a sample or a batch can't be told from its shapes, "
        f"{[tuple(part.shape) for part in arrays]}. Say so: DataLoader(data, batch_size=256) where it is a sample, "
        "DataLoader(data, batch_size=None) where it is a batch."
    )


class Slices:
    """Batches of what is in memory: slices, with none of the work that a loader does for each sample."""

    def __init__(self, whole: Whole, batch_size: int) -> None:
        self.whole = whole
        parts = list(whole.values()) if isinstance(whole, Mapping) else whole if isinstance(whole, tuple) else [whole]
        lengths = [_length(part) for part in parts]
        if len(set(lengths)) > 1 or lengths[0] is None:
            raise DataError(f"The tensors hold different numbers of samples: {lengths}.")
        self.rows: int = lengths[0]
        self._batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(self.rows / self._batch_size)

    def __iter__(self) -> Iterator[Any]:
        return (cut(self.whole, rows) for rows in self.spans())

    def spans(self) -> Iterator[slice]:
        """Which samples are each batch's."""
        return (slice(start, start + self._batch_size) for start in range(0, self.rows, self._batch_size))


def _length(part: Any) -> int | None:
    shape = getattr(part, "shape", None)  # which arrays that lie on a disk have, and not all of them a length
    return len(part) if shape is None else int(shape[0]) if len(shape) else None


def cut(whole: Whole, rows: slice) -> Any:
    """Some of the samples of what is in memory."""
    if isinstance(whole, Mapping):
        return {key: _piece(part, rows) for key, part in whole.items()}
    return tuple([_piece(part, rows) for part in whole]) if isinstance(whole, tuple) else _piece(whole, rows)


def _is_whole(data: Any) -> bool:
    """Whether `data` is a dict of values a sample, some tensors, or a tuple of such that begins with a tensor."""
    if isinstance(data, Mapping):
        parts = list(data.values())
        return any(map(is_array, parts)) and all(is_array(part) or _is_plain_list(part) for part in parts)
    if not isinstance(data, tuple) or not data or not is_array(data[0]):
        return False
    return all(is_array(part) or _is_plain_list(part) for part in data)


def is_array(part: Any) -> bool:
    """Whether `part` is a tensor, or an array of any library, in memory or on a disk, that can be sliced."""
    if isinstance(part, Tensor | np.ndarray):
        return True
    if isinstance(part, Dataset):
        return False
    like = all(hasattr(part, name) for name in ("shape", "dtype", "__getitem__"))
    return like and not hasattr(part, "iloc") and not isinstance(part, np.generic) and len(part.shape) > 0


def _piece(part: Any, rows: slice) -> Any:
    """Some samples of an array, as a tensor, a numpy array or a list."""
    piece = part[rows]
    return piece if isinstance(piece, Tensor | np.ndarray | list) else np.asarray(piece)


def _is_plain_list(part: Any) -> bool:
    return isinstance(part, list) and bool(part) and isinstance(part[0], str | int | float)


def is_hugging_face(data: Any) -> bool:
    """Whether `data` is a data set of the library datasets, by what it offers."""
    return hasattr(data, "features") and hasattr(data, "with_format")


def _as_torch(data: Any) -> Any:
    """A Hugging Face data set that gives tensors; one with a format, or a transform, keeps it and its columns."""
    given = getattr(data, "format", None) or {}
    return data if given.get("type") is not None else data.with_format("torch")


def _collate_of(data: Any) -> Callable[[list[Any]], Any]:
    """What joins samples into a batch: a method of the data set's own that is called ``collate``, if it has one."""
    own = getattr(data, "collate", None)
    return own if callable(own) else _collate


def _collate(samples: list[Any]) -> Any:
    try:
        return default_collate(samples)
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"The samples can't be joined into a batch: {error}. Make them tensors of one size (by a "
            "transform, or padding), or give a DataLoader with a collate_fn of its own."
        ) from error
