"""Where a model or a data set came from, as `probekit.load` knows it and a store tells it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:  # the command line prints its help without it
    from torch import Tensor, nn

__all__ = ["COMMAND", "call_of", "facts_of", "origin", "remember"]

# The command that is running, where it is the command line's: what makes a store again.
COMMAND: ContextVar[str | None] = ContextVar("COMMAND", default=None)


@dataclass(frozen=True)
class _Origin:
    call: str
    facts: Mapping[str, Any]
    weights: Mapping[str, Any]  # as they were; nothing for what isn't a model


_LONGEST = 200  # characters of one value in a call
_ORIGINS: WeakKeyDictionary[Any, _Origin] = WeakKeyDictionary()


def remember(made: Any, call: str, facts: Mapping[str, Any]) -> None:
    """Note the `call` that `made` comes from, and the attributes that say so in the stores it goes into."""
    _ORIGINS[made] = _Origin(call, dict(facts), _sums(made) if _has_weights(facts) else {})


def facts_of(thing: Any) -> dict[str, Any]:
    """What is known of a model or a data set, also within a loader, a subset, or a compiled model; else nothing.

    ``weights_from`` says so where a model's weights were changed afterwards.
    """
    origin = _origin_of(thing)
    if origin is None:
        inner = getattr(thing, "dataset", getattr(thing, "_orig_mod", None))
        return {} if inner is None else facts_of(inner)
    facts = dict(origin.facts)
    if _has_weights(facts) and _sums(thing) != origin.weights:
        facts["weights_from"] += ", changed since they were loaded"
    return facts


def origin(model: Any, data: Any, call: str) -> dict[str, Any]:
    """The attributes of a store that say where it came from, as far as that is known."""
    return {**facts_of(model), **facts_of(data), "command": COMMAND.get() or call}


def _origin_of(thing: Any) -> _Origin | None:
    try:
        return _ORIGINS.get(thing)
    except TypeError:  # what has no hash, such as a list
        return None


def call_of(function: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """The call of a public function with these arguments, without those that have their default value.

    What `probekit.load` made is written as the call that it came from; what can't be written stands as its type, in
    angle brackets.
    """
    parts = []
    for name, parameter in inspect.signature(function).parameters.items():
        value = given[name]
        if parameter.kind == parameter.VAR_KEYWORD:
            parts += [f"{key}={_written(item)}" for key, item in value.items()]
        elif parameter.kind == parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            parts.append(f"{name}={_written(value)}")
        elif parameter.default is parameter.empty:
            parts.append(_written(value))
        elif name != "progress" and not _is_default(value, parameter.default):
            parts.append(f"{name}={_written(value)}")
    public = (each for each in ("probekit.load", "probekit.report") if function.__module__.startswith(f"{each}."))
    place = next(public, "probekit")
    return f"{place}.{function.__name__}({', '.join(parts)})"


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and isinstance(value, str | int) and value == default)


def _written(value: Any) -> str:
    origin = _origin_of(value)
    if origin is not None:
        return origin.call
    text = repr(str(value)) if isinstance(value, Path) else repr(value) if _is_plain(value) else ""
    return text if text and len(text) <= _LONGEST else f"<{type(value).__name__}>"


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


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
