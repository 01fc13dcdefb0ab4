"""Sites whose rows aren't samples, such as the nodes of graphs: to which sample of the batch each row belongs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probekit._data.batches import Batch
from probekit._probe.pooling import Reduced
from probekit._probe.reductions import Reducer
from probekit.errors import DataError, SiteError

__all__ = ["OwnerSource", "rows_of_samples"]


@dataclass(frozen=True)
class OwnerSource:
    """Where a batch says to which sample each row of a site belongs: under a selector, None for all sites."""

    selector: Any

    def of(self, batch: Batch) -> Tensor:
        """The index of each row's sample in the batch, (row,), int64 on the CPU.

        Raises:
            DataError: the user's `rows` gave no such thing.
        """
        given = batch.owners
        found = given.get(self.selector) if isinstance(given, Mapping) else given
        owners = torch.as_tensor([] if found is None else found).cpu()
        whole = owners.dim() == 1 and len(owners) and not owners.is_floating_point()
        if not whole or not 0 <= int(owners.min()) <= int(owners.max()) < batch.rows:
            raise DataError(
                f"rows= gave {tuple(owners.shape)} values of {owners.dtype} for the samples of a site's rows: give one "
                f"index for each row, from 0 to {batch.rows - 1}, the batch having {batch.rows} samples.",
                arguments=("rows",),
            )
        return owners.to(torch.int64)


def rows_of_samples(tensor: Tensor, reducer: Reducer | None, nodes: int, owners: Tensor) -> Reduced:
    """The rows of an activation, in the order of their samples; each keeps its place among those of its sample.

    Raises:
        SiteError: the activation has another number of rows, or the reduction changes it.
    """
    if len(tensor) != len(owners):
        raise SiteError(f"it has {len(tensor)} rows, and rows= says to which sample {len(owners)} rows belong.")
    kept = Reduced(tensor, nodes=nodes) if reducer is None else reducer(tensor, rows=len(owners), nodes=nodes)
    if kept.sample is not None or kept.tensor.dim() > 2:
        raise SiteError(
            f"its rows, of shape {tuple(kept.tensor.shape[1:])}, belong to samples, and so each can have only one "
            "axis, of nodes. Reduce the others (reduce=)."
        )
    order = torch.argsort(owners, stable=True)
    ordered = owners[order]
    counts = torch.bincount(ordered)
    positions = torch.arange(len(ordered)) - (counts.cumsum(0) - counts)[ordered]
    if not torch.equal(ordered, owners):
        kept = kept._replace(tensor=kept.tensor.index_select(0, order.to(kept.tensor.device)))
    return Reduced(kept.tensor, ordered, positions)
