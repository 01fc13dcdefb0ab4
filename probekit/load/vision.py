"""torchvision, imported only where a name asks for it, and what to do when it can't be."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from probekit.errors import ProbekitError

__all__ = ["torchvision_part"]


def torchvision_part(submodule: str, kind: type[ProbekitError]) -> ModuleType:
    """A submodule of torchvision; where it can't be imported, an error with the versions found and what mends it."""
    try:
        return importlib.import_module(f"torchvision.{submodule}")
    except (ImportError, RuntimeError) as error:  # RuntimeError: operator torchvision::nms does not exist
        raise kind(
            f"torchvision can't be imported: {type(error).__name__}: {error}. Found torchvision "
            f"{_installed('torchvision')} and torch {_installed('torch')}, which must be built for each other. Mend "
            f"both with `pip install --upgrade --force-reinstall torch torchvision`."
        ) from error


def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(not installed)"
