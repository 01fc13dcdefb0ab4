"""Products of the kernels of several sites, which are tables of all pairs of samples, in tiles of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from math import isqrt

import numpy as np

from probekit._beats import in_turn
from probekit.metrics._kernels.hsic import unbiased
from probekit.metrics.block import Array, Codes
from probekit.metrics.protocol import Samples

__all__ = ["batched_covariances", "batches_together", "covariances", "tile_bytes"]

_BYTES = 2**27  # of the tiles of all sites, and of the rows of one that they are of


def covariances(sites: Sequence[Samples], biased: bool) -> Array:
    """The squared covariances (site, site_b) of all samples: ‖XᵀY‖² by Σ K_ij L_ij if `biased`, else unbiased.

    Each pair of blocks of samples gives a tile of every site's kernel XXᵀ, and the tiles of two sites are multiplied.
    """
    count, number = sites[0].number, len(sites)
    height = _height(number, max(site.nodes for site in sites), count)
    blocks = [np.arange(start, min(start + height, count)) for start in range(0, count, height)]
    pivots = [_pivot(site.take(blocks[0])) for site in sites]
    products, sums, own = np.zeros((number, number)), np.zeros((number, count)), np.zeros((number, count))
    memory = np.empty(number * height**2)
    for rows, columns in in_turn([*combinations_with_replacement(blocks, 2)]):
        tiles = memory[: number * len(rows) * len(columns)].reshape(number, len(rows), len(columns))
        for a, site in enumerate(in_turn(sites, then=number)):  # reading them takes about as long as what follows
            x = site.take(rows) - pivots[a]
            y = x if rows is columns else site.take(columns) - pivots[a]
            np.matmul(x, y.T, out=tiles[a])
            sums[a, rows] += tiles[a].sum(1)
            if rows is columns:
                own[a, rows] = tiles[a].diagonal()
            else:
                sums[a, columns] += tiles[a].sum(0)
        flat = tiles.reshape(number, -1)
        products += (1 if rows is columns else 2) * (flat @ flat.T)
    return _centred(products, sums, own, biased)


def batched_covariances(sites: Sequence[Samples], batches: Sequence[Codes]) -> Array:
    """The mean of the unbiased squared covariances (site, site_b) of the samples in each of the batches.

    `batches` are places of samples, about as many in each (Nguyen et al. 2021, by Song et al. 2012).
    """
    table, number = np.zeros((len(sites), len(sites))), len(sites)
    for some in in_turn(_together(batches, number)):
        places = np.sort(np.concatenate(some))
        kernels = [np.empty((number, len(batch), len(batch))) for batch in some]
        for a, site in enumerate(in_turn(sites)):
            x = site.take(places)
            for kernel, batch in zip(kernels, some, strict=True):
                rows = x[places.searchsorted(batch)]
                rows = rows - _pivot(rows)
                np.matmul(rows, rows.T, out=kernel[a])
        for kernel in kernels:
            flat = kernel.reshape(number, -1)
            table += _centred(flat @ flat.T, kernel.sum(2), kernel.diagonal(axis1=1, axis2=2), biased=False)
    return table / len(batches)


def _centred(products: Array, sums: Array, own: Array, biased: bool) -> Array:
    """The squared covariances from the sums of products of kernels (site, site_b), of which rows don't sum to 0.

    `sums` (site, sample) are those of the rows, and `own` (site, sample) the values on the diagonal.
    """
    n, total = sums.shape[1], sums.sum(1)
    products = products - 2 / n * (sums @ sums.T) + np.outer(total, total) / n**2
    if biased:
        return products
    lengths = own - 2 / n * sums + total[:, None] / n**2
    trace = lengths.sum(1)
    found: Array = unbiased(products, lengths @ lengths.T, trace[:, None], trace, n)
    return found


def _pivot(rows: Array) -> Array:
    """The mean of some rows, float64; exactly the value of a node that is constant."""
    wide = rows.astype(np.float64)
    pivot: Array = wide[0] + (wide - wide[0]).mean(0)
    return pivot


def _height(sites: int, nodes: int, count: int) -> int:
    """The samples of a block. The same whatever the memory, so that results are the same to the last bit."""
    return max(1, min(isqrt(_BYTES // (8 * sites)), _BYTES // (16 * nodes), count))


def _together(batches: Sequence[Codes], sites: int) -> list[list[Codes]]:
    """As many of the batches together as have kernels of bounded size."""
    step = batches_together(max(map(len, batches)), sites)
    return [list(batches[start : start + step]) for start in range(0, len(batches), step)]


def batches_together(batch: int, sites: int) -> int:
    return max(1, _BYTES // (8 * sites * batch**2))


def tile_bytes(sites: int, nodes: int, samples: int, batch: int | None) -> int:
    """The most bytes that the tiles and rows take, for all samples together or in batches of so many."""
    if batch is None:
        height = _height(sites, nodes, samples)
        return 8 * sites * height**2 + (2 * 8 + 8) * height * nodes + 2 * 8 * sites * samples + 8 * height**2
    some = batches_together(batch, sites)
    rows = min(some * batch, samples)
    return 8 * sites * some * batch**2 + 8 * rows * nodes + 4 * 8 * batch * nodes
