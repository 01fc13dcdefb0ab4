"""Columns of one value a sample: what users hand in as labels, ids and the like."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from probekit.errors import DataError

__all__ = ["Array", "as_column"]

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
