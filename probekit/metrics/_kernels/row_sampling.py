"""Rows of a store chosen by chance, the same ones at every site."""

from __future__ import annotations

import numpy as np

from probekit.metrics.block import Array, Codes

__all__ = ["draws"]


def draws(rows: Codes, seed: int) -> Array:
    """A number from 0 to 1 for each of the rows, which depends on its row number in the store and on the seed alone.

    So the same rows are chosen at every site, among the rows of a selection, and after the store has grown.

    >>> draws(np.array([0, 3]), seed=0) == draws(np.array([0, 1, 2, 3]), seed=0)[[0, 3]]
    array([ True,  True])
    """
    # A stream apart from that of default_rng(seed), by which the data may have been made.
    stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    chosen: Array = stream.random(rows.max(initial=-1) + 1)[rows]
    return chosen
