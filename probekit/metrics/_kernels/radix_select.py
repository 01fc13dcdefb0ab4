"""Order statistics of samples that don't fit in memory, exact, by reading them a few times: radix selection.

The bits of a float, as an integer of the same order, are found in digits from the upper end. A pass counts the next
digit of those samples that begin with the digits found so far, of each class at each node; the digit sought is where
the wanted rank falls among these counts. After the last pass all bits of the order statistic are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from probekit.errors import DataError
from probekit.metrics.block import Array, Codes, working_dtype
from probekit.metrics.order import OrderMetric
from probekit.metrics.protocol import Variables

__all__ = ["OrderStatistics", "Read", "Selection"]

Read: TypeAlias = Callable[[], Iterable[tuple[Codes, Array]]]

_DIGITS = (16, 8)  # bits of a digit: the fewest passes, or the least memory
_VALUE = 64  # bytes of scratch for each value of a batch


@dataclass(frozen=True, eq=False)
class Selection:
    """Which order statistics to find, in how many passes and bytes.

    `counts` (class) are the samples of each class, `ranks` those wanted of them when they are sorted, ascending from 0;
    `dtype` holds the values, and `digit` is how many bits a pass finds.

    Example:
        >>> from probekit.metrics import median
        >>> x, y = np.array([[4.0], [1.0], [3.0], [7.0]], np.float32), np.array([0, 0, 0, 1])
        >>> selection = Selection.of([median], np.bincount(y), x.dtype)
        >>> selection.passes
        2
        >>> selection.select(lambda: [(y[:2], x[:2]), (y[2:], x[2:])], nodes=1).compute(median)
        {'median': (('label', 'node'), array([[3.],
               [7.]], dtype=float32))}
    """

    counts: Codes
    ranks: tuple[Codes, ...]
    dtype: np.dtype[Any]
    digit: int = _DIGITS[0]

    @classmethod
    def of(
        cls, metrics: Iterable[OrderMetric], counts: npt.ArrayLike, dtype: npt.DTypeLike, memory: float = np.inf
    ) -> Selection:
        """The selection of what `metrics` need of classes with so many samples, `counts` (class).

        `dtype` is one that holds every value: that of the store, or what positions are pooled to. A pass finds 16 bits
        if one node then fits in `memory` bytes, else 8.

        Raises:
            DataError: values of the dtype have no order.
        """
        working_dtype(dtype)
        number = np.asarray(counts, np.int64)
        asked = list(metrics)
        ranks = tuple(_wanted(asked, int(count)) for count in number)
        choices = [cls(number, ranks, np.dtype(dtype), digit) for digit in _DIGITS]
        return next((choice for choice in choices if choice.node_bytes <= memory), choices[-1])

    @property
    def passes(self) -> int:
        """How often all samples are read: for float32 twice, for float64 4 times; with digits of 8 bits twice that."""
        return 8 * _exact(self.dtype).itemsize // self.digit

    @property
    def node_bytes(self) -> int:
        """Bytes that a node takes at most: counts of every digit for each rank, 256 KB with digits of 16 bits."""
        return sum(map(len, self.ranks)) * ((self._counter.itemsize << self.digit) + _VALUE)

    @staticmethod
    def batch_bytes(rows: int, nodes: int) -> int:
        """Bytes that a batch of samples takes beside, as it is read and counted."""
        return _VALUE * rows * nodes

    @property
    def _counter(self) -> np.dtype[Any]:
        return np.dtype(np.int32 if self.counts.max(initial=0) < 2**31 else np.int64)

    def select(self, read: Read, nodes: int) -> OrderStatistics:
        """The order statistics at `nodes` nodes.

        `read` gives all samples in batches, as class codes (row) and values (row, node) without NaN, the same whenever
        it is called, which it is once a pass. −0 is found as 0.

        Raises:
            DataError: the samples aren't those that the counts and the dtype say, or change between passes.
        """
        exact = _exact(self.dtype)
        search = _Search.of(self.counts, self.ranks, nodes, exact)
        for place in range(self.passes - 1, -1, -1) if len(search.owner) else ():
            slots = search.slots()
            counts = np.zeros((slots.number, 2**self.digit), self._counter)
            for codes, x in read():
                _tally(counts, slots, codes, _keys(x, exact), place * self.digit)
            search.narrow(slots, counts, place * self.digit)
        values = _floats(search.key, exact).astype(working_dtype(self.dtype))
        return OrderStatistics(self, np.split(values, np.cumsum([len(ranks) for ranks in self.ranks])[:-1]))


@dataclass(frozen=True, eq=False)
class OrderStatistics:
    """What a selection found: for each class the `values` (rank, node), in the dtype that they are measured in."""

    selection: Selection
    values: Sequence[Array]

    def compute(self, metric: OrderMetric) -> Variables:
        """The variables of one of the selection's metrics, equal in every bit to those of a block of all samples."""
        counts = self.selection.counts
        each = zip(counts, self.selection.ranks, self.values, strict=True)
        of_metric = [values[np.searchsorted(ranks, _wanted([metric], int(count)))] for count, ranks, values in each]
        return metric.from_ranks(counts, of_metric)


def _wanted(metrics: Sequence[OrderMetric], count: int) -> Codes:
    """The ranks that the metrics need of a class, ascending, each once."""
    return np.array(sorted({rank for metric in metrics for rank in metric.ranks(count)}) if count else [], np.int64)


@dataclass(frozen=True, eq=False)
class _Slots:
    """Which samples are counted together: those that begin with the same digits, of a class at a node.

    `of_rank` (rank, node) says where among `number` slots each wanted rank is. `tables` are, of the first rank of each
    class, the second, …: the digits, and the slot that they are counted in, −1 where there is none, (class, node) each.
    """

    number: int
    of_rank: Codes
    tables: list[tuple[Array, Codes]]


@dataclass(frozen=True, eq=False)
class _Search:
    """What is known of each wanted order statistic: its class `owner` (rank) and, (rank, node) each, the upper digits
    of its `key`, how many samples begin with them, `among`, and its rank among those, `rank`.
    """

    classes: int
    owner: Codes
    key: Array
    rank: Codes
    among: Codes

    @classmethod
    def of(cls, counts: Codes, ranks: Sequence[Codes], nodes: int, dtype: np.dtype[Any]) -> _Search:
        owner = np.repeat(np.arange(len(counts)), [len(of_class) for of_class in ranks])
        shape = len(owner), nodes
        rank = np.concatenate([*ranks, np.empty(0, np.int64)])
        wide = [np.repeat(each[:, None], nodes, axis=1) for each in (rank, counts[owner])]
        return cls(len(counts), owner, np.zeros(shape, f"u{dtype.itemsize}"), *wide)

    def slots(self) -> _Slots:
        # Ranks ascend within a class, and so do keys: equal ones are next to each other.
        new = np.ones(self.key.shape, bool)
        same = (self.owner[1:] == self.owner[:-1])[:, None]
        new[1:] = ~(same & (self.key[1:] == self.key[:-1]))
        of_rank = np.cumsum(new.T).reshape(new.T.shape).T - 1
        return _Slots(int(of_rank[-1, -1]) + 1, of_rank, list(self._tables(np.where(new, of_rank, -1))))

    def _tables(self, slots: Codes) -> Iterator[tuple[Array, Codes]]:
        order = np.arange(len(self.owner)) - np.searchsorted(self.owner, self.owner)
        for nth in range(int(order.max()) + 1):
            those = order == nth
            key = np.zeros((self.classes, slots.shape[1]), self.key.dtype)
            slot = np.full(key.shape, -1)
            key[self.owner[those]], slot[self.owner[those]] = self.key[those], slots[those]
            if (slot >= 0).any():
                yield key, slot

    def narrow(self, slots: _Slots, counts: Array, shift: int) -> None:
        """Find the digit at `shift` from the `counts` (slot, digit), which become their running sums."""
        np.cumsum(counts, axis=1, out=counts)
        for at, slot in np.ndenumerate(slots.of_rank):
            up_to = counts[slot]
            if up_to[-1] != self.among[at]:
                raise DataError(
                    f"{up_to[-1]} samples of class {self.owner[at[0]]} were read at a node where there should be "
                    f"{self.among[at]}: they change while they are read, or aren't those that the counts are of. "
                    "Measure a store that nothing writes to."
                )
            digit = int(np.searchsorted(up_to, self.rank[at], "right"))
            below = int(up_to[digit - 1]) if digit else 0
            self.key[at] |= self.key.dtype.type(digit << shift)
            self.rank[at] -= below
            self.among[at] = up_to[digit] - below


def _tally(counts: Array, slots: _Slots, codes: Codes, keys: Array, shift: int) -> None:
    """Add to `counts` (slot, digit) the digits at `shift` of the samples with class `codes` and `keys` (row, node)."""
    kind, size = keys.dtype.type, counts.shape[1]
    above = kind(2 ** (8 * keys.itemsize) - (size << shift))
    found = keys & above
    flat = torch.from_numpy(counts).view(-1)
    for begins, slot in slots.tables:
        hits = np.flatnonzero(begins.take(codes, 0) == found)
        at = slot.take(codes, 0).ravel()[hits]
        digit = (keys.ravel()[hits] >> kind(shift) & kind(size - 1)).astype(np.int64)
        places = torch.from_numpy((at * size + digit)[at >= 0])
        flat.scatter_add_(0, places, flat.new_ones(len(places)))


def _exact(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """The smallest float that holds every value: float16 for bytes, float32 for integers of 16 bits."""
    return np.promote_types(dtype, np.float16)


def _keys(x: Array, dtype: np.dtype[Any]) -> Array:
    """Unsigned integers in the order of the values, which are floats of `dtype`."""
    floats = x.astype(dtype) + dtype.type(0)  # + 0 turns -0 into 0
    if x.dtype != dtype and (floats != x).any():
        raise DataError(f"The samples are {x.dtype} and aren't all numbers of {dtype}, as which they should be read.")
    keys: Array = _ordinals(floats.view(f"i{dtype.itemsize}")).view(f"u{dtype.itemsize}") ^ _sign(dtype)
    return keys


def _floats(keys: Array, dtype: np.dtype[Any]) -> Array:
    """The floats of which these are the keys."""
    return _ordinals((keys ^ _sign(dtype)).view(f"i{dtype.itemsize}")).view(dtype)


def _sign(dtype: np.dtype[Any]) -> Any:
    return np.dtype(f"u{dtype.itemsize}").type(2 ** (8 * dtype.itemsize - 1))


def _ordinals(bits: Array) -> Array:
    """Integers in the order of the floats with these bits; applied twice, the bits again."""
    ordinals: Array = bits ^ (bits >> (8 * bits.itemsize - 1) & np.iinfo(bits.dtype).max)
    return ordinals
