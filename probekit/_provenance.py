"""Where a model or a data set came from, as `probekit.load` knows it and a store tells it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:  # the command line prints its help without it
    from torch import Tensor, nn

__all__ = ["COMMAND", "facts_of", "remember"]

# The command that is running, where it is the command line's: what makes a store again.
COMMAND: ContextVar[str | None] = ContextVar("COMMAND", default=None)


@dataclass(frozen=True)
class _Origin:
    facts: Mapping[str, Any]
    weights: Mapping[str, Any]  # as they were; nothing for what isn't a model


_ORIGINS: WeakKeyDictionary[Any, _Origin] = WeakKeyDictionary()


def remember(made: Any, facts: Mapping[str, Any]) -> None:
    """Note what `made`, a model or a data set, was made from: attributes of the stores that it goes into."""
    _ORIGINS[made] = _Origin(dict(facts), _sums(made) if _has_weights(facts) else {})


def facts_of(thing: Any) -> dict[str, Any]:
    """What is known of a model or a data set, also within a loader, a subset, or a compiled model; else nothing.

    ``weights_from`` says so where a model's weights were changed afterwards.
    """
    try:
        origin = _ORIGINS.get(thing)
    except TypeError:  # a list, which has no hash
        return {}
    if origin is None:
        inner = getattr(thing, "dataset", getattr(thing, "_orig_mod", None))
        return {} if inner is None else facts_of(inner)
    facts = dict(origin.facts)
    if _has_weights(facts) and _sums(thing) != origin.weights:
        facts["weights_from"] += ", changed since they were loaded"
    return facts


def _has_weights(facts: Mapping[str, Any]) -> bool:
    return "weights_from" in facts


def _sums(model: nn.Module) -> dict[str, Any]:
    """Something of each weight and buffer that changes with any of its bits: fast, and the same on every device."""
    from torch import Tensor

    return {
        name: (str(value.dtype), tuple(value.shape), _sum(value))
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor) and not value.is_nested
    }


def _sum(tensor: Tensor) -> int | None:
    import torch
    from torch import Tensor

    plain = type(tensor.detach()) is Tensor and tensor.layout == torch.strided and not tensor.is_meta
    by_size = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    integers = by_size.get(tensor.element_size()) if plain and not tensor.is_quantized else None
    if integers is None:
        return None
    return int(tensor.detach().contiguous().reshape(-1).view(integers).sum(dtype=torch.int64))
