"""Order statistics, read off the sorted values.

A metric that takes but a few order statistics of a class says which, so that they can be found without sorting, and
without holding all samples at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from probekit.errors import PluginError
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.protocol import ColumnMetric, FunctionMetric, Parameters, Variables

__all__ = ["OrderMetric", "Quantile", "median"]


@runtime_checkable
class OrderMetric(ColumnMetric, Protocol):
    """A column metric that needs a few order statistics of each class, and nothing else of its samples."""

    def ranks(self, number: int) -> Sequence[int]:
        """Which of the `number` sorted samples of a class, at least 1: ascending, from 0, each once."""

    def from_ranks(self, counts: Codes, values: Sequence[Array]) -> Variables:
        """What `compute` gives of a block, in every bit.

        `counts` (class) are the samples of each class, `values` its order statistics at the ranks that it asks for:
        (rank, node), and (0, node) for a class without samples.
        """


class _Middle(FunctionMetric):
    """A function whose value for a class is its value for the one or two samples in the middle alone."""

    def ranks(self, number: int) -> Sequence[int]:
        return range((number - 1) // 2, number // 2 + 1)

    def from_ranks(self, counts: Codes, values: Sequence[Array]) -> Variables:
        missing = np.full(values[0].shape[1], np.nan, values[0].dtype)
        rows = [self(middle) if count else missing for count, middle in zip(counts, values, strict=True)]
        return {self.name: (("label", "node"), np.stack(rows))}


@_Middle
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
        ranks = [self.ranks(count) if count else [] for count in block.counts]
        return self.from_ranks(block.counts, [block[code][:, of_class].T for code, of_class in enumerate(ranks)])

    def ranks(self, number: int) -> Sequence[int]:
        below = self._positions(number).astype(np.int64)
        ranks: list[int] = np.union1d(below, np.minimum(below + 1, number - 1)).tolist()
        return ranks

    def from_ranks(self, counts: Codes, values: Sequence[Array]) -> Variables:
        found = np.full((len(counts), len(self.coords["q"]), values[0].shape[1]), np.nan)
        for code, count in enumerate(counts):
            if count:
                found[code] = self._between(int(count), values[code])
        return {"quantile": (("label", "q", "node"), found)}

    def _positions(self, number: int) -> Array:
        """Where the quantiles lie among `number` samples, (q,)."""
        positions: Array = (number - 1) * self.coords["q"]
        return positions

    def _between(self, number: int, values: Array) -> Array:
        """Quantiles (q, node) from the order statistics of `ranks` (rank, node), with numpy's own arithmetic."""
        positions, ranks = self._positions(number), np.array(self.ranks(number))
        below = np.floor(positions)
        low = values[np.searchsorted(ranks, below)]
        high = values[np.searchsorted(ranks, np.minimum(below + 1, number - 1))]
        share = (positions - below)[:, None]
        step = high - low
        quantiles: Array = np.where(share < 0.5, low + step * share, high - step * (1 - share))
        return quantiles
