"""Radix selection: exact order statistics of samples that don't fit in memory, by reading them a few times.

The bits of an order statistic, as an integer in the order of the floats, are found digit by digit from the upper end.
Each pass considers, for each class and node, the samples that begin with the digits found so far (the prefix), and
counts their next digits. The wanted rank falls on one of these counts, which gives the next digit. After the last pass
all bits are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
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

_DIGITS = (16, 11, 8)  # bits of a digit: from the fewest passes to the least memory
_VALUE = 64  # bytes of scratch for each value of a batch
_BATCH = 2**14  # values that are counted at a time


@dataclass(frozen=True, eq=False)
class Selection:
    """The order statistics to find, and the passes and bytes that they take.

    `counts` (class) are the numbers of samples, and `ranks` the wanted ranks of each class, ascending from 0. `dtype`
    is that of the values, and `digit` the number of bits that a pass finds.

    Example:
        >>> from probekit.metrics import median
        >>> x, y = np.array([[4.0], [1.0], [3.0], [7.0]], np.float32), np.array([0, 0, 0, 1])
        >>> selection = Selection.choices([median], np.bincount(y), x.dtype)[0]
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
    def choices(cls, metrics: Iterable[OrderMetric], counts: npt.ArrayLike, dtype: npt.DTypeLike) -> list[Selection]:
        """The selections of the order statistics that `metrics` need of classes with `counts` (class) samples.

        They differ in the bits that a pass finds: from the fewest passes to the least memory. `dtype` represents every
        value: it is that of the store, or that of pooled positions.

        Raises:
            DataError: values of the dtype have no order.
        """
        working_dtype(dtype)
        number = np.asarray(counts, np.int64)
        asked = list(metrics)
        ranks = tuple(_wanted(asked, int(count)) for count in number)
        every = [cls(number, ranks, np.dtype(dtype), digit) for digit in _DIGITS]
        # No more memory for the same number of passes.
        return [
            one for one, more in zip(every, [*every[1:], None], strict=True) if not more or more.passes > one.passes
        ]

    @property
    def passes(self) -> int:
        """How often all samples are read: for float32 2 times with digits of 16 bits, 3 with 11, and 4 with 8."""
        return ceil(8 * _exact(self.dtype).itemsize / self.digit)

    @property
    def node_bytes(self) -> int:
        """The most bytes that a node takes: counts of every digit for each rank, 256 KB with 16-bit digits."""
        return sum(map(len, self.ranks)) * ((self._counter.itemsize << self.digit) + _VALUE)

    @staticmethod
    def batch_bytes(rows: int, nodes: int) -> int:
        """Additional bytes that a batch of samples takes while it is counted."""
        return _VALUE * max(nodes, min(rows * nodes, _BATCH))

    @property
    def _counter(self) -> np.dtype[Any]:
        return np.dtype(np.int32 if self.counts.max(initial=0) < 2**31 else np.int64)

    def select(self, read: Read, nodes: int) -> OrderStatistics:
        """The order statistics at `nodes` nodes.

        `read` is called once in each pass. It returns all samples in batches, as class codes (row) and values (row,
        node) without NaN, the same ones at every call. −0 becomes 0.

        Raises:
            DataError: the samples don't agree with the counts or the dtype, or change between passes.
        """
        exact = _exact(self.dtype)
        search = _Search.of(self.counts, self.ranks, nodes, exact)
        for shift in range((self.passes - 1) * self.digit, -1, -self.digit) if len(search.owner) else ():
            prefixes = search.prefixes()
            counts = np.zeros((prefixes.number, 2**self.digit), self._counter)
            for codes, x in read():
                few = max(1, _BATCH // nodes)
                for at in range(0, len(x), few):
                    _tally(counts, prefixes, codes[at : at + few], _keys(x[at : at + few], exact), shift)
            search.narrow(prefixes, counts, shift)
            del counts  # before the next ones are made
        values = _floats(search.key, exact).astype(working_dtype(self.dtype))
        return OrderStatistics(self, np.split(values, np.cumsum([len(ranks) for ranks in self.ranks])[:-1]))


@dataclass(frozen=True, eq=False)
class OrderStatistics:
    """The result of a selection: for each class the `values` (rank, node), in the dtype that they are measured in."""

    selection: Selection
    values: Sequence[Array]

    def compute(self, metric: OrderMetric) -> Variables:
        """The variables of one of the selection's metrics, bit-identical to those of a block of all samples."""
        counts = self.selection.counts
        each = zip(counts, self.selection.ranks, self.values, strict=True)
        of_metric = [values[np.searchsorted(ranks, _wanted([metric], int(count)))] for count, ranks, values in each]
        return metric.from_ranks(counts, of_metric)


def _wanted(metrics: Sequence[OrderMetric], count: int) -> Codes:
    """The ranks that the metrics need of a class with `count` samples, ascending, each once."""
    return np.array(sorted({rank for metric in metrics for rank in metric.ranks(count)}) if count else [], np.int64)


@dataclass(frozen=True, eq=False)
class _Prefixes:
    """The groups of samples that are counted together: those of a class at a node that begin with the same digits.

    `of_rank` (rank, node) is the prefix of each wanted rank, out of `number`. `tables` has an entry for the first rank
    of each class, one for the second, …: the digits, and the number of the prefix, −1 where there is none, (class,
    node) each.
    """

    number: int
    of_rank: Codes
    tables: list[tuple[Array, Codes]]


@dataclass(frozen=True, eq=False)
class _Search:
    """The state of the search for each wanted order statistic.

    `owner` (rank) is its class. The others are (rank, node): the upper digits of its `key`, the number of samples
    `among` which it is, those that begin with these digits, and its `rank` among them.
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

    def prefixes(self) -> _Prefixes:
        # Ranks ascend within a class, and so do keys: equal keys are adjacent.
        new = np.ones(self.key.shape, bool)
        same = (self.owner[1:] == self.owner[:-1])[:, None]
        new[1:] = ~(same & (self.key[1:] == self.key[:-1]))
        of_rank = np.cumsum(new.T).reshape(new.T.shape).T - 1
        return _Prefixes(int(of_rank[-1, -1]) + 1, of_rank, list(self._tables(np.where(new, of_rank, -1))))

    def _tables(self, numbers: Codes) -> Iterator[tuple[Array, Codes]]:
        order = np.arange(len(self.owner)) - np.searchsorted(self.owner, self.owner)
        for nth in range(int(order.max()) + 1):
            those = order == nth
            # What is wanted begins with zeros below the digits that are found, so 1 is the beginning of nothing.
            key = np.ones((self.classes, numbers.shape[1]), self.key.dtype)
            number = np.full(key.shape, -1)
            number[self.owner[those]] = numbers[those]
            key[self.owner[those]] = np.where(numbers[those] >= 0, self.key[those], 1)
            if (number >= 0).any():
                yield key, number

    def narrow(self, prefixes: _Prefixes, counts: Array, shift: int) -> None:
        """Find the digit at `shift` from the `counts` (prefix, digit), which become their running sums."""
        np.cumsum(counts, axis=1, out=counts)
        for at, prefix in np.ndenumerate(prefixes.of_rank):
            up_to = counts[prefix]
            if up_to[-1] != self.among[at]:
                raise DataError(
                    f"{up_to[-1]} samples of class {self.owner[at[0]]} were read at a node where there should be "
                    f"{self.among[at]}: the samples change while they are read, or don't agree with their counts. "
                    "Measure a store that nothing writes to."
                )
            digit = int(np.searchsorted(up_to, self.rank[at], "right"))
            below = int(up_to[digit - 1]) if digit else 0
            self.key[at] |= self.key.dtype.type(digit << shift)
            self.rank[at] -= below
            self.among[at] = up_to[digit] - below


def _tally(counts: Array, prefixes: _Prefixes, codes: Codes, keys: Array, shift: int) -> None:
    """Add the digits at `shift` of samples, with class `codes` and `keys` (row, node), to `counts` (prefix, digit)."""
    kind, size = keys.dtype.type, counts.shape[1]
    above = kind(max(0, 2 ** (8 * keys.itemsize) - (size << shift)))  # the bits of the digits that are found
    digits = ((keys >> kind(shift)) & kind(size - 1)).ravel()
    if not above:  # nothing is found yet: each class has one prefix at each node
        ((_, number),) = prefixes.tables
        _count(counts, number.take(codes, 0).ravel(), digits)
        return
    found = keys & above
    for begins, number in prefixes.tables:
        hits = np.flatnonzero(begins.take(codes, 0) == found)
        _count(counts, number.take(codes, 0).ravel().take(hits), digits.take(hits))


def _count(counts: Array, prefix: Codes, digits: Array) -> None:
    """Count samples by their prefix and digit; `prefix` becomes the place of the count."""
    prefix *= counts.shape[1]
    prefix += digits.astype(np.int64)
    flat = torch.from_numpy(counts).view(-1)
    flat.scatter_add_(0, torch.from_numpy(prefix), flat.new_ones(1).expand(len(prefix)))


def _exact(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """The smallest float dtype that represents every value: float16 for bytes, float32 for integers of 16 bits."""
    return np.promote_types(dtype, np.float16)


def _keys(x: Array, dtype: np.dtype[Any]) -> Array:
    """Unsigned integers in the order of the values, which are floats of `dtype`."""
    floats = x.astype(dtype) + dtype.type(0)  # + 0 turns -0 into 0
    if x.dtype != dtype and (floats != x).any():
        raise DataError(f"The samples are {x.dtype}, and {dtype}, as which they should be read, can't represent all.")
    keys: Array = _ordinals(floats.view(f"i{dtype.itemsize}")).view(f"u{dtype.itemsize}") ^ _sign(dtype)
    return keys


def _floats(keys: Array, dtype: np.dtype[Any]) -> Array:
    """The floats that have these keys."""
    return _ordinals((keys ^ _sign(dtype)).view(f"i{dtype.itemsize}")).view(dtype)


def _sign(dtype: np.dtype[Any]) -> Any:
    return np.dtype(f"u{dtype.itemsize}").type(2 ** (8 * dtype.itemsize - 1))


def _ordinals(bits: Array) -> Array:
    """Integers in the order of the floats with these bits; the function is its own inverse."""
    ordinals: Array = bits ^ (bits >> (8 * bits.itemsize - 1) & np.iinfo(bits.dtype).max)
    return ordinals
