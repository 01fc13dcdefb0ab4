"""How far counts in cells may be from those of the real samples, where they come from a sketch."""

from __future__ import annotations

import numpy as np

from probekit.metrics._kernels.cells import MOST_ATOMS, bins_for
from probekit.metrics.block import Array
from probekit.metrics.resolution import Resolution

__all__ = ["moved_among"]


def moved_among(resolution: Resolution, bins: int | None, min_count: int, least: int = 1) -> tuple[Array, Array]:
    """The largest share of a class that may count in another cell, and the most cells, at least two: (node,) each.

    By default `bins` follow the samples, of which a class may have fewer in the block. Where that makes other bins of
    it than of the real samples, the share is 1.
    """
    kept = resolution.kept(min_count)
    made, real = (bins or bins_for(each[kept], least) for each in (resolution.represented, resolution.counts))
    atoms = np.where(resolution.ambiguous, MOST_ATOMS, resolution.atoms)
    moved = resolution.moved(made - 1, min_count) if made == real else np.ones(len(atoms))
    cells: Array = np.maximum(2, max(made, real) + atoms)
    return moved, cells
