"""Random choices of rows of a store, the same at every site."""

from __future__ import annotations

import numpy as np

from probekit.metrics.block import Array, Codes

__all__ = ["draws", "stratified"]


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


def stratified(codes: Codes, numbers: Array, size: int) -> Codes:
    """The places of at most `size` rows, ascending: of each class in proportion to its rows, but at least one.

    Of a class those with the least of the `numbers` (row,), which are draws, are chosen. With more classes than `size`
    some have none.

    >>> stratified(np.array([0, 0, 0, 0, 1]), np.array([0.5, 0.1, 0.9, 0.3, 0.7]), 3)
    array([1, 3, 4])
    """
    order = np.lexsort((numbers, codes))
    counts = np.bincount(codes)
    of_class = codes[order]
    place = np.arange(len(codes)) - (np.cumsum(counts) - counts)[of_class]
    # The share of the class that is reached with the row; the first row of each class comes before all others.
    share = np.where(place == 0, -1, place / counts[of_class])
    chosen: Codes = np.sort(order[np.lexsort((numbers[order], share))[:size]])
    return chosen
