"""Samples grouped by class and sorted, from which column metrics are computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from probekit.errors import DataError

__all__ = ["NODES", "Array", "Block", "Codes", "Grouping", "working_dtype"]

Array: TypeAlias = npt.NDArray[Any]
Codes: TypeAlias = npt.NDArray[np.int64]
Shared = TypeVar("Shared")

NODES = 32  # that a metric handles together; bounds its scratch memory


def working_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """The dtype in which values of `dtype` are measured: float32 for float16, float64 for integers and bools.

    Raises DataError for a dtype whose values have no order, such as complex numbers.
    """
    given = np.dtype(dtype).newbyteorder("=")
    if given == np.float16:
        return np.dtype(np.float32)
    if given in (np.float32, np.float64):
        return given
    if given.kind in "iub":
        return np.dtype(np.float64)
    raise DataError(f"Values of dtype {given} can't be measured: metrics take floats, integers and bools.")


@dataclass(frozen=True)
class Block:
    """All samples of a few nodes, grouped by class, each class sorted ascending.

    `values` is (node, sample), float32 or float64. Class c has the columns ``offsets[c]`` to ``offsets[c + 1]``, so
    ``block[c]`` is a (node, n_c) view. Row i of a class is its order statistics at node i: a column isn't a sample any
    more. The values may be infinite but not NaN. Where a model runs, so that samples are only counted, the columns of a
    class may be fewer than its samples, and evenly spaced among them; `measured` then says how many these are, (class).

    >>> block = Block.from_samples(np.array([[3.0], [1.0], [2.0]]), np.array([0, 0, 1]))
    >>> block[0], block.counts
    (array([[1., 3.]]), array([2, 1]))
    """

    values: Array
    offsets: Codes
    of: Codes | None = None
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def from_samples(cls, x: npt.ArrayLike, y: npt.ArrayLike, classes: int | None = None) -> Block:
        """The block of samples `x` (sample, node) with the class codes `y` (sample), 0 to `classes` − 1."""
        samples, codes = np.asarray(x), np.asarray(y, dtype=np.int64)
        grouping = Grouping.of(codes, int(codes.max(initial=-1)) + 1 if classes is None else classes)
        values = grouping.allocate(samples.shape[1], working_dtype(samples.dtype))
        grouping.place(values, 0, np.ascontiguousarray(samples, dtype=values.dtype))
        return cls.sort(values, grouping.offsets)

    @classmethod
    def sort(cls, values: Array, offsets: Codes) -> Block:
        """The block of grouped `values` (node, sample), which are sorted in place."""
        block = cls(values, offsets)
        for code in range(block.classes):
            block[code].sort(axis=1)
        return block

    @property
    def nodes(self) -> int:
        return len(self.values)

    @property
    def classes(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Codes:
        """The columns of each class, (class,)."""
        return np.diff(self.offsets)

    @property
    def measured(self) -> Codes:
        """The samples of each class, (class,): `counts`, unless the columns are only some of them."""
        return self.counts if self.of is None else self.of

    def __getitem__(self, code: int) -> Array:
        return self.values[:, self.offsets[code] : self.offsets[code + 1]]

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Whether all samples of a node are equal, (node,)."""
        there = self.counts > 0
        if not there.any():
            return np.ones(self.nodes, dtype=bool)
        lowest, highest = self.values[:, self.offsets[:-1][there]], self.values[:, self.offsets[1:][there] - 1]
        constant: npt.NDArray[np.bool_] = lowest.min(axis=1) == highest.max(axis=1)
        return constant

    def split(self, nodes: int = NODES) -> tuple[Block, ...]:
        """Blocks of at most `nodes` nodes each, as views; every call returns the same blocks."""
        if self.nodes <= nodes:
            return (self,)
        parts = (slice(at, at + nodes) for at in range(0, self.nodes, nodes))
        return self.shared(
            ("split", nodes), lambda: tuple(Block(self.values[part], self.offsets, self.of) for part in parts)
        )

    def shared(self, key: Hashable, make: Callable[[], Shared]) -> Shared:
        """The result of `make`, which is called once for each `key`, so that metrics share intermediate results.

        The result is kept as long as the block, and so should be small compared with the samples.
        """
        if key not in self._made:
            self._made[key] = make()
        made: Shared = self._made[key]
        return made


@dataclass(frozen=True)
class Grouping:
    """The order of samples grouped by class: the new `position` of each (sample), and the `offsets` of the classes."""

    position: Codes
    offsets: Codes

    @classmethod
    def of(cls, codes: Codes, classes: int) -> Grouping:
        """The grouping of samples with class `codes` 0 to `classes` − 1; the samples of a class stay in order."""
        position = np.empty(len(codes), np.int64)
        position[np.argsort(codes, kind="stable")] = np.arange(len(codes))
        counts = np.bincount(codes, minlength=classes)
        return cls(position, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    def allocate(self, nodes: int, dtype: np.dtype[Any]) -> Array:
        """An empty array (node, sample) for the grouped values of `nodes` nodes, which `place` fills."""
        return np.empty((nodes, len(self.position)), dtype)

    def place(self, values: Array, start: int, x: Array) -> None:
        """Write the samples `x` (sample, node), which begin with sample number `start`, to their positions."""
        position = torch.from_numpy(self.position[start : start + len(x)])
        torch.from_numpy(values).index_copy_(1, position, torch.from_numpy(x).T)
