"""Order statistics, read off the sorted values."""

from __future__ import annotations

from probekit.metrics.block import Array
from probekit.metrics.protocol import metric

__all__ = ["median"]


@metric
def median(values: Array) -> Array:
    """Median of each class at each node: the middle value, or the midpoint of the two in the middle.

    `median` (label, node), in the dtype of the values (float32 stays float32), equal to ``np.median`` in every bit. For
    a ReLU that is off for most of a class it is exactly 0.
    """
    middle: Array = values[(len(values) - 1) // 2 : len(values) // 2 + 1].mean(axis=0)
    return middle
