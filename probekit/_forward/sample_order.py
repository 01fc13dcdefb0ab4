"""What several passes over one batch gave, in the order of its samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from probekit._data.batches import Batch
from probekit._data.columns import Array
from probekit._data.lengths import batches_by_length
from probekit._forward.recorder import Sink
from probekit._probe.pooling import Reduced

__all__ = ["SampleOrder"]


class SampleOrder:
    """Divides a batch into passes, and hands what they gave to `sink` as if it had been one pass.

    With `by_length` a batch of padded texts runs in passes over samples of like length. Else, and where one pass does
    as well, an activation is handed on at the moment it comes.
    """

    def __init__(self, sink: Sink, *, by_length: bool) -> None:
        self._sink, self._by_length = sink, by_length
        self._samples: list[Array] = []  # of each pass over the batch so far, where there are several
        self._found: dict[str, list[Reduced]] = {}

    def passes(self, batch: Batch) -> Iterator[Batch]:
        """The batch of each pass; when all are done, what they gave is handed on."""
        self._samples, self._found = [], {}
        several = list(batches_by_length(batch)) if self._by_length and batch.padded else []
        if len(several) < 2:
            yield batch
            return
        for samples, part in several:
            self._samples.append(samples)
            yield part
        for name, found in self._found.items():
            self._sink(name, self._joined(found))

    def add(self, name: str, reduced: Reduced) -> None:
        """The recorder's sink."""
        if self._samples:
            self._found.setdefault(name, []).append(reduced)
        else:
            self._sink(name, reduced)

    def columns(self, found: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """The columns that each pass gave of its samples, joined."""
        if not self._samples:
            return dict(found[0])
        order = np.argsort(np.concatenate(self._samples))
        return {name: np.concatenate([each[name] for each in found])[order] for name in found[0]}

    def _joined(self, found: Sequence[Reduced]) -> Reduced:
        tensor = torch.cat([each.tensor for each in found])
        samples = [torch.from_numpy(each) for each in self._samples]
        if found[0].sample is None:
            order = torch.argsort(torch.cat(samples))
            return found[0]._replace(tensor=tensor[order.to(tensor.device)])
        owners = torch.cat([of[_given(each.sample)] for of, each in zip(samples, found, strict=True)])
        positions = torch.cat([_given(each.positions) for each in found])
        order = torch.argsort(owners, stable=True)
        return Reduced(tensor[order.to(tensor.device)], owners[order], positions[order], found[0].nodes)


def _given(index: Tensor | None) -> Tensor:
    assert index is not None  # both are there for rows of tokens
    return index
