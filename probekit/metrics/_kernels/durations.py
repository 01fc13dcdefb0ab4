"""About how many seconds the operations that metrics take longest for take on one core.

Only their ratios count, by which progress divides a task. They were measured for tables of 500 to 3,000 rows.
"""

from __future__ import annotations

__all__ = ["eigenvalues", "eigenvectors", "products", "singular_values", "singular_vectors"]

_PRODUCT = 5e-11  # a multiplication and an addition among those of two large matrices


def products(number: float) -> float:
    """So many multiplications, among those of matrices."""
    return _PRODUCT * number


def eigenvalues(rows: int) -> float:
    """The eigenvalues of a symmetric table."""
    return products(2 * rows**3)


def eigenvectors(rows: int) -> float:
    """The eigenvalues of a symmetric table and its eigenvectors."""
    return products(5 * rows**3)


def singular_values(rows: int, columns: int) -> float:
    return products(6 * rows * columns * min(rows, columns))


def singular_vectors(rows: int, columns: int) -> float:
    """The singular values of a table and its singular vectors."""
    return products(10 * rows * columns * min(rows, columns))
