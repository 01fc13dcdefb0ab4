"""The least memory that the steps of a measurement take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from probekit._sizes import format_size
from probekit.errors import ProbekitError

__all__ = ["Least", "require_room"]


@dataclass(frozen=True)
class Least:
    """The bytes that a step takes at least: `what` needs them, and `instead` of more memory one can do that.

    `arguments` are those of the public function, beside the memory, that this is about.
    """

    bytes: int
    what: str
    instead: str = ""
    arguments: tuple[str, ...] = ()


def require_room(steps: Iterable[Least], memory: int) -> None:
    """Raise ProbekitError where a step doesn't fit: it asks for what the largest takes, which is enough for all."""
    most = max(steps, key=lambda step: step.bytes)
    if most.bytes > memory:
        raise ProbekitError(
            f"{most.what} needs {format_size(most.bytes)}, and memory is {format_size(memory)}. "
            f"Give memory={format_size(1.01 * most.bytes)!r} or more{most.instead}.",
            arguments=("memory", *most.arguments),
        )
