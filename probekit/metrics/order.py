"""Order statistics, read off the sorted values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from probekit.errors import PluginError
from probekit.metrics.block import Array, Block
from probekit.metrics.protocol import Parameters, Variables, metric

__all__ = ["Quantile", "median"]


@metric
def median(values: Array) -> Array:
    """Median of each class at each node: the middle value, or the midpoint of the two in the middle.

    `median` (label, node), in the dtype of the values (float32 stays float32), equal to ``np.median`` in every bit. For
    a ReLU that is off for most of a class it is exactly 0.
    """
    middle: Array = values[(len(values) - 1) // 2 : len(values) // 2 + 1].mean(axis=0)
    return middle


@dataclass(frozen=True)
class Quantile(Parameters):
    """Quantiles of each class at each node, by default the quartiles.

    `quantile` (label, q, node), float64 in units of the activation: the value at position (n_c − 1) q of the sorted
    samples, between two of them by a straight line (definition 7 of Hyndman and Fan 1996), equal to
    ``np.quantile(samples, [q])`` in every bit. The coordinate `q` says which is which. `q` is a number in [0, 1], or
    several. NaN for a class without samples, and, as numpy's, where an infinity is next to the position.

    A quantile near 0 or 1 rests on few samples: beyond 1 / n_c from the ends it is no more than an extreme.

    >>> block = Block.from_samples(np.array([[1.0], [2.0], [4.0]]), [0, 0, 0])
    >>> Quantile([0.25, 0.5]).compute(block)["quantile"][1].tolist()
    [[[1.5], [2.0]]]
    """

    q: float | Sequence[float] = (0.25, 0.5, 0.75)
    name: ClassVar[str] = "quantile"

    def __post_init__(self) -> None:
        given = np.asarray(self.q)
        if given.dtype.kind not in "iuf" or given.ndim > 1 or not given.size or not ((given >= 0) & (given <= 1)).all():
            raise PluginError(f"Quantile({self.q!r}): q is a number from 0 to 1, or a sequence of such.")
        if len(np.unique(given)) < given.size:
            raise PluginError(f"Quantile({self.q!r}): each q is asked for once.")
        object.__setattr__(self, "q", tuple(np.atleast_1d(given).astype(float).tolist()))

    @property
    def coords(self) -> dict[str, Array]:
        return {"q": np.array(self.q)}

    def compute(self, block: Block) -> Variables:
        at = self.coords["q"]
        found = np.full((block.classes, len(at), block.nodes), np.nan)
        for code, count in enumerate(block.counts):
            if count:
                found[code] = _quantiles(block[code].T, at)
        return {"quantile": (("label", "q", "node"), found)}


def _quantiles(values: Array, at: Array) -> Array:
    """Quantiles (q, node) of `values` (sample, node), which are sorted, with numpy's own arithmetic."""
    last = len(values) - 1
    position = last * at
    below = np.floor(position).astype(np.int64)
    low, high = values[below], values[np.minimum(below + 1, last)]
    share = (position - below)[:, None]
    step = high - low
    quantiles: Array = np.where(share < 0.5, low + step * share, high - step * (1 - share))
    return quantiles
