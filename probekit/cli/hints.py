"""What the command line adds to an error of the library: the options of the arguments that it is about."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import probekit

__all__ = ["option_hint"]


def option_hint(arguments: Sequence[str], command: Any) -> str:
    """``" On the command line: --resume, --overwrite."``, or nothing where there is nothing to add.

    Args:
        arguments: the names of arguments, as an error carries them. Those that the command lacks are said to be
            arguments of the library function that has the command's name.
        command: the click command that was invoked.
    """
    names = {parameter.name: parameter.opts[0] for parameter in command.params}
    options = [names[name] for name in arguments if names.get(name, "").startswith("--")]
    lacking = [f"{name}=" for name in arguments if name not in names and name in _arguments(command.name)]
    hint = f" On the command line: {', '.join(options)}." if options else ""
    if "nan" in arguments and "nan" not in names and "source" in names:  # it also takes results
        hint += " Or give the results of `probekit measure --nan omit --out`."
    if lacking:
        kind = "is an argument" if len(lacking) == 1 else "are arguments"
        hint += f" {', '.join(lacking)} {kind} of probekit.{command.name} in Python."
    return hint


def _arguments(name: str) -> Sequence[str]:
    function = getattr(probekit, name, None)
    return tuple(inspect.signature(function).parameters) if inspect.isfunction(function) else ()
