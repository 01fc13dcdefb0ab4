"""Progress of long-running functions, reported through a callable that wraps an iterable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

__all__ = ["Progress", "silent"]

T = TypeVar("T")


class Progress(Protocol):
    """A callable that wraps an iterable, yields the same items, and may draw a bar meanwhile.

    `total` is the number of items if it is known.
    """

    def __call__(self, items: Iterable[T], /, description: str, total: int | None = None) -> Iterator[T]: ...


def silent(items: Iterable[T], /, description: str, total: int | None = None) -> Iterator[T]:
    """Yield the items and draw nothing."""
    yield from items
