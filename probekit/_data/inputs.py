"""The inputs of a batch: as tensors, and how many samples they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from probekit._data.columns import Array
from probekit._data.fields import Item
from probekit._nested import mapped, tensors
from probekit.errors import DataError

__all__ = ["as_tensors", "check_differ", "choose_rows", "count_rows", "given_rows", "readers"]


def as_tensors(inputs: Any, index: int) -> Any:
    """The inputs with every array in them as a tensor."""
    return mapped(lambda value: _tensor(value, index) if isinstance(value, np.ndarray) else value, inputs)


def _tensor(array: Array, index: int) -> Tensor:
    # torch takes no negative strides and no foreign byte order; and what is read-only a model mustn't write into.
    if not array.flags.writeable or min(array.strides, default=0) < 0 or not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise DataError(
            f"Batch {index} holds an array of {array.dtype} among the inputs, which no tensor can hold. Take it out "
            "with labels=, ids= or columns=.",
            arguments=("labels", "ids", "columns"),
        ) from error


def count_rows(inputs: Any, item: Item) -> int:
    """The number of samples, which all of the inputs hold."""
    sizes = {tensor.shape[0] for tensor in tensors(inputs) if tensor.dim()}
    advice = "Say how many samples a batch has: rows=, a callable of the inputs."
    if not sizes:
        raise DataError(
            f"Batch {item.index} is {item}, and holds no tensor for the model. {advice}", arguments=("rows",)
        )
    if len(sizes) > 1:
        raise DataError(
            f"The inputs of batch {item.index} have different numbers of samples: {sorted(sizes)}. {advice}",
            arguments=("rows",),
        )
    return sizes.pop()


def given_rows(given: Any) -> tuple[int, Any]:
    """The number of samples that the user's `rows` gave, and the sample of each row, where it gave that."""
    rows, owners = given if isinstance(given, tuple) and len(given) == 2 else (given, {})
    rows = int(rows) if isinstance(rows, Tensor | np.integer) and np.ndim(rows) == 0 else rows
    if not isinstance(rows, int) or rows < 0:
        raise DataError(
            f"rows= returned {given!r}; give the number of samples of the batch, or a pair of that and the index of "
            "the sample that each row of a site belongs to.",
            arguments=("rows",),
        )
    return rows, owners


def choose_rows(inputs: Any, rows: int, index: Tensor) -> Any:
    """Some samples of inputs that hold so many `rows`."""
    return mapped(lambda value: _chosen(value, rows, index), inputs)


def _chosen(value: Any, rows: int, index: Tensor) -> Any:
    if not isinstance(value, Tensor):
        if isinstance(value, str | int | float | bool | None):
            return value
        raise DataError(
            f"ignore_label= can't leave samples out of a {type(value).__name__}. Leave them out of the data.",
            arguments=("ignore_label",),
        )
    return value.index_select(0, index.to(value.device)) if value.dim() and len(value) == rows else value


def readers(data: Any) -> int:
    """How many workers read one iterable data set, each of which gives a batch in turn; 0 for other data."""
    several = isinstance(data, DataLoader) and isinstance(data.dataset, IterableDataset) and data.num_workers > 1
    return data.num_workers if several else 0


def check_differ(firsts: list[Any], inputs: Any) -> list[Any]:
    """The first inputs of several workers, these added; DataError where two gave the same."""
    ours = list(tensors(inputs))
    for before in firsts:
        theirs = list(tensors(before))
        if ours and len(ours) == len(theirs) and all(map(torch.equal, ours, theirs)):
            raise DataError(
                "Several workers of the DataLoader give the same samples, since each reads the whole IterableDataset. "
                "Divide it among them by torch.utils.data.get_worker_info(), or give num_workers=1."
            )
    return [*firsts, inputs]
