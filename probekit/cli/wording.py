"""Messages of the library, which name Python's arguments, in the words of the command that was typed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

__all__ = ["as_typed"]

# name=, name=True, name="text", and then (--name) where a message says both; not within a path or a quoted name.
_ARGUMENT = re.compile(
    r"""(?<![\w./:'"-])([a-z_]+)=(?:([\[({])|(\w+(?:\.\w+)*|"[^"]*"|'[^']*'))?(?: \((--[a-z-]+)\))?"""
)
_CALL = re.compile(r"\bprobekit\.([a-z_]+)\b(?:\([^()]*\))?(?!\.?\w)")
_PYTHON = ("None", "False")  # values that no option takes


def as_typed(
    text: str, function: str, arguments: Collection[str], options: Mapping[str, str], commands: Collection[str]
) -> str:
    """`text` with ``name=value`` as ``--name value`` and ``probekit.name(…)`` as the command `name`.

    Args:
        text: a message.
        function: the library function that the command calls.
        arguments: the names of its arguments. Those that the command lacks stay as they are, with a note that says so.
        options: the command's options by those names, such as ``{"batch_size": "--batch-size"}``.
        commands: the names of all commands.

    Example:
        >>> as_typed("Give labels=, or resume=True.", "capture", {"labels", "resume"}, {"resume": "--resume"}, ())
        'Give labels=, or --resume. (labels= is for Python: an argument of probekit.capture.)'
    """
    only_python: dict[str, None] = {}

    def said(found: re.Match[str]) -> str:
        name, bracket, value, option = found.groups()
        if option is not None:
            return option
        if name in options and bracket is None and value not in _PYTHON:
            return options[name] if value in (None, "True") else f"{options[name]} {value.strip(chr(34) + chr(39))}"
        if name in arguments:
            only_python[f"{name}="] = None
        return found[0]

    text = _ARGUMENT.sub(said, text)
    text = _CALL.sub(lambda found: f"`probekit {found[1]}`" if found[1] in commands else found[0], text)
    if only_python:
        text += f" ({', '.join(only_python)} is for Python: an argument of probekit.{function}.)"
    return text
