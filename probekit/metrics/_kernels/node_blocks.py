"""Results of blocks of nodes, joined to those of all nodes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from probekit.metrics.protocol import Variables

__all__ = ["join_nodes"]


def join_nodes(blocks: Iterable[Variables]) -> Variables:
    """The variables of all nodes from those of consecutive blocks; the node is the last dim of each."""
    found = list(blocks)
    return {
        name: (dims, np.concatenate([variables[name][1] for variables in found], axis=-1))
        for name, (dims, _) in found[0].items()
    }
