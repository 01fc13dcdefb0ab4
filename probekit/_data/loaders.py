"""The sources that batches come from: slices of what is in memory, loaders over data sets, iterables as they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from probekit._data.sampler import ChunkSampler
from probekit.errors import DataError

__all__ = ["Slices", "chunks_of", "class_names", "count_of", "cut", "fixed_rows", "rows_of", "shuffles", "stream"]

# What is in memory, of all samples: a tensor or array, or several of them and lists.
Whole: TypeAlias = Tensor | np.ndarray[Any, Any] | tuple[Any, ...] | Mapping[str, Any]


def stream(data: Any, batch_size: int) -> Iterable[Any]:
    """The items of `data`, one a batch.

    Raises:
        DataError: `data` is nothing that gives batches.
    """
    if type(data) is TensorDataset:  # a subclass may give other samples than its tensors hold
        data = data.tensors
    if _is_array(data) or _is_whole(data):
        return Slices(data, batch_size)
    if _is_hugging_face(data):
        return DataLoader(_as_torch(data), batch_size=batch_size, collate_fn=_collate)
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size=batch_size, collate_fn=_collate)
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


def rows_of(data: Iterable[Any]) -> int | None:
    """The number of samples in a stream, None where it can't say."""
    if isinstance(data, Slices):
        return data.rows
    # With a batch sampler of one's own, batch_size is None: which samples it draws, only it knows.
    if isinstance(data, DataLoader) and data.batch_size is not None and not data.drop_last:
        return count_of(data.sampler)
    return None


def fixed_rows(data: Iterable[Any]) -> int | None:
    """`rows_of`, but None where a loader's own collate_fn may make more or fewer rows of the samples."""
    chunks = chunks_of(data)
    if chunks is not None:
        return chunks.total
    own = isinstance(data, DataLoader) and data.collate_fn not in (_collate, default_collate)
    return None if own else rows_of(data)


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


def shuffles(data: Iterable[Any]) -> bool:
    """Whether a stream is a loader that draws its samples at random."""
    if not isinstance(data, DataLoader):
        return False
    sampler = getattr(data.batch_sampler, "sampler", data.sampler)
    return isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler)


def class_names(data: Any, key: Any) -> tuple[str, ...] | None:
    """The class names that a data set, or the one within a loader or a subset, tells.

    These are the ``classes`` of torchvision's, or the ``names`` of a Hugging Face feature: the one called `key`, or the
    first there is where `key` is a tuple.
    """
    while data is not None:
        names = _feature_names(data.features, key) if _is_hugging_face(data) else getattr(data, "classes", None)
        if isinstance(names, Sequence | np.ndarray) and not isinstance(names, str):
            return tuple(map(str, names))
        data = getattr(data, "dataset", None)
    return None


def _feature_names(features: Any, key: Any) -> Any:
    keys = key if isinstance(key, tuple) else (key,)
    feature = next((features[each] for each in keys if features and each in features), None)
    return getattr(feature, "names", None)


class Slices:
    """Batches of what is in memory: slices, with none of the work that a loader does for each sample."""

    def __init__(self, whole: Whole, batch_size: int) -> None:
        self.whole = whole
        parts = list(whole.values()) if isinstance(whole, Mapping) else whole if isinstance(whole, tuple) else [whole]
        lengths = [len(part) if getattr(part, "ndim", 1) else None for part in parts]
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


def cut(whole: Whole, rows: slice) -> Any:
    """Some of the samples of what is in memory."""
    if isinstance(whole, Mapping):
        return {key: part[rows] for key, part in whole.items()}
    return tuple([part[rows] for part in whole]) if isinstance(whole, tuple) else whole[rows]


def _is_whole(data: Any) -> bool:
    """Whether `data` is a dict of values a sample, some tensors, or a tuple of such that begins with a tensor."""
    if isinstance(data, Mapping):
        parts = list(data.values())
        return any(map(_is_array, parts)) and all(_is_array(part) or _is_plain_list(part) for part in parts)
    if not isinstance(data, tuple) or not data or not _is_array(data[0]):
        return False
    return all(_is_array(part) or _is_plain_list(part) for part in data)


def _is_array(part: Any) -> bool:
    return isinstance(part, Tensor | np.ndarray)


def _is_plain_list(part: Any) -> bool:
    return isinstance(part, list) and bool(part) and isinstance(part[0], str | int | float)


def _is_hugging_face(data: Any) -> bool:
    return hasattr(data, "features") and hasattr(data, "with_format")


def _as_torch(data: Any) -> Any:
    """A Hugging Face data set that gives tensors; one with a format, or a transform, keeps it and its columns."""
    given = getattr(data, "format", None) or {}
    return data if given.get("type") is not None else data.with_format("torch")


def _collate(samples: list[Any]) -> Any:
    try:
        return default_collate(samples)
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"The samples can't be joined into a batch: {error}. Make them tensors of one size (by a "
            "transform, or padding), or give a DataLoader with a collate_fn of its own."
        ) from error
