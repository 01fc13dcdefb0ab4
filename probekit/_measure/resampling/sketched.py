"""The null of a metric that asks for one itself, where samples were only counted, as a model ran."""

from __future__ import annotations

import zlib

import numpy as np

from probekit._measure.resampling.tally import headline_variable
from probekit.metrics import Block, ColumnMetric, Variables
from probekit.metrics.block import Array

__all__ = ["with_null"]


def with_null(metric: ColumnMetric, block: Block) -> Variables:
    """The variables of a block, and the mean of the headline's for each shuffle of the labels that the metric asks for.

    A count of samples doesn't tell which of them stand at several nodes, so each node has a shuffle of its own.
    """
    found, repeats = metric.compute(block), int(getattr(metric, "null_repeats", 0))
    shuffled = [metric.compute(_shuffled(block, seed)) for seed in range(repeats)]
    name = headline_variable(metric, found)
    if not shuffled or name is None:
        return found
    return found | {f"{name}_null": (found[name][0], np.mean([each[name][1] for each in shuffled], axis=0))}


def _shuffled(block: Block, seed: int) -> Block:
    """The block after its labels were shuffled; the shuffle depends on a node's values alone, not on its block."""
    values: Array = np.empty_like(block.values)
    for row, into in zip(block.values, values, strict=True):
        into[:] = np.random.default_rng([seed, zlib.crc32(row)]).permutation(row)
    return Block.sort(values, block.offsets)
