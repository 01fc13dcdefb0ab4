"""docs/reference.md documents every public name."""

import re
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import probekit

REFERENCE = (Path(__file__).parents[1] / "docs" / "reference.md").read_text()
DIRECTIVE = re.compile(r"^\.\. (?:py:)?(currentmodule|automodule|auto\w+|type):: ([\w.]+)", re.MULTILINE)
MODULES = [name for name in probekit.__all__ if isinstance(getattr(probekit, name), ModuleType)]


def documented():
    """The full names that the reference has a directive for, and the short ones of types in signatures."""
    names, module = set(), ""
    for directive, name in DIRECTIVE.findall(REFERENCE):
        if directive in ("currentmodule", "automodule"):
            module = name
        if directive == "automodule":
            public = {each: getattr(import_module(name), each) for each in import_module(name).__all__}
            # Sphinx leaves out what has no docstring of its own: constants and aliases.
            names |= {f"{name}.{each}" for each, found in public.items() if isinstance(found, type | FunctionType)}
        elif directive == "type" or name.startswith("probekit."):
            names.add(name)
        elif directive != "currentmodule":
            names.add(f"{module}.{name}")
    return names


@pytest.mark.parametrize("module", ["probekit", "probekit.plugins", *(f"probekit.{name}" for name in MODULES)])
def test_the_reference_has_every_public_name(module):
    there = documented()
    public = [name for name in import_module(module).__all__ if name not in MODULES]
    assert [name for name in public if not there & {f"{module}.{name}", name, f"probekit.{name}"}] == []
