"""Columns of one value a sample: what users hand in as labels, ids and the like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from probekit.errors import DataError, near

__all__ = ["Array", "Classes", "as_column"]

Array: TypeAlias = np.ndarray[Any, Any]

_WIDE = {"i": np.dtype(np.int64), "u": np.dtype(np.int64), "f": np.dtype(np.float64)}  # by kind


def as_column(values: Any, what: str) -> Array:
    """`values` as an array of int64, float64, bool or str; `what` names them in errors.

    Raises:
        DataError: they are something else, mix strings with other values, or are integers beyond int64.
    """
    array = _strings(_array(values, what), values)
    kind = array.dtype.kind
    if kind not in "iufbU":
        odd = next((value for value in array.ravel().tolist() if not isinstance(value, str)), None)
        raise DataError(f"{what} are of dtype {array.dtype}, such as {odd!r}: give integers, floats, bools or strings.")
    if kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{what} go up to {array.max()}, which is beyond int64: give smaller integers, or strings.")
    return array.astype(_WIDE.get(kind, array.dtype), copy=False)


def _array(values: Any, what: str) -> Array:
    if isinstance(values, Tensor):
        # numpy has no bfloat16, and not every device has float64.
        values = (values.cpu().double() if values.is_floating_point() else values).numpy(force=True)
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} can't be made into an array: {error}") from error


def _strings(array: Array, values: Any) -> Array:
    """Strings that numpy holds as objects, as str; and what numpy made strings beside strings, as objects again."""
    if array.dtype.kind in "OT" and array.size and all(isinstance(value, str) for value in array.flat):
        return array.astype(str)
    if array.dtype.kind == "U" and isinstance(values, list | tuple) and not all(isinstance(v, str) for v in values):
        return np.asarray(values, dtype=object)
    return array


class Classes:
    """The codes of labels: integers as they are, strings by their index among the class names.

    Without names, strings are numbered in the order in which they first appear, and `names` grows with them.
    """

    def __init__(self, names: Sequence[str] | None = None) -> None:
        self._known = names is not None
        self._names = list(names or ())
        self._codes = {name: code for code, name in reversed(list(enumerate(self._names)))}
        self._strings: bool | None = None

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of the classes 0, 1, …; None where none are known."""
        return tuple(self._names) if self._known or self._names else None

    def begin_with(self, names: Sequence[str]) -> None:
        """Have names that appear follow these; without effect where the names are known."""
        if not self._known:
            self._names = list(names)
            self._codes = {name: code for code, name in reversed(list(enumerate(self._names)))}

    @property
    def grow(self) -> bool:
        """Whether the names are those of string labels as they appear."""
        return not self._known and bool(self._names)

    def codes(self, labels: Array, what: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        """int64 codes of `labels`, a column.

        Raises:
            DataError: they are neither integers from 0 nor strings, turn from one to the other between calls, or are
                strings that are no class name.
        """
        if not labels.size:
            return np.zeros(labels.shape, np.int64)
        strings = labels.dtype.kind == "U"
        whole = labels.dtype.kind in "ib"
        if not strings and (not whole or labels.min() < 0):
            wrong = f"go down to {labels.min()}" if whole else f"are {labels[:3]}…"
            raise DataError(
                f"{what} {wrong}: give class codes, integers from 0, or strings; or labels=False for none.",
                arguments=("labels",),
            )
        if self._strings not in (None, strings):
            raise DataError(f"{what} are {'strings' if strings else 'integers'}, unlike those before them.")
        self._strings = strings
        if strings:
            return np.array([self._code(name, what) for name in labels.tolist()], np.int64)
        return labels.astype(np.int64)

    def _code(self, name: str, what: str) -> int:
        if self._known and name not in self._codes:
            raise DataError(
                f"{what} hold {name!r}, which is not among the {len(self._names)} class names."
                f"{near(name, self._codes)}",
                arguments=("class_names",),
            )
        if name not in self._codes:
            self._codes[name] = len(self._names)
            self._names.append(name)
        return self._codes[name]
