"""The metrics that come with probekit, and the protocol to write more."""

from __future__ import annotations

from probekit.metrics.block import Block
from probekit.metrics.histogram import Histogram
from probekit.metrics.moments import Mean, Std
from probekit.metrics.order import median
from probekit.metrics.overlap import Overlap
from probekit.metrics.protocol import ColumnMetric, Metric, Spec, State, StreamingMetric, Variables, metric
from probekit.metrics.sparsity import Sparsity

__all__ = [
    "Block",
    "ColumnMetric",
    "Histogram",
    "Mean",
    "Metric",
    "Overlap",
    "Sparsity",
    "Spec",
    "State",
    "Std",
    "StreamingMetric",
    "Variables",
    "median",
    "metric",
]
