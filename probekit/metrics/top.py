"""The samples that excite a node most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit.errors import PluginError
from probekit.metrics._kernels.class_means import tensors
from probekit.metrics.protocol import Parameters, Samples, Variables

__all__ = ["TopSamples"]

_ROWS = 128  # sorted together: with fewer, fewer nodes have a new value among them


def _few(samples: Samples) -> Iterator[Tensor]:
    """All rows in order, a few at a time."""
    return (few for x, _ in tensors(samples) for few in x.split(_ROWS))


@dataclass(frozen=True)
class TopSamples(Parameters):
    """The samples with the largest values at each node, and these values.

    Of the `k` samples with the largest values at a node, the largest first:

    - `top_samples` (node, rank), int64: the row of the sample in the store, which finds its id, its class and, counted
      from 0, the input itself: ``tree["sample_id"][m["relu"]["top_samples"].sel(node=3)]``;
    - `top_samples_value` (node, rank), in the activation's unit and dtype (float64 where it was integers).

    Of samples with equal values the one with the lower row number comes first, so that a dead node has the first rows
    of the store: look at the values. With fewer than `k` samples there are as many ranks as samples. The classes
    play no part in it. Where positions of a feature map or tokens are observations, a row may come several times.

    It reads the samples once, and holds a batch of them and `k` rows. Negate the activations for the least values;
    the largest alone don't say what a node does for all the others.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[0.0, 7], [5, 1], [5, 2]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> m = pk.measure(tree, pk.metrics.TopSamples(k=2))["relu"]
    >>> m["top_samples"].sel(node=0).values, m["top_samples_value"].sel(node=0).values
    (array([1, 2]), array([5., 5.]))
    """

    k: int = 10
    name: ClassVar[str] = "top_samples"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise PluginError(f"TopSamples(k={self.k!r}): k is at least 1.")

    def compute_samples(self, samples: Samples) -> Variables:
        rows = torch.tensor(samples.rows)
        values, places = torch.empty(0, samples.nodes), torch.empty(0, samples.nodes, dtype=torch.int64)
        start = 0
        for x in _few(samples):
            batch = torch.arange(start, start + len(x))
            values, places = self._with_batch(values.to(x.dtype), places, x, batch)
            start += len(x)
        return {
            "top_samples": (("node", "rank"), rows[places.T].numpy()),
            "top_samples_value": (("node", "rank"), values.T.contiguous().numpy()),
        }

    def _with_batch(self, values: Tensor, places: Tensor, x: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The largest values (rank, node) and their places among those before and a batch."""
        if len(values) < self.k:
            return self._largest(torch.cat([values, x]), torch.cat([places, batch[:, None].expand(x.shape)]))
        changing = (x > values[-1]).any(0)  # soon few nodes are, and an equal value doesn't displace an earlier one
        own = torch.cat([values[:, changing], x[:, changing]])
        among = torch.cat([places[:, changing], batch[:, None].expand(x.shape)[:, changing]])
        values[:, changing], places[:, changing] = self._largest(own, among)
        return values, places

    def _largest(self, values: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        order = values.sort(dim=0, descending=True, stable=True).indices[: self.k]
        return values.gather(0, order), places.gather(0, order)
