"""Covariance of two representations of the same samples (HSIC of linear kernels), and their alignment."""

from __future__ import annotations

from typing import Any

import numpy as np

from probekit.metrics.block import Array

__all__ = ["LEAST", "aligned", "aligned_table", "unbiased"]

LEAST = 4  # samples that the unbiased estimate needs
_ROUNDING = 1e-12  # of the summands: a sum that is less is a rounding error


def unbiased(products: Any, of_samples: Any, lengths: Any, lengths_b: Any, samples: int) -> Any:
    """An unbiased estimate of ‖Cov(x, y)‖², all squared covariances of nodes of two sites; numbers or arrays.

    It is the HSIC₁ of linear kernels by Song et al. (2012, Feature selection via dependence maximization, eq. 5). With
    values less their means the rows of both kernels K and L sum to 0, and what is left of it is known from the traces.
    For a site with itself it estimates tr Σ² (Himeno and Yamada 2014, eq. 2.5). NaN for fewer than 4 samples.

    Args:
        products: Σ K_ij L_ij, the squared norm of the cross-scatter XᵀY.
        of_samples: Σ K_ii L_ii.
        lengths: Σ K_ii of the one site.
        lengths_b: Σ L_ii of the other.
        samples: their number n.
    """
    n = samples
    if n < LEAST:
        return products * np.nan
    own, rest = n / (n - 2) * of_samples, lengths * lengths_b / ((n - 1) * (n - 2))
    found = products - own + rest
    return np.where(np.abs(found) <= _ROUNDING * (np.abs(products) + own + rest), 0.0, found / (n * (n - 3)))


def aligned(covariance: Any, of_a: Any, of_b: Any) -> Any:
    """The alignment, from −1 to 1, for the squared covariance of two sites and that of each with itself.

    NaN where a site has no spread.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        known = (of_a > 0) & (of_b > 0)
        return np.where(known, np.clip(covariance / (np.sqrt(of_a) * np.sqrt(of_b)), -1, 1), np.nan)


def aligned_table(covariances: Array) -> Array:
    """The alignments of a table (site, site_b) of squared covariances: symmetric, 1 on the diagonal."""
    covariances = (covariances + covariances.T) / 2  # of what rounding has made of equal numbers
    own = np.diagonal(covariances)
    table: Array = aligned(covariances, own[:, None], own)
    np.fill_diagonal(table, np.where(np.isnan(np.diagonal(table)), np.nan, 1.0))
    return table
