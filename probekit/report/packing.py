"""Arrays as text that a page carries: rounded to the digits that it shows, deflated, in base64."""

from __future__ import annotations

import base64
import zlib
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Packed", "packed", "packed_pairs"]

Packed: TypeAlias = dict[str, Any]

_MANTISSA = 23  # bits of float32
_BITS = {3: 10, 4: 14}  # of the mantissa that so many digits need


def packed(values: npt.ArrayLike, digits: Literal[3, 4] = 4) -> Packed:
    """`values` in C order: bytes and bools as they are, all others as float32 that is right to so many `digits`.

    ``{"kind": "u1" or "f4", "data": base64}``. The four bytes of all floats are kept apart, first byte by first byte:
    rounded mantissas then end in bytes of 0, and exponents are alike, which deflates well. What lies beyond the range
    of float32 becomes infinite.
    """
    array = np.asarray(values)
    if array.dtype in (np.bool_, np.uint8):
        return _text("u1", array.astype(np.uint8).tobytes())
    with np.errstate(over="ignore"):
        floats = np.ascontiguousarray(array, dtype="<f4").reshape(-1)
    return _text("f4", _rounded(floats, _BITS[digits]).view(np.uint8).reshape(-1, 4).T.tobytes())


def packed_pairs(values: npt.NDArray[Any]) -> Packed:
    """`values` (class, class, node), of which only the upper triangle is kept where the lower one follows from it.

    ``mirror`` says how: "same", "complement" (1 minus the value, as for AUROC), "negative", or "none".
    """
    above = np.triu_indices(len(values))
    turned = values.swapaxes(0, 1)
    mirrors = {"same": turned, "complement": 1 - turned, "negative": -turned}
    for mirror, other in mirrors.items():
        if np.allclose(values, other, rtol=1e-9, atol=1e-9, equal_nan=True):
            return {**packed(values[above], 3), "mirror": mirror}
    return {**packed(values, 3), "mirror": "none"}


def _rounded(floats: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32]:
    """The nearest floats with a mantissa of so many `bits`."""
    dropped = _MANTISSA - bits
    half, mask = np.uint32(1 << (dropped - 1)), np.uint32(0xFFFFFFFF << dropped & 0xFFFFFFFF)
    finite = np.isfinite(floats)
    whole = np.where(finite, floats, np.float32(0)).view(np.uint32)
    return np.where(finite, ((whole + half) & mask).view(np.float32), floats).astype("<f4")


def _text(kind: str, content: bytes) -> Packed:
    return {"kind": kind, "data": base64.b64encode(zlib.compress(content, 6)).decode("ascii")}
