"""Nested values: what models are given and return, which may be dicts, tuples, lists and dataclasses of tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

__all__ = ["leaves", "mapped", "tensors"]


def leaves(value: Any, path: str = "") -> list[tuple[str, Tensor]]:
    """The tensors in a value nested to any depth, each with its path such as ``[0]`` or ``[hidden]``."""
    if isinstance(value, Tensor):
        return [(path, value)]
    items: Iterable[tuple[object, Any]]
    if isinstance(value, Mapping):
        items = zip(_distinct(list(value)), value.values(), strict=True)
    elif isinstance(value, list | tuple):
        items = zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    elif is_dataclass(value):
        items = ((field.name, getattr(value, field.name)) for field in fields(value))
    else:
        items = ()
    return [leaf for key, item in items for leaf in leaves(item, f"{path}[{key}]")]


def _distinct(keys: list[Any]) -> Iterable[object]:
    """The keys as a path shows them: as Python writes them where others look alike, such as 0 and ``"0"``."""
    if all(isinstance(key, str) for key in keys):
        return keys
    alike = Counter(map(str, keys))
    return [repr(key) if alike[str(key)] > 1 else key for key in keys]


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a value nested to any depth."""
    return (tensor for _, tensor in leaves(value))


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The same nesting of dicts, tuples and lists, with `function` applied to whatever else is in it.

    A named tuple stays one; a ``PackedSequence``, whose parts belong together, is given to the function whole.
    """
    if isinstance(value, Mapping):
        return {key: mapped(function, item) for key, item in value.items()}
    if isinstance(value, tuple | list) and not isinstance(value, PackedSequence):
        items = [mapped(function, item) for item in value]
        if hasattr(value, "_fields"):
            return type(value)(*items)
        return items if isinstance(value, list) else tuple(items)
    return function(value)
