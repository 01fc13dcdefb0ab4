"""Metrics that are order statistics of the sorted values.

A metric that needs only a few order statistics of a class names them, so that they can be found without sorting, and
without all samples in memory at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from probekit.errors import PluginError
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import ColumnMetric, FunctionMetric, Parameters, Variables
from probekit.metrics.ranges import ACTIVATION, Ranges

__all__ = ["OrderMetric", "Quantile", "median"]


@runtime_checkable
class OrderMetric(ColumnMetric, Protocol):
    """A column metric that needs only a few order statistics of each class."""

    def ranks(self, number: int) -> Sequence[int]:
        """The ranks that are needed of a class with `number` ≥ 1 samples: ascending from 0, each once."""

    def from_ranks(self, counts: Codes, values: Sequence[Array]) -> Variables:
        """The variables, bit-identical to those that `compute` gives for a block of the same samples.

        `counts` (class) are the numbers of samples, and `values` has for each class its order statistics at its
        `ranks`: (rank, node), and (0, node) for a class without samples.
        """


class _Middle(FunctionMetric):
    """A function whose value for a class depends only on the one or two samples in the middle."""

    ranges: ClassVar[Ranges] = {"median": ACTIVATION}
    headline: ClassVar[Headline] = Headline(
        "median", "mean", "nodes are strongly active for the typical sample", missing="a class without samples has none"
    )

    def ranks(self, number: int) -> Sequence[int]:
        return range((number - 1) // 2, number // 2 + 1)

    def from_ranks(self, counts: Codes, values: Sequence[Array]) -> Variables:
        missing = np.full(values[0].shape[1], np.nan, values[0].dtype)
        rows = [self(middle) if count else missing for count, middle in zip(counts, values, strict=True)]
        return {self.name: (("label", "node"), np.stack(rows))}


@_Middle
def median(values: Array) -> Array:
    """Median of each class at each node: the middle value, or the midpoint of the two in the middle.

    `median` (label, node), in the dtype of the values (float32 stays float32), bit-identical to ``np.median``. It is
    exactly 0 for a ReLU that is off for most samples of a class.
    """
    middle: Array = values[(len(values) - 1) // 2 : len(values) // 2 + 1].mean(axis=0)
    return middle


@dataclass(frozen=True)
class Quantile(Parameters):
    """Quantiles of each class at each node, by default the quartiles.

    `quantile` (label, q, node), float64 in units of the activation: the value at position (n_c − 1) q of the sorted
    samples, linearly interpolated between two of them (definition 7 of Hyndman and Fan 1996), bit-identical to
    ``np.quantile(samples, [q])``. The coordinate `q` names each quantile. The parameter `q` is a number in [0, 1], or
    a sequence of them. NaN for a class without samples, and, as in numpy, where an infinity is next to the position.

    A quantile near 0 or 1 depends on few samples: within 1 / n_c of either end it is little more than an extreme.

    >>> block = Block.from_samples(np.array([[1.0], [2.0], [4.0]]), [0, 0, 0])
    >>> Quantile([0.25, 0.5]).compute(block)["quantile"][1].tolist()
    [[[1.5], [2.0]]]
    """

    q: float | Sequence[float] = (0.25, 0.5, 0.75)
    name: ClassVar[str] = "quantile"
    ranges: ClassVar[Ranges] = {"quantile": ACTIVATION}
    headline: ClassVar[Headline] = Headline(
        "quantile",
        "mean",
        "the values at the quantiles, all together, are large",
        missing="a class without samples has none",
    )

    def __post_init__(self) -> None:
        given = np.asarray(self.q)
        if given.dtype.kind not in "iuf" or given.ndim > 1 or not given.size or not ((given >= 0) & (given <= 1)).all():
            raise PluginError(f"Quantile({self.q!r}): q must be a number from 0 to 1, or a sequence of such numbers.")
        if len(np.unique(given)) < given.size:
            raise PluginError(f"Quantile({self.q!r}): each q must be given only once.")
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
        """The positions of the quantiles among `number` sorted samples, (q,)."""
        positions: Array = (number - 1) * self.coords["q"]
        return positions

    def _between(self, number: int, values: Array) -> Array:
        """Quantiles (q, node) from the order statistics at `ranks` (rank, node), with numpy's own arithmetic."""
        positions, ranks = self._positions(number), np.array(self.ranks(number))
        below = np.floor(positions)
        low = values[np.searchsorted(ranks, below)]
        high = values[np.searchsorted(ranks, np.minimum(below + 1, number - 1))]
        share = (positions - below)[:, None]
        step = high - low
        quantiles: Array = np.where(share < 0.5, low + step * share, high - step * (1 - share))
        return quantiles
