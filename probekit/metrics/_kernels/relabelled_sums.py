"""Sums over the samples of each class for many labellings of the same samples at once.

All labellings share what is computed of a batch. The sums are one product of it with a sparse matrix that has a row for
each class of each labelling, which is several times as fast as an update for every labelling.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import comb

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from probekit.metrics.block import Array, Codes
from probekit.metrics.protocol import Spec, State

__all__ = ["RelabelledMoments", "RelabelledSums"]

_CACHED = 2**16  # numbers of a batch that are multiplied at a time, which stay in the cache
_COLUMNS = 32  # that are no fewer: the sparse matrix is read again for each such part
_FIRST = 512  # samples that show where a node's values lie
_COMMON = 0.05  # the share of a node's samples from which a value is an atom
_LEFT = 1e-4  # of the squares around the pivot; where less is left around the mean, too many digits are lost


class RelabelledSums:
    """The sums of the values over the classes of each labelling; of what `_tables` makes of them, in a subclass.

    Args:
        spec: of the samples, with the classes of one labelling.
        labellings: their number.
        keys: the names of the sums in a state, beside its `count`.
    """

    def __init__(self, spec: Spec, labellings: int, keys: tuple[str, ...]) -> None:
        self._keys, self._classes = keys, spec.classes
        self._count = np.zeros(labellings * spec.classes, np.int64)
        self._sums = np.zeros((len(keys), labellings * spec.classes, spec.nodes))

    def _tables(self, x: Tensor) -> Iterable[Array]:
        """What is summed up of a batch for each key, (batch, node), float64."""
        return [x.double().numpy()]

    def add(self, x: Tensor, codes: Codes) -> None:
        """Add a batch `x` (batch, node) with its class codes in each labelling, (labelling, batch)."""
        count = np.bincount(
            (codes + np.arange(len(codes))[:, None] * self._classes).ravel(), minlength=len(self._count)
        )
        order = np.argsort(codes.astype(np.min_scalar_type(self._classes)), axis=1, kind="stable").astype(np.int32)
        starts = np.append(0, np.cumsum(count)).astype(np.int32)
        chosen = csr_array((np.ones(order.size), order.ravel(), starts), shape=(len(count), len(x)))
        width = max(_COLUMNS, _CACHED // max(1, len(x)))
        for sums, table in zip(self._sums, self._tables(x), strict=True):
            for at in range(0, table.shape[1], width):
                sums[:, at : at + width] += chosen @ np.ascontiguousarray(table[:, at : at + width])
        self._count += count

    @property
    def exact(self) -> bool:
        """Whether the states have lost no digits that matter."""
        return True

    def states(self) -> Iterator[State]:
        """The state of each labelling."""
        for start in range(0, len(self._count), self._classes):
            those = slice(start, start + self._classes)
            yield self._state(self._count[those], self._sums[:, those])

    def _state(self, count: Codes, sums: Array) -> State:
        found = {key: torch.from_numpy(each) for key, each in zip(self._keys, sums, strict=True)}
        return {"count": torch.from_numpy(count), **found}


class RelabelledMoments(RelabelledSums):
    """The count, the mean and the sums of powers around it, ``m2`` to ``m<highest>``, of each class and labelling.

    Powers are summed up around one pivot for each node: a value that many samples share, such as the 0 of a ReLU, or
    else the median of the first ones. Where a class is constant there, its sums are exactly 0.
    """

    def __init__(self, spec: Spec, labellings: int, highest: int) -> None:
        super().__init__(spec, labellings, tuple(f"m{power}" for power in range(1, highest + 1)))
        self._pivot: Array | None = None

    def _tables(self, x: Tensor) -> Iterator[Array]:
        if self._pivot is None:
            self._pivot = _pivot(x[:_FIRST])
        gap = power = x.double().numpy() - self._pivot
        yield gap
        for _ in self._keys[1:]:
            power = power * gap
            yield power

    @property
    def exact(self) -> bool:
        """Whether no class lies so far from the pivot beside its own spread that its moments have lost digits."""
        for start in range(0, len(self._count), self._classes):
            those = slice(start, start + self._classes)
            count, (sums, squares) = self._count[those, None], self._sums[:2, those]
            with np.errstate(invalid="ignore"):  # of infinite values
                around = squares - sums**2 / count.clip(1)
                if ((around < _LEFT * squares) & (count > 1)).any():
                    return False
        return True

    def _state(self, count: Codes, sums: Array) -> State:
        number, pivot = count[:, None].clip(1), 0.0 if self._pivot is None else self._pivot
        shift = sums[0] / number
        around = [np.broadcast_to(count[:, None], shift.shape), *sums]  # the sums of powers 0, 1, … around the pivot
        state = {"mean": pivot + shift}
        for power in range(2, len(around)):
            with np.errstate(invalid="ignore"):
                terms = [comb(power, k) * (-shift) ** (power - k) * around[k] for k in range(power + 1)]
                state[f"m{power}"] = np.where(number > 1, np.sum(terms, axis=0), 0.0)
        state["mean"] = np.where(np.isnan(state["m2"]), np.nan, state["mean"])  # as that of an infinite value is
        return {"count": torch.from_numpy(count), **{key: torch.from_numpy(each) for key, each in state.items()}}


def _pivot(x: Tensor) -> Array:
    common = x.mode(dim=0).values
    often = (x == common).double().mean(dim=0) >= _COMMON
    found: Array = torch.where(often, common, x.median(dim=0).values).double().numpy()
    return np.where(np.isfinite(found), found, 0.0)
