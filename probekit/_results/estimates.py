"""How values were estimated: corrected for few samples or plain, and in how many bins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from probekit.metrics import Headline, Metric
from probekit.metrics.block import Codes

__all__ = ["bins_of", "corrected", "in_words"]

_CORRECTED = (("corrected", True), ("biased", False), ("unbiased", True))  # parameters that say so, and how


def corrected(metric: Metric) -> dict[str, int]:
    """The attribute `corrected`, 1 or 0, of metrics that can be either or say that they are."""
    said = next(((name, yes) for name, yes in _CORRECTED if name in metric.parameters), None)
    if said is None:
        return {"corrected": 1} if getattr(metric, "corrected", False) else {}
    return {"corrected": int(metric.parameters[said[0]] == said[1])}


def bins_of(metric: Metric, samples: Codes) -> dict[str, int]:
    """The attribute `bins` of metrics that have some, also where they chose how many by the `samples` (class)."""
    chosen: Callable[[Codes], int] | None = getattr(metric, "bins_of", None)
    return {} if chosen is None else {"bins": chosen(samples)}


def _several_rows(attributes: Mapping[str, Any]) -> bool:
    """Whether a sample has several observations: its tokens, or the positions of a feature map."""
    return bool(attributes.get("tokens")) or str(attributes.get("positions", "")).startswith("each")


def in_words(attributes: Mapping[str, Any], headline: Headline) -> str:
    """What the attributes of a headline's variable say, as ``corrected for few samples, in 10 bins``; or nothing."""
    how, bins, alike = attributes.get("corrected"), attributes.get("bins"), _several_rows(attributes)
    told = {None: "", 0: "not corrected for few samples", 1: "corrected for few samples"}[how]
    if how and alike:
        told = "corrected as if the rows of a sample were independent"
    told = ", ".join(filter(None, (told, f"in {bins} bins" if bins else "")))
    if how and alike and headline.classes > 1:
        told += ": it tells too much of a difference, and so does its null (null='permute')"
    return told
