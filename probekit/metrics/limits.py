"""Which values the parameters of a metric may have: those of the declared types, within limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin, get_type_hints

import numpy as np

from probekit.errors import PluginError, near

__all__ = ["Limit", "Limits", "above", "at_least", "check_parameters", "share"]

_LONG = 60  # characters of a value that a message shows
_NO_VALUE = object()  # what stands for a value of another type, since None is one of some types


class Limit(NamedTuple):
    """The numbers that a parameter may have: `holds` tells of each, and `words` says which."""

    words: str
    holds: Callable[[float], bool]


Limits: TypeAlias = Mapping[str, Limit]  # by the names of a metric's parameters


def at_least(least: int) -> Limit:
    """Numbers from the `least` on."""
    return Limit(f" of at least {least}", lambda value: value >= least)


def above(bound: float) -> Limit:
    """Numbers greater than the bound."""
    return Limit(f" above {bound}", lambda value: value > bound)


def share(*, zero: bool = False, one: bool = False) -> Limit:
    """Numbers between 0 and 1; and 0, and 1, if it says so."""
    words = {(False, False): " between 0 and 1", (True, True): " from 0 to 1"}
    words |= {(True, False): " of at least 0 and below 1", (False, True): " above 0 and at most 1"}
    return Limit(words[zero, one], lambda value: 0 < value < 1 or (zero and value == 0) or (one and value == 1))


def check_parameters(metric: Any) -> None:
    """Make the parameters of a dataclass those of the types that its fields declare, as numbers of numpy aren't.

    A float may be given as a whole number, and a tuple as a list; an infinite number stands in tuples alone, as an open
    end. What a field declares beside bool, int, float, str, None, choices (``Literal``) and tuples of these isn't
    checked.

    Raises:
        PluginError: of the values that are of another type, or beyond the metric's `limits`.
    """
    limits: Limits = metric.limits
    given, wrong = [], []
    for name, kind in _declared(metric.__class__):
        value = getattr(metric, name)
        found = _as_declared(value, kind)
        limit = limits.get(name)
        if found is _NO_VALUE or (limit and found is not None and not limit.holds(found)):
            shown = repr(value)
            given.append(f"{name}={shown if len(shown) <= _LONG else shown[:_LONG] + '…'}")
            wrong.append(f"{name} must be {_words(kind, limit)}.{_near(value, kind)}")
        elif found is not value:
            object.__setattr__(metric, name, found)
    if wrong:
        raise PluginError(f"{type(metric).__name__}({', '.join(given)}): {' '.join(wrong)}")


@cache
def _declared(metric: type) -> list[tuple[str, Any]]:
    """The parameters whose types can be checked, with the type of each."""
    try:
        hints = get_type_hints(metric)
    except NameError:  # of someone's metric, in a function that has the name of a type
        return []
    return [(field.name, hints[field.name]) for field in fields(metric) if field.init and _is_known(hints[field.name])]


def _is_known(kind: Any) -> bool:
    inner = get_args(kind)
    if get_origin(kind) in (Union, UnionType, tuple):
        return all(map(_is_known, inner))
    return get_origin(kind) is Literal or kind in (bool, int, float, str, NoneType)


def _as_declared(value: Any, kind: Any) -> Any:
    """The value as one of this type; `_NO_VALUE` if it is none."""
    inner = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return next((found for one in inner if (found := _as_declared(value, one)) is not _NO_VALUE), _NO_VALUE)
    if get_origin(kind) is Literal:
        return value if isinstance(value, str) and value in inner else _NO_VALUE
    if get_origin(kind) is tuple:
        return _tuple(value, inner) if isinstance(value, tuple | list) and len(value) == len(inner) else _NO_VALUE
    if kind is bool:
        return bool(value) if isinstance(value, bool | np.bool_) else _NO_VALUE
    if isinstance(value, bool | np.bool_):  # which python takes for a whole number
        return _NO_VALUE
    if kind is int:
        return int(value) if isinstance(value, Integral) else _NO_VALUE
    if kind is float:
        found = _number(value)
        return found if math.isfinite(found) else _NO_VALUE
    return value if isinstance(value, kind) else _NO_VALUE


def _tuple(value: Sequence[Any], kinds: Sequence[Any]) -> Any:
    found = [_number(one) if kind is float else _as_declared(one, kind) for one, kind in zip(value, kinds, strict=True)]
    return _NO_VALUE if any(one is _NO_VALUE or one != one for one in found) else tuple(found)


def _number(value: Any) -> float:
    """The value as a float; NaN if it is none."""
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool | np.bool_) else math.nan
    except OverflowError:
        return math.nan


def _words(kind: Any, limit: Limit | None = None) -> str:
    """What values of a type are, within a limit."""
    inner = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        others = [_words(one, limit) for one in inner if one is not NoneType]
        return _or(others) + ", or None" * (NoneType in inner)
    if get_origin(kind) is Literal:
        return _or([*map(repr, inner)])
    if get_origin(kind) is tuple:
        return f"a tuple ({', '.join('a number' if one is float else _words(one) for one in inner)})"
    words = {bool: "True or False", int: "a whole number", float: "a finite number", str: "a string", NoneType: "None"}
    return words[kind] + (limit.words if limit else "")


def _or(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _near(value: Any, kind: Any) -> str:
    """A sentence with the choices that a string resembles."""
    return near(value, _choices(kind)) if isinstance(value, str) else ""


def _choices(kind: Any) -> Iterator[str]:
    for one in get_args(kind):
        yield from [one] if isinstance(one, str) else _choices(one)
