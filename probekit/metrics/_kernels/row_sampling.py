"""Random choices of rows of a store, the same at every site."""

from __future__ import annotations

import numpy as np

from probekit.metrics.block import Array, Codes

__all__ = ["draws"]


def draws(rows: Codes, seed: int) -> Array:
    """A random number from 0 to 1 for each of the rows, which depends only on its row number in the store and the seed.

    The same rows are thus chosen at every site, among the rows of a selection, and after rows were added to the store.

    >>> draws(np.array([0, 3]), seed=0) == draws(np.array([0, 1, 2, 3]), seed=0)[[0, 3]]
    array([ True,  True])
    """
    # Independent of default_rng(seed), which may have made the data.
    stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    chosen: Array = stream.random(rows.max(initial=-1) + 1)[rows]
    return chosen
