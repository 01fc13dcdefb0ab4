"""What stands for a writer in a process that only runs the model along with the one that writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

__all__ = ["Unwritten"]


@dataclass(frozen=True)
class Unwritten:
    """Takes what a `Writer` takes, and leaves it: the process that writes has the same.

    Attributes:
        committed: samples that are in the store already.
        offset: the number in the store of the data's first sample.
    """

    committed: int
    offset: int
    compares = False

    @property
    def commits(self) -> Self:
        return self

    def begin(self, samples: int, *, at: int) -> None:
        pass

    def put(self, site: str, activation: Any) -> None:
        pass

    def put_mask(self, site: str, mask: Any) -> None:
        pass

    def append(self, *given: Any) -> None:
        pass

    def end(self, *given: Any) -> None:
        pass
