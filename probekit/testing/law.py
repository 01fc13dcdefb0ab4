"""A law that metrics keep to, and what is said to the author of one that doesn't."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from probekit.metrics import Metric, StreamingMetric

__all__ = ["Broken", "ConformanceError", "Law", "every", "law", "streaming"]


class ConformanceError(AssertionError):
    """A metric breaks a law of the protocol. The message says which, with what samples, and how to mend it."""


class Broken(Exception):
    """What came out instead, and `data`: of what."""

    def __init__(self, found: str, data: str = "") -> None:
        super().__init__(found)
        self.data = data


@dataclass(frozen=True)
class Law:
    """What metrics keep to: `statement`, and `advice` to the author of one that doesn't.

    `check` raises `Broken` for a metric that breaks it; the law is for metrics of which `applies` is true.
    """

    name: str
    statement: str
    advice: str
    applies: Callable[[Any], bool]
    check: Callable[[Any], None]

    def __call__(self, metric: Metric) -> None:
        """Raise ConformanceError where the metric breaks the law."""
        try:
            self.check(metric)
        except Broken as broken:
            raise ConformanceError(self._message(metric, str(broken), broken.data)) from broken.__cause__
        except Exception as error:  # whatever a metric raises
            raise ConformanceError(self._message(metric, f"{type(error).__name__}: {error}", "")) from error

    def _message(self, metric: Metric, found: str, data: str) -> str:
        name = getattr(metric, "name", type(metric).__qualname__)
        rows = {"law": self.statement, "with": data, "found": found, "mend": self.advice}
        lines = [f"{key:>6}: {text}" for key, text in rows.items() if text]
        return "\n".join([f"The metric {name!r} breaks the law {self.name!r}.", *lines])


def every(metric: Any) -> bool:
    """Any metric."""
    return True


def streaming(metric: Any) -> bool:
    """A metric with a state."""
    return isinstance(metric, StreamingMetric)


def law(applies: Callable[[Any], bool]) -> Callable[[Callable[[Any], None]], Law]:
    """A law from the function that checks it.

    Its name is the law's, the first paragraph of its docstring the statement, and the rest the advice.
    """

    def made(check: Callable[[Any], None]) -> Law:
        statement, *advice = (" ".join(part.split()) for part in (inspect.getdoc(check) or "").split("\n\n"))
        return Law(check.__name__.replace("_", " "), statement, " ".join(advice), applies, check)

    return made
