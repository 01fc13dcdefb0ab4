"""Pairs of classes: which to compare, how many nodes at once, and the variables of their distances."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np
import numpy.typing as npt

from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.protocol import Spec, Variables

__all__ = [
    "MOST_CLASSES",
    "distances",
    "in_order",
    "keeps_pairs",
    "kept_classes",
    "nodes_at_once",
    "pair_blocks",
    "table_bytes",
]

MOST_CLASSES = 64  # with more, the pairs of one node take as much memory as its samples
_ENTRIES = 2**20  # of a table of all pairs that is in memory at a time


def kept_classes(block: Block, min_count: int) -> Codes:
    """The codes of the classes that have enough samples."""
    return np.flatnonzero(block.measured >= min_count)


def keeps_pairs(classes: int, pairs: bool | None) -> bool:
    """Whether the results have every pair: as the user says in `pairs`, by default up to 64 classes."""
    return classes <= MOST_CLASSES if pairs is None else pairs


def nodes_at_once(classes: int) -> int:
    """The number of nodes whose table of pairs (class, class, node) fits in a few MB."""
    return max(1, _ENTRIES // max(1, classes) ** 2)


def table_bytes(spec: Spec, scratch: int, kept: int) -> int:
    """The bytes of so many tables of all pairs of classes: `scratch` for a few nodes at a time, `kept` for all."""
    at_a_time = min(spec.nodes, nodes_at_once(spec.classes))
    return 8 * spec.classes**2 * (scratch * at_a_time + kept * spec.nodes)


def pair_blocks(block: Block) -> tuple[Block, ...]:
    """The block split into blocks whose tables of pairs fit in a few MB."""
    return block.split(nodes_at_once(block.classes))


def in_order(terms: Array) -> Array:
    """The sum along the first axis, one term after the other.

    Unlike those of ``sum``, its last bits depend neither on the lengths of the other axes nor on zeros at the end.
    """
    rows = np.ascontiguousarray(terms).reshape(len(terms), prod(terms.shape[1:]))
    if len(rows) and rows.shape[1] == 1:  # numpy adds row to row, but a single column by halves
        rows = np.add.accumulate(rows)[-1:]
    total: Array = rows.sum(axis=0) + 0.0  # no -0
    return total.reshape(terms.shape[1:])


def distances(
    name: str, found: Iterable[Array], kept: Codes, shape: tuple[int, int], pairs: bool, own: npt.ArrayLike = 0
) -> Variables:
    """The variables of a symmetric measure of two classes.

    Args:
        name: the measure's.
        found: the measure of each pair of classes that are `kept`, each pair once, (pair, node): in the order of the
            pairs, in any number of parts.
        kept: the codes of the classes that have enough samples. Pairs with another class are NaN.
        shape: the numbers of classes and of nodes.
        pairs: whether to give all pairs, beside their mean and the largest of them.
        own: the measure of a class and itself, (class, node) for the kept classes.
    """
    classes, nodes = shape
    total, highest, number = np.zeros(nodes), np.full(nodes, -np.inf), 0
    table = np.full((classes, classes, nodes), np.nan) if pairs else None
    first, second = (kept[each] for each in np.triu_indices(len(kept), 1)) if pairs else (kept, kept)
    for part in found:
        if table is not None:
            those = slice(number, number + len(part))
            table[first[those], second[those]] = table[second[those], first[those]] = part
        total = in_order(np.concatenate([total[None], part]))
        highest = np.maximum(highest, part.max(axis=0))
        number += len(part)
    variables: Variables = {}
    if table is not None:
        table[kept, kept] = own
        variables[name] = (("label", "label_b", "node"), table)
    return variables | {
        f"{name}_mean": (("node",), total / number if number else np.full(nodes, np.nan)),
        f"{name}_max": (("node",), highest if number else np.full(nodes, np.nan)),
    }
