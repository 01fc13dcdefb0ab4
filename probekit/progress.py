"""How long-running functions report progress: through a callable that wraps an iterable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

__all__ = ["Progress", "silent"]

T = TypeVar("T")


class Progress(Protocol):
    """Wraps an iterable, yields the same items, and may draw a bar while it does.

    `total` is the number of items where it is known.
    """

    def __call__(self, items: Iterable[T], /, description: str, total: int | None = None) -> Iterator[T]: ...


def silent(items: Iterable[T], /, description: str, total: int | None = None) -> Iterator[T]:
    """The default: the items and nothing drawn."""
    yield from items
