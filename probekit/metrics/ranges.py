"""The values that an estimate can have, whatever the samples are: its intervals end there."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, Literal, TypeAlias

__all__ = ["ACTIVATION", "CORRELATION", "SHARE", "SIZE", "UP_TO_ONE", "Range", "Ranges", "of_accuracy", "range_of"]

Range: TypeAlias = tuple[float, float] | Literal["activation"]
Ranges: TypeAlias = Mapping[str, Range]  # by the names of a metric's variables

SHARE: Range = (0.0, 1.0)
CORRELATION: Range = (-1.0, 1.0)
SIZE: Range = (0.0, inf)
UP_TO_ONE: Range = (-inf, 1.0)  # what is corrected for chance may lie below 0, and can't exceed 1
ACTIVATION: Range = "activation"  # those of the activation itself, which a sigmoid's type tells


def of_accuracy(name: str) -> Ranges:
    """The ranges of an accuracy, plain and balanced, and of what stands beside it."""
    return {f"{name}{kind}{what}": SHARE for kind in ("", "_balanced") for what in ("", "_chance", "_shuffled", "_se")}


def range_of(metric: Any, variable: str, bounds: tuple[float, float] | None = None) -> tuple[float, float]:
    """The least and the greatest value that a variable of a metric can have, of activations within these `bounds`.

    They are infinite where nothing confines it.
    """
    everywhere = (-inf, inf)
    ranges: Ranges = getattr(metric, "ranges", {})
    found = ranges.get(variable, everywhere)
    return (bounds or everywhere) if isinstance(found, str) else found
