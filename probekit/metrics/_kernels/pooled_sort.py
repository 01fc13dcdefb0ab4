"""The samples of all classes at one node in one order."""

from __future__ import annotations

import numpy as np

from probekit.metrics.block import Array, Codes

__all__ = ["CARRIED", "pooled", "values_of"]

CARRIED = 0xFFFFFFFF  # the largest number that a sample carries with it


def pooled(row: Array, carried: Codes) -> tuple[Array, Codes]:
    """All samples of a node in ascending order: keys, which `values_of` turns into values, and what they carry."""
    if row.dtype != np.float32:
        order = np.argsort(row)
        return row[order], carried[order]
    # A float32's bits, as an integer of the same order, above what it carries: one sort of integers, 3 times as fast.
    packed = _ordinals((row + np.float32(0)).view(np.int32)).astype(np.int64)  # + 0 turns -0 into 0
    packed <<= 32
    packed |= carried
    packed.sort()
    return packed >> 32, packed & CARRIED


def values_of(keys: Array) -> Array:
    """The values, in their own dtype, that `keys` stand for."""
    return _ordinals(keys.astype(np.int32)).view(np.float32) if keys.dtype == np.int64 else keys


def _ordinals(bits: Array) -> Array:
    """Integers in the order of the floats with these bits; applied twice, the bits again."""
    ordinals: Array = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    return ordinals
