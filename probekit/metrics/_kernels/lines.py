"""The numbers that a sketch counts in cells: values, or distances from the bounds of an activation.

A saturated sigmoid or tanh crowds next to its bounds, where its values share all their upper bits. Its distances from
the bounds don't. They are exact: 1 − x is a float for every float x from ½ to 1 (Sterbenz 1974).

- ``signed``: the value itself.
- ``unit``, bounds (0, 1): up to ½ the value; above it −(1 − x), and −0 for 1.
- ``symmetric``, bounds (−1, 1): up to ½ in magnitude the value. Above it a number of the same sign, whose bits are
  2 bits(½) − bits(d) for the distance d = 1 − |x|: as far above ½ as d is below. It increases with |x|, as ¼ / d does,
  but without rounding. ±1 become infinities, so that the bounds have cells of their own.

Each keeps the order of the values on each half-line, and no two values become one number. On the mirrored part of a
line, cells of 2^s neighbouring numbers are 2^s neighbouring distances, since bits(½) is a multiple of every 2^s: the
errors of cells, relative to a number, hold relative to the distance. What stands for a cell becomes a value again,
which is a float. This adds no error: floats next to a bound are 2^−(m+1) apart, as the distances are. With d in these
steps, a cell of more than one distance has a whole or a half number in its middle, and no distance farther than half a
cell less half a step; a cell of one distance has nothing nearer to what stands for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from probekit.errors import DataError

__all__ = ["LINES", "distance_on_line", "line_of", "place_on_line", "values_on_line"]

LINES = ("signed", "unit", "symmetric")

_ROUNDING = 2**-20  # how far rounding may take a value out of its bounds
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def line_of(bounds: tuple[float, float] | None) -> str:
    """The line on which values of an activation with such bounds are counted."""
    return "unit" if bounds == (0, 1) else "symmetric" if bounds == (-1, 1) else "signed"


def place_on_line(x: Tensor, line: str) -> Tensor:
    """The numbers that are counted for the values `x`; no −0 on lines other than ``unit``.

    Raises DataError for values out of the bounds.
    """
    if line == "signed":
        return x + 0.0
    low = 0.0 if line == "unit" else -1.0
    if not (x.amin() > low - _ROUNDING and x.amax() < 1 + _ROUNDING):
        raise DataError(
            f"There are values from {x.min():.6g} to {x.max():.6g} where the activation's type lets expect none "
            f"outside {low:g} and 1. Capture a store with probekit.capture, and measure that."
        )
    if line == "unit":
        x = x.clamp(0, 1)
        return torch.minimum(x, 1 - x).copysign_(0.5 - x)
    magnitude = x.abs().clamp_(max=1)
    distance = 1 - magnitude
    mirrored = _mirrored(distance).masked_fill_(distance == 0, torch.inf)
    return torch.where(magnitude > 0.5, mirrored, magnitude).copysign_(x).add_(0.0)


def values_on_line(numbers: Tensor, line: str, dtype: torch.dtype) -> Tensor:
    """The values of positive `numbers` on a line, or of negative ones given without their sign; both are float64."""
    if line != "symmetric":
        return numbers
    narrow = numbers.to(dtype)
    return torch.where(narrow > 0.5, 1 - _mirrored(narrow).double(), numbers)


def distance_on_line(numbers: Tensor, line: str, dtype: torch.dtype) -> Tensor:
    """The distances from a bound for which numbers (node, half, …), given without their sign, stand; or 1."""
    if line == "unit":
        upper = torch.tensor([False, True], device=numbers.device).view(-1, *[1] * (numbers.ndim - 2))
        return numbers.where(upper, 1.0)
    narrow = numbers.to(dtype)
    return _mirrored(narrow).double().where(narrow > 0.5, 1.0)


def _mirrored(x: Tensor) -> Tensor:
    """The number as far above ½, in bits, as `x` is below, or as far below as it is above."""
    bits = x.contiguous().view(_INTEGERS[x.dtype])
    half = torch.tensor(0.5, dtype=x.dtype, device=x.device).view(bits.dtype)
    return (2 * half - bits).view(x.dtype)
