"""Pairs of classes: which to compare, how many nodes at once, and the variables of their distances."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from probekit.errors import PluginError
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.protocol import Spec, Variables

__all__ = [
    "MOST_CLASSES",
    "check_min_count",
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


def check_min_count(metric: object, min_count: Any) -> None:
    """Raise PluginError unless `min_count` is at least 1."""
    if min_count < 1:
        raise PluginError(f"{type(metric).__name__}(min_count={min_count!r}): min_count must be at least 1.")


def kept_classes(block: Block, min_count: int) -> Codes:
    """The codes of the classes that have enough samples."""
    return np.flatnonzero(block.counts >= min_count)


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
    total: Array = reduce(np.add, terms, np.zeros(terms.shape[1:]))
    return total


def distances(name: str, table: Array, kept: Codes, pairs: bool) -> Variables:
    """The variables of a symmetric measure of two classes from its `table` (class, class, node).

    Pairs with a class that isn't `kept` are NaN. The mean and the largest are over the pairs of kept classes, each pair
    once.
    """
    nodes = table.shape[2]
    first, second = np.triu_indices(len(kept), 1)
    found = table[kept[first], kept[second]] if len(first) else np.full((1, nodes), np.nan)
    variables: Variables = {}
    if pairs:
        every = np.full_like(table, np.nan)
        among = np.ix_(kept, kept)
        every[among] = table[among]
        variables[name] = (("label", "label_b", "node"), every)
    return variables | {
        f"{name}_mean": (("node",), in_order(found) / len(found)),
        f"{name}_max": (("node",), found.max(axis=0)),
    }
