"""What options with a syntax of their own stand for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import typer

__all__ = ["where_of"]


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
