"""Which samples a process captures, where several capture one data set together."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Sized

from torch.utils.data import Sampler

from probekit.errors import DataError

__all__ = ["ChunkSampler"]


class ChunkSampler(Sampler[int]):
    """The samples of every `world`-th chunk row of a data set, in order: rank r has the chunk rows r, r + world, ….

    Give it to the DataLoader of each process that torchrun starts, and the loader to `probekit.capture`: each process
    then captures its own rows of one store, each at its index in the data set, none twice and none left out. The store
    is the same for any number of processes at the same batch size. (torch's DistributedSampler deals out single
    samples, and pads with duplicates.)

    Args:
        data: the data set, or its length.
        chunk_rows: samples in a chunk row, a multiple of the loader's batch size; the unit of the store's chunks.
        rank, world: which process of how many; by default as torchrun says, 0 of 1 without it.

    Raises:
        DataError: numbers that don't fit together.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> import torch, probekit as pk
        >>> data = TensorDataset(torch.arange(10.0))
        >>> loader = DataLoader(data, batch_size=2, sampler=pk.ChunkSampler(data, chunk_rows=4, rank=0, world=2))
        >>> [batch[0].tolist() for batch in loader]
        [[0.0, 1.0], [2.0, 3.0], [8.0, 9.0]]
    """

    def __init__(
        self, data: Sized | int, *, chunk_rows: int = 4096, rank: int | None = None, world: int | None = None
    ) -> None:
        self.total = data if isinstance(data, int) else len(data)
        self.chunk_rows = chunk_rows
        self.rank = int(os.environ.get("RANK", 0)) if rank is None else rank
        self.world = int(os.environ.get("WORLD_SIZE", 1)) if world is None else world
        if chunk_rows < 1 or not 0 <= self.rank < self.world:
            raise DataError(
                f"ChunkSampler was given chunk_rows={chunk_rows}, rank={self.rank}, world={self.world}: chunk_rows is "
                "at least 1, and the rank below the number of processes."
            )
        self.done: Collection[int] = ()  # chunk rows that need no capture any more

    @property
    def chunks(self) -> list[int]:
        """The chunk rows of this process that aren't done."""
        every = range(self.rank, math.ceil(self.total / self.chunk_rows), self.world)
        return [chunk for chunk in every if chunk not in self.done]

    def rows(self, chunk: int) -> range:
        """The samples of a chunk row."""
        return range(chunk * self.chunk_rows, min((chunk + 1) * self.chunk_rows, self.total))

    def starts(self, batch_size: int) -> Iterator[int]:
        """The first sample of each batch."""
        for chunk in self.chunks:
            yield from self.rows(chunk)[::batch_size]

    def __iter__(self) -> Iterator[int]:
        for chunk in self.chunks:
            yield from self.rows(chunk)

    def __len__(self) -> int:
        return sum(len(self.rows(chunk)) for chunk in self.chunks)
