"""Metrics by name with their parameters, such as ``std:ddof=1`` and ``quantile:0.25,0.75``."""

from __future__ import annotations

import ast
from inspect import Parameter, signature
from typing import Any

from probekit.errors import PluginError, near

__all__ = ["with_parameters"]

_CONSTANTS = {"true": "True", "false": "False", "none": "None"}  # which are no words, however they are written
_ORDINARY = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def with_parameters(metric: object, name: str, text: str) -> Any:
    """The metric with the parameters that `text` gives, where `metric` is registered under `name`.

    `text` is a list of values followed by ``key=value`` pairs, separated by commas. Values without a key belong to the
    first parameter: a single one is its value, several become a tuple. A value is a Python literal: a number, True,
    None, a string in quotes, a tuple; or a string that is a single word, which needs no quotes.

    Raises PluginError for text of another form, for parameters that the metric doesn't have, and for values that it
    refuses.

    >>> from probekit.metrics import Overlap, Quantile
    >>> with_parameters(Quantile, "quantile", "0.25,0.75")
    Quantile(q=(0.25, 0.75))
    >>> with_parameters(Overlap, "overlap", "16, null=permute").parameters["null"]
    'permute'
    """
    asked = f"{name}:{text}"
    values, named = _parsed(asked, text)
    known = _parameters(metric)
    if not known:
        raise PluginError(f"{asked!r} gives parameters, but the metric {name!r} has none.")
    for key in named:
        if key not in known:
            raise PluginError(
                f"{asked!r}: the metric {name!r} has no parameter {key!r}.{near(key, known)} It has {', '.join(known)}."
            )
    if values:
        if known[0] in named:
            raise PluginError(f"{asked!r} gives {known[0]!r} twice: values without a key also belong to it.")
        named[known[0]] = values[0] if len(values) == 1 else tuple(values)
    try:
        return metric(**named)  # type: ignore[operator]
    except Exception as error:  # someone else's metric may raise anything
        fault = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}."
        raise PluginError(f"{asked!r} is refused. {fault}") from error


def _parameters(metric: object) -> list[str]:
    """The parameters that a metric class takes; none for a metric that is already an instance, such as a function."""
    if not isinstance(metric, type):
        return []
    return [name for name, parameter in signature(metric).parameters.items() if parameter.kind in _ORDINARY]


def _parsed(asked: str, text: str) -> tuple[list[Any], dict[str, Any]]:
    """The values without and with a key. Only literals are read; nothing is evaluated."""
    call = _call(text)
    if call is None or not (call.args or call.keywords):
        raise PluginError(
            f"{asked!r} can't be read. After the colon, give values and then key=value pairs, separated by commas, as "
            "in 'quantile:0.25,0.75' and 'std:ddof=1'."
        )
    if len({keyword.arg for keyword in call.keywords}) < len(call.keywords):
        raise PluginError(f"{asked!r} gives a parameter twice.")
    values = [_literal(asked, node) for node in call.args]
    return values, {str(keyword.arg): _literal(asked, keyword.value) for keyword in call.keywords}


def _call(text: str) -> ast.Call | None:
    """`text` as the arguments of a call; None where it is anything else."""
    try:
        call = ast.parse(f"f({text}\n)", mode="eval").body  # the newline keeps a comment from hiding the parenthesis
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return None
    return None if any(keyword.arg is None for keyword in call.keywords) else call


def _literal(asked: str, node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id.casefold() not in _CONSTANTS:
        return node.id
    try:
        return ast.literal_eval(node)
    except ValueError:
        written = ast.unparse(node)
        meant = _CONSTANTS.get(written.casefold(), repr(written))
        raise PluginError(
            f"{asked!r}: {written} isn't a value. Write a number, True, False, None, a tuple, a word, or a string in "
            f"quotes: {meant}. In a shell, the whole needs quotes too, as in \"linear_probe:split_by='my column'\"."
        ) from None
