"""What a recipe is: a function ``run`` whose annotated parameters are its options, and which returns an Outcome."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from probekit.errors import PluginError

__all__ = ["PROGRESS", "Recipe"]

PROGRESS = "progress"  # the parameter that gets what shows the progress, and is no option
_PLAIN = (str, int, float, Path)
_KINDS = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Recipe:
    """A recipe that keeps the contract: its `run`, the `options` that it takes, and the `hints` of their types."""

    name: str
    run: Callable[..., Any]
    options: tuple[inspect.Parameter, ...]
    hints: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, thing: Any) -> Recipe:
        """The recipe that `thing`, a module or an object, is.

        Raises:
            PluginError: it has no function ``run``; a parameter of that isn't annotated, can't be given by keyword, or
                is of a type that a command line can't read; it has no parameter ``progress``.
        """
        run = getattr(thing, "run", None)
        if not callable(run):
            raise PluginError(
                f"The recipe {name!r} ({thing!r}) has no function run(...); its author has to give it one."
            )
        parameters = inspect.signature(run).parameters.values()
        faults = [fault for parameter in parameters if (fault := _fault(parameter))]
        if PROGRESS not in inspect.signature(run).parameters:
            faults.append("it has no parameter progress, a callable (items, name, total) that it wraps its loops in")
        if faults:
            raise PluginError(f"The recipe {name!r} breaks the contract of recipes: in run(), {'; '.join(faults)}.")
        options = tuple(each for each in parameters if each.name != PROGRESS)
        hints = _hints(name, run)
        for option in options:
            if not _is_readable(hints[option.name]):
                raise PluginError(
                    f"The recipe {name!r} has the option {option.name} of the type {hints[option.name]}, which a "
                    "command line can't read. Use str, int, float, bool, Path, Literal, an Enum, or tuple[int, ...] "
                    "and the like; each may be `| None`."
                )
        return cls(name, run, options, hints)

    def check_outcome(self, outcome: object) -> None:
        """Raise PluginError where what ``run`` returned has no report and no tables."""
        if not hasattr(outcome, "report") or not isinstance(getattr(outcome, "tables", None), Mapping):
            raise PluginError(
                f"run() of the recipe {self.name!r} returned a {type(outcome).__name__}; it has to return a "
                "probekit.report.Outcome: the path of its report, and its tables by title."
            )


def _fault(parameter: inspect.Parameter) -> str | None:
    if parameter.kind not in _KINDS:
        return f"{str(parameter)!r} isn't one option that can be given by name"
    if parameter.name != PROGRESS and parameter.annotation is inspect.Parameter.empty:
        return f"{parameter.name} has no annotation, such as `{parameter.name}: Annotated[int, 'What it says.'] = 1`"
    return None


def _is_readable(hint: Any) -> bool:
    """Whether text on a command line can become what an annotation asks for."""
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    origin, items = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        others = [each for each in items if each is not types.NoneType]
        return len(others) == 1 and _is_readable(others[0])
    if origin is tuple:
        return len(items) == 2 and items[1] is ... and items[0] in _PLAIN
    return kind in (*_PLAIN, bool) or origin is Literal or (isinstance(kind, type) and issubclass(kind, Enum))


def _hints(name: str, run: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(run, include_extras=True)
    except Exception as error:  # an annotation may be any expression
        raise PluginError(
            f"The annotations of run() of the recipe {name!r} can't be read: {error}. Import what they name where "
            "Python runs, not only under TYPE_CHECKING."
        ) from error
