"""The processes that capture into one store together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from probekit._data.sampler import ChunkSampler
from probekit.errors import ProbekitError, StoreError, arguments_of

__all__ = ["Group"]

T = TypeVar("T")


class Group:
    """The processes that capture together.

    Those that are `in_step` run a model whose forward passes are of all of them.
    """

    def __init__(self, rank: int, world: int, *, in_step: bool = False) -> None:
        self.rank, self.alone, self._in_step = rank, world == 1, in_step

    @classmethod
    def of_all(cls) -> Group:
        """All processes of the default group, which run a model in step."""
        return cls(dist.get_rank(), dist.get_world_size(), in_step=True)

    @classmethod
    def of(cls, sampler: ChunkSampler, *, in_step: bool) -> Group:
        """Those that share the sampler's data.

        Raises:
            StoreError: torch.distributed doesn't know of them.
        """
        group = cls(sampler.rank, sampler.world, in_step=in_step)
        if group.alone:
            return group
        if not dist.is_initialized() or (dist.get_rank(), dist.get_world_size()) != (sampler.rank, sampler.world):
            found = "torch.distributed says otherwise" if dist.is_initialized() else "there is no process group"
            raise StoreError(
                f"The loader's ChunkSampler is that of process {sampler.rank} of {sampler.world}, and {found}. Start "
                'with torchrun, and call torch.distributed.init_process_group("gloo") first.'
            )
        return group

    def by_first(self, work: Callable[[], T]) -> T:
        """Do `work` in the first process, and return or raise in all processes what it returned or raised there."""
        if self.alone:
            return work()
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = work()
            except ProbekitError as error:
                box[1] = error
        dist.broadcast_object_list(box)
        if box[1] is not None:
            raise box[1]
        return box[0]  # type: ignore[no-any-return]

    def by_all(self, work: Callable[[], T]) -> list[T]:
        """Have each process do its `work`, and wait for all; what it returned in each of them.

        Raises:
            StoreError: another process failed; what this one's work raises, it raises itself.
        """
        if self.alone:
            return [work()]
        done: T | None = None
        failure: Exception | None = None
        try:
            done = work()
        except Exception as error:
            if self._in_step:
                raise  # the others wait in a forward pass, and not here, until this process ends
            failure = error
        of_all: list[Any] = [None] * dist.get_world_size()
        # As text, since not every exception can be pickled.
        told = None if failure is None else (f"{type(failure).__name__}: {failure}", arguments_of(failure))
        dist.all_gather_object(of_all, (done, told))
        if failure is not None:
            raise failure
        for rank, (_, found) in enumerate(of_all):
            if found is not None:
                text, arguments = found
                raise StoreError(
                    f"Process {rank} failed: {text} The chunk rows that are finished are kept. Start all processes "
                    "again with resume=True; their number may differ.",
                    arguments=(*arguments, "resume"),
                )
        return [done for done, _ in of_all]
