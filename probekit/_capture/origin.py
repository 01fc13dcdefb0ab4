"""What a store says of where it came from: the model, the data, and the command or call that makes it again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from probekit._provenance import COMMAND, facts_of
from probekit._store.layout import Json

__all__ = ["call_of", "origin"]

_LONGEST = 200  # characters of one value in a call


def origin(model: Any, data: Any, call: str) -> Json:
    """The attributes of a store that say where it came from, as far as that is known."""
    return {**facts_of(model), **facts_of(data), "command": COMMAND.get() or call}


def call_of(function: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """The call of a public function with these arguments, without those that have their default value.

    A model or data set that `probekit.load` made is written as its call; what can't be written stands as its type, in
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
    return f"probekit.{function.__name__}({', '.join(parts)})"


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and isinstance(value, str | int) and value == default)


def _written(value: Any) -> str:
    facts = facts_of(value)
    if "model_name" in facts:
        return f"probekit.load.model({facts['model_name']!r})"
    if "data" in facts:
        return f"probekit.load.dataset({facts['data']!r})"
    text = repr(value) if _is_plain(value) else ""
    return text if text and len(text) <= _LONGEST else f"<{type(value).__name__}>"


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)
