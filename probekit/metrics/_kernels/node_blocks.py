"""Results of blocks of nodes, joined to those of all nodes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from probekit._heap import give_back
from probekit.metrics.block import Array
from probekit.metrics.protocol import Variables

__all__ = ["join_nodes", "placed"]

_DROPPED = 8 * 2**20  # bytes for which it is worth to give memory back


def join_nodes(blocks: Iterable[Variables]) -> Variables:
    """The variables of all nodes from those of consecutive blocks; the node is the last dim of each."""
    found = list(blocks)
    dims = {name: of for name, (of, _) in found[0].items()}
    return {name: (dims[name], placed([block.pop(name)[1] for block in found], -1)) for name in dims}


def placed(arrays: list[Array], axis: int) -> Array:
    """The arrays one after the other along an axis, as ``np.concatenate`` has them, and `arrays` empty.

    Each is dropped as soon as it has its place. In memory that axis is the first: the part of an array is then in one
    piece, and pages of the whole aren't taken before it. So a large table isn't held twice.
    """
    if len(arrays) == 1:
        return arrays.pop()
    shape = np.moveaxis(arrays[0], axis, 0).shape[1:]
    whole = np.empty((sum(array.shape[axis] for array in arrays), *shape), np.result_type(*arrays))
    first = dropped = 0
    arrays.reverse()
    while arrays:
        array = np.moveaxis(arrays.pop(), axis, 0)
        whole[first : first + len(array)] = array
        first, dropped = first + len(array), dropped + array.nbytes
        del array
        if dropped > _DROPPED or not arrays:  # small arrays lie in the heap, which keeps what is free
            give_back(at_once=whole.nbytes > _DROPPED)
            dropped = 0
    return np.moveaxis(whole, 0, axis)
