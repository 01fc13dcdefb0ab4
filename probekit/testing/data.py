"""The samples that metrics are tested with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt

from probekit.metrics.block import Array, Codes

__all__ = ["DEAD", "Data", "Table", "mixed"]

DEAD = 5  # the node that is always 0
_SIZES = (85, 61, 53, 41)  # samples of each class


@dataclass(frozen=True)
class Data:
    """Samples `x` (sample, node) with class codes `y` (sample), 0 to `classes` − 1, and a `description` in words.

    `target` (sample,) has a number for each sample, for metrics that need one.
    """

    description: str
    x: Array
    y: Codes
    classes: int
    target: Array

    @property
    def nodes(self) -> int:
        return int(self.x.shape[1])

    @property
    def sites(self) -> tuple[Array, Array]:
        """The same samples at two sites, for metrics that compare sites."""
        return self.x, np.maximum(self.x[:, : max(1, self.nodes - 1)], 0)

    def take(self, rows: slice | Sequence[int] | Codes, which: str) -> Data:
        """Some of the samples, with the description of `which`; the classes keep their numbers."""
        index = np.arange(self.number)[rows if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)]
        return replace(
            self,
            description=f"{which} of {self.description}",
            x=self.x[index],
            y=self.y[index],
            target=self.target[index],
        )

    def of_nodes(self, start: int, stop: int) -> Data:
        """Some of the nodes."""
        description = f"nodes {start} to {stop - 1} of {self.description}"
        return replace(self, description=description, x=self.x[:, start:stop].copy())

    def with_values(self, rows: npt.ArrayLike, nodes: npt.ArrayLike, values: npt.ArrayLike, which: str) -> Data:
        """The same data with other values at some rows and nodes, with the description of `which`."""
        x = self.x.copy()
        x[np.ix_(np.atleast_1d(rows), np.atleast_1d(nodes))] = values
        return replace(self, description=f"{self.description}, with {which}", x=x)

    @property
    def number(self) -> int:
        return len(self.x)


@cache
def mixed() -> Data:
    """240 samples of 4 classes of different sizes, at nodes of every kind: with ties, bounds, an offset, or dead.

    All values are float32 numbers, so that they are the same in float32 and float64.
    """
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(len(_SIZES)), _SIZES))
    normal = rng.normal(size=(len(y), 4)) + np.array([[0.5], [0.0], [1.5], [-1.0]])[y]
    nodes = [
        normal[:, 0],
        np.maximum(normal[:, 1], 0),
        1 / (1 + np.exp(-3 * normal[:, 2])),
        np.round(2 * normal[:, 0] + normal[:, 1]),
        100 + normal[:, 3],
        np.zeros(len(y)),
        rng.normal(size=len(y)),
    ]
    description = f"{len(y)} samples of {len(_SIZES)} classes at {len(nodes)} nodes (node {DEAD} is always 0)"
    target = normal[:, 0] + rng.normal(size=len(y))
    return Data(description, np.stack(nodes, axis=1).astype(np.float32), y.astype(np.int64), len(_SIZES), target)


@dataclass(frozen=True)
class Table:
    """Data in the form that a sample metric reads, in batches of `batch`."""

    data: Data
    batch: int = 100

    @property
    def number(self) -> int:
        return self.data.number

    @property
    def nodes(self) -> int:
        return self.data.nodes

    @property
    def classes(self) -> int:
        return self.data.classes

    @property
    def codes(self) -> Codes:
        return self.data.y

    @property
    def target(self) -> Array:
        return self.data.target

    @property
    def rows(self) -> Codes:
        return np.arange(self.number, dtype=np.int64)

    @property
    def units(self) -> Codes:
        return self.rows

    def batches(self) -> Iterator[tuple[Array, Codes]]:
        for start in range(0, self.number, self.batch):
            yield self.data.x[start : start + self.batch], self.data.y[start : start + self.batch]

    def take(self, places: Codes) -> Array:
        return self.data.x[places]
