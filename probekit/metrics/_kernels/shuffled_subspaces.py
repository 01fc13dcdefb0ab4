"""How the directions of two sites lie to each other where the samples of one are shuffled.

Directions of unit length over n samples, less their mean, are orthonormal columns in n − 1 dimensions. The products of
those of two sites are, once one site's samples are shuffled, nearly a block of a random orthogonal matrix. Of a
permutation it has the mean and the covariances exactly, and for normal samples it is what unrelated sites have: the
canonical correlations are then those of Wachter (1980).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import numpy as np
import torch
from torch import Tensor

__all__ = ["above_chance", "number_of_draws", "shuffled_products"]

_VALUES = 256  # singular values that are averaged, over as many draws as that takes
_SEED = 0
_LEAST = 1e-9  # what is left to be found beyond chance


def shuffled_products(directions: int, others: int, freedom: int, like: Tensor, number: int) -> Iterator[Tensor]:
    """A number of draws of the products (direction, other) of two sites' directions in so many dimensions.

    They are always the same.

    Both must be at most `freedom`. The draws have the device and dtype of `like`.
    """
    rng = np.random.default_rng(_SEED)
    for _ in range(number):
        made = _block if directions + others <= freedom else _of_bases
        yield made(directions, others, freedom, rng).to(like)


def number_of_draws(directions: int, others: int) -> int:
    """How many are enough for a mean over their singular values."""
    return ceil(_VALUES / min(directions, others))


def _block(directions: int, others: int, freedom: int, rng: np.random.Generator) -> Tensor:
    """(Z Zᵀ + W)^(−½) Z, with a normal Z and an independent W of Wishart's distribution, by Bartlett's triangle."""
    normal = _normal(directions, others, rng)
    triangle = _normal(directions, directions, rng).tril(-1)
    degrees = freedom - others - np.arange(directions)
    triangle += torch.from_numpy(np.sqrt(rng.chisquare(degrees))).diag()
    root = torch.linalg.cholesky(normal @ normal.T + triangle @ triangle.T)
    block: Tensor = torch.linalg.solve_triangular(root, normal, upper=False)
    return block


def _of_bases(directions: int, others: int, freedom: int, rng: np.random.Generator) -> Tensor:
    ours, theirs = (torch.linalg.qr(_normal(freedom, number, rng))[0] for number in (directions, others))
    products: Tensor = ours.T @ theirs
    return products


def _normal(rows: int, columns: int, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.normal(size=(rows, columns)))


def above_chance(value: Tensor, chance: Tensor) -> Tensor:
    """How far the values are from what chance gives, relative to 1, the most; NaN where chance gives 1."""
    left = 1 - chance
    return ((value - chance) / left).where(left > _LEAST, torch.nan)
