"""The first difference between two results of a metric."""

from __future__ import annotations

import numpy as np

from probekit.metrics import Variables
from probekit.metrics.block import Array
from probekit.testing.law import Broken

__all__ = ["difference", "require_same"]

_RTOL = 1e-6  # for sums in float64, in any order


def require_same(found: Variables, expected: Variables, words: tuple[str, str], data: str, rtol: float = _RTOL) -> None:
    """Raise Broken where the variables differ; `words` describe each of the two."""
    differing = difference(found, expected, words, rtol)
    if differing:
        raise Broken(differing, data)


def difference(found: Variables, expected: Variables, words: tuple[str, str], rtol: float = _RTOL) -> str:
    """The first difference of two results in words, empty if they agree: integers exactly, floats to `rtol`."""
    if found.keys() != expected.keys():
        return f"{words[0]} there are the variables {sorted(found)}, {words[1]} {sorted(expected)}"
    for name, (dims, array) in expected.items():
        ours_dims, ours = found[name]
        if (ours_dims, ours.shape) != (dims, array.shape):
            return f"{name!r} has {words[0]} the dims {ours_dims} {ours.shape}, {words[1]} {dims} {array.shape}"
        apart = np.argwhere(~_close(ours, array, rtol))
        if len(apart):
            at = tuple(int(index) for index in apart[0])
            position = ", ".join(f"{dim} {index}" for dim, index in zip(dims, at, strict=True))
            where = f"{name!r} at {position}" if position else f"{name!r}"
            more = f" ({len(apart)} of {array.size} values differ)" if array.size > 1 else ""
            return f"{where} is {ours[at]} {words[0]} and {array[at]} {words[1]}{more}"
    return ""


def _close(ours: Array, theirs: Array, rtol: float) -> Array:
    if ours.dtype.kind != "f" or theirs.dtype.kind != "f":
        return np.asarray(ours == theirs)
    finite = np.abs(theirs[np.isfinite(theirs)])
    with np.errstate(all="ignore"):
        close: Array = np.isclose(ours, theirs, rtol, 1e-3 * rtol * max(1.0, finite.max(initial=0)), equal_nan=True)
    return close
