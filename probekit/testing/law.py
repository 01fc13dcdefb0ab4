"""A law of the metric protocol, and the message to the author of a metric that breaks it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from probekit.metrics import Metric, StreamingMetric

__all__ = ["Broken", "ConformanceError", "Law", "every", "law", "streaming"]


class ConformanceError(AssertionError):
    """A metric breaks a law of the protocol. The message names the law, the samples, and how to mend the metric."""


class Broken(Exception):
    """A metric breaks a law: the result instead, and the description of the `data`."""

    def __init__(self, found: str, data: str = "") -> None:
        super().__init__(found)
        self.data = data


@dataclass(frozen=True)
class Law:
    """A `statement` that holds for metrics, and `advice` to the author of a metric for which it doesn't.

    `check` raises `Broken` for a metric that breaks the law. The law is for metrics for which `applies` is true.
    """

    name: str
    statement: str
    advice: str
    applies: Callable[[Any], bool]
    check: Callable[[Any], None]

    def __call__(self, metric: Metric) -> None:
        """Raise ConformanceError if the metric breaks the law."""
        try:
            self.check(metric)
        except Broken as broken:
            raise ConformanceError(self._message(metric, str(broken), broken.data)) from broken.__cause__
        except Exception as error:  # a metric may raise anything
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
    """A decorator that makes a law of the function that checks it.

    The function's name is the law's. The first paragraph of its docstring is the statement, the rest the advice.
    """

    def of_check(check: Callable[[Any], None]) -> Law:
        paragraphs = (inspect.getdoc(check) or "").split("\n\n")
        statement, *advice = (" ".join(paragraph.split()) for paragraph in paragraphs)
        return Law(check.__name__.replace("_", " "), statement, " ".join(advice), applies, check)

    return of_check
