"""A batch of padded texts as several, each of samples of like length and padded no further than its longest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit._data.batches import Batch
from probekit._data.columns import Array
from probekit._data.inputs import choose_rows
from probekit._nested import mapped

__all__ = ["batches_by_length", "length_groups"]

_ALIKE = 0.75  # of the longest: shorter samples get a pass of their own
_WORTH = 256  # tokens of padding that a further pass has to save, since it costs something itself


def length_groups(lengths: Array) -> list[Array]:
    """The indices of samples that are run together, longest first; each group in the samples' own order.

    >>> [group.tolist() for group in length_groups(np.array([9, 400, 10, 390]))]
    [[1, 3], [0, 2]]
    """
    order = np.argsort(-lengths, kind="stable")
    sorted_lengths = lengths[order]
    begins = [0]
    for index, length in enumerate(sorted_lengths.tolist()):
        longest = int(sorted_lengths[begins[-1]])
        if length <= _ALIKE * longest and (longest - length) * (len(order) - index) > _WORTH:
            begins.append(index)
    return [np.sort(group) for group in np.split(order, begins[1:])]


def batches_by_length(batch: Batch) -> Iterator[tuple[Array, Batch]]:
    """The samples of a batch in groups of like length: their indices, and a batch of them without the longer padding.

    The seed of a pass is its `start`, which is another number for each.
    """
    assert batch.tokens is not None  # padded batches have them
    before = 0
    for samples in length_groups(batch.tokens.counts):
        tokens = batch.tokens.of(samples)
        chosen = choose_rows(batch.inputs, batch.rows, torch.from_numpy(samples))
        inputs = mapped(partial(_cut, longest=int(tokens.counts.max())), chosen)
        columns = {name: values[samples] for name, values in batch.columns.items()}
        start = batch.start + before
        yield samples, replace(batch, inputs=inputs, rows=len(samples), columns=columns, start=start, tokens=tokens)
        before += len(samples)


def _cut(value: Any, *, longest: int) -> Any:
    """What a tokenizer gave for the samples, (sample, position), without the positions that are padding in all."""
    return value[:, :longest] if isinstance(value, Tensor) and value.dim() == 2 else value
