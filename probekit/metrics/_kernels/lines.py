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
    least, most = float(x.amin()), float(x.amax())
    if least < low - _ROUNDING or most > 1 + _ROUNDING:
        raise DataError(
            f"There are values from {least:.6g} to {most:.6g} where the activation's type lets expect none outside "
            f"{low:g} and 1. Capture a store with probekit.capture, and measure that."
        )
    x = x.clamp(low, 1) if least < low or most > 1 else x + 0.0
    return _folded(x, line)


def _folded(x: Tensor, line: str) -> Tensor:
    """The numbers on a line with bounds.

    On a CPU torch adds, shifts and masks integers ten times as fast as it compares and chooses.
    """
    whole, last = _INTEGERS[x.dtype], 8 * x.itemsize - 1
    half, infinity = (int(torch.tensor(each, dtype=x.dtype).view(whole)) for each in (0.5, torch.inf))
    magnitude = x.abs()
    distance, bits = (1 - magnitude).view(whole), magnitude.view(whole)
    beyond = (half - bits).bitwise_right_shift_(last)  # −1 above ½, else 0
    if line == "unit":
        moved = distance.sub_(bits).bitwise_and_(beyond).add_(bits)
        return moved.bitwise_or_(beyond.bitwise_and_(torch.iinfo(whole).min)).view(x.dtype)
    at_bound = (distance - 1).bitwise_right_shift_(last).bitwise_and_(infinity - 2 * half)
    moved = at_bound.sub_(distance).sub_(bits).add_(2 * half).bitwise_and_(beyond)
    return moved.add_(bits).view(x.dtype).copysign_(x)


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
