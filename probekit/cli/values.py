"""What options with a syntax of their own stand for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import torch

__all__ = ["device_of", "where_of", "zeros_of"]


def where_of(given: Sequence[str] | None) -> dict[str, list[object]] | None:
    """COLUMN=VALUE, as the columns' values that are wanted: numbers and true or false where they are such."""
    wanted: dict[str, list[object]] = {}
    for one in given or ():
        column, equals, text = one.partition("=")
        if not equals:
            raise typer.BadParameter(f"{one!r} isn't COLUMN=VALUE.", param_hint="--where")
        wanted.setdefault(column, []).append(_value(text))
    return wanted or None


def _value(text: str) -> object:
    if text.casefold() in ("true", "false"):
        return text.casefold() == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def zeros_of(shape: str) -> torch.Tensor:
    """Two samples of zeros, each of a shape such as 3x224x224."""
    import torch

    try:
        return torch.zeros(2, *map(int, shape.split("x")))
    except (ValueError, RuntimeError) as error:  # RuntimeError: a negative length
        raise typer.BadParameter(f"--shape {shape!r} is not a shape such as 3x224x224.") from error


def device_of(name: str) -> torch.device:
    """A device that this machine has."""
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise typer.BadParameter(f"--device {name!r}: {error}") from error
    return device
