"""How far a long task is: what works in it tells its share, part by part, to whoever waits for it.

Who starts a task calls it under `working`. What it calls finds the part that it has of the task with `current`, so that
no function in between hands it on. A part is told in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

__all__ = ["UNHEARD", "Beat", "current", "in_turn", "reading", "working"]

T = TypeVar("T")

_READING = 0.5  # of what is left, since nobody knows how many passes a metric takes


class Beat:
    """Tells who waits for a task which share of it is done, by a call; what that raises ends the task."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell, self._done = tell, 0.0

    def __call__(self, share: float) -> None:
        self._done = max(self._done, share)
        self._tell(self._done)

    def of(self, share: float) -> Beat:
        """That of a part of the task, which takes such a share of what is left of it."""
        if self is UNHEARD:
            return self
        first, length = self._done, share * (1 - self._done)
        return Beat(lambda done: self(first + done * length))


UNHEARD = Beat(lambda share: None)  # of what nobody waits for, or another one speaks for
_current: ContextVar[Beat] = ContextVar("current", default=UNHEARD)


@contextmanager
def working(beat: Beat) -> Iterator[None]:
    """Have what is called meanwhile tell `beat`, and say at the end that all is done."""
    before = _current.set(beat)
    try:
        yield
        beat(1)
    finally:
        _current.reset(before)


def current() -> Beat:
    """That of the part of a task that is being worked on."""
    return _current.get()


def reading() -> Beat:
    """That of a pass over all samples of a site: half of what is left."""
    return current().of(_READING)


def in_turn(items: Iterable[T], weights: Sequence[float] | None = None, then: float = 0) -> Iterator[T]:
    """The items, one after the other: the work on each is a part of what is left, in proportion to its weight.

    `then` is the weight of what follows on all of them. Without weights, of a sequence, each has the weight 1.
    """
    whole = current()
    sizes = [1.0] * len(items) if weights is None else weights  # type: ignore[arg-type]
    left = sum(sizes) + then
    for item, size in zip(items, sizes, strict=True):
        part = whole.of(min(1.0, size / left) if left > 0 else 0)
        left -= size
        _current.set(part)
        try:
            yield item
        finally:
            # Who breaks off ends this when nobody knows, maybe in another task, which has a part of its own.
            if _current.get() is part:
                _current.set(whole)
        part(1)
    _current.set(whole)
