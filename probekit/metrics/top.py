"""The samples that excite a node most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit._beats import reading
from probekit.metrics._kernels.sample_batches import tensor_batches
from probekit.metrics.limits import Limits, at_least
from probekit.metrics.protocol import Parameters, Samples, Spec, Variables

__all__ = ["TopSamples"]

_ROWS = 128  # rows sorted together: the fewer, the fewer nodes have a new largest value among them


def _few(samples: Samples) -> Iterator[Tensor]:
    """All rows in order, a few at a time."""
    done, beat = 0, reading()
    for x, _ in tensor_batches(samples):
        for few in x.split(_ROWS):
            yield few
            done += len(few)
            beat(done / samples.number)


@dataclass(frozen=True)
class TopSamples(Parameters):
    """The samples with the largest values at each node, and these values.

    For the `k` samples with the largest values at a node, the largest first:

    - `top_samples` (node, rank), int64: the row of the sample in the store, counted from 0. It locates the sample's
      id, its class and the input itself: ``tree["sample_id"][m["relu"]["top_samples"].sel(node=3)]``;
    - `top_samples_value` (node, rank), in the activation's unit and dtype (float64 for integers).

    Among samples with equal values the lower row comes first, so a dead node has the first rows of the store: check the
    values. With fewer than `k` samples there are as many ranks as samples. The metric ignores the classes. Where
    positions of a feature map or tokens are observations, a row may appear several times.

    The metric reads the samples once, and keeps one batch and `k` rows in memory. Negate the activations for the
    smallest values. The largest values alone don't show what a node does for all other samples.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[0.0, 7], [5, 1], [5, 2]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> m = pk.measure(tree, pk.metrics.TopSamples(k=2))["relu"]
    >>> m["top_samples"].sel(node=0).values, m["top_samples_value"].sel(node=0).values
    (array([1, 2]), array([5., 5.]))
    """

    k: int = 10
    limits: ClassVar[Limits] = {"k": at_least(1)}
    name: ClassVar[str] = "top_samples"
    interval: ClassVar[None] = None

    def memory(self, spec: Spec, samples: int) -> int:
        return 16 * 3 * (self.k + _ROWS) * spec.nodes  # values and places, sorted beside a few more rows

    def compute_samples(self, samples: Samples) -> Variables:
        rows = torch.tensor(samples.rows)
        values, index = torch.empty(0, samples.nodes), torch.empty(0, samples.nodes, dtype=torch.int64)
        start = 0
        for x in _few(samples):
            batch = torch.arange(start, start + len(x))
            values, index = self._with_batch(values.to(x.dtype), index, x, batch)
            start += len(x)
        return {
            "top_samples": (("node", "rank"), rows[index.T].numpy()),
            "top_samples_value": (("node", "rank"), values.T.contiguous().numpy()),
        }

    def _with_batch(self, values: Tensor, index: Tensor, x: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The largest of the previous values and those of a batch, (rank, node), and the index of their samples."""
        if len(values) < self.k:
            return self._largest(torch.cat([values, x]), torch.cat([index, batch[:, None].expand(x.shape)]))
        # Soon only few nodes change. An equal value doesn't displace an earlier one.
        changing = (x > values[-1]).any(0)
        own = torch.cat([values[:, changing], x[:, changing]])
        among = torch.cat([index[:, changing], batch[:, None].expand(x.shape)[:, changing]])
        values[:, changing], index[:, changing] = self._largest(own, among)
        return values, index

    def _largest(self, values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        order = values.sort(dim=0, descending=True, stable=True).indices[: self.k]
        return values.gather(0, order), index.gather(0, order)
