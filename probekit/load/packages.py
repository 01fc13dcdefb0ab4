"""Packages that are imported only when a name asks for them, and errors that say how to mend a failing import."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from probekit.errors import ModelError, ProbekitError, install_command

__all__ = ["extra", "installed", "torchvision_module"]

# package -> the extra of probekit that installs it
EXTRAS = {
    "timm": "timm",
    "transformers": "hf",
    "peft": "peft",
    "open_clip": "open_clip",
    "datasets": "hfdata",
    "pyarrow": "parquet",
}


def torchvision_module(submodule: str, kind: type[ProbekitError]) -> ModuleType:
    """A submodule of torchvision; if it can't be imported, an error with the versions found and how to mend them."""
    try:
        return importlib.import_module(f"torchvision.{submodule}")
    except (ImportError, RuntimeError) as error:  # RuntimeError: operator torchvision::nms does not exist
        raise kind(
            f"torchvision can't be imported: {type(error).__name__}: {error}. Found torchvision "
            f"{installed('torchvision')} and torch {installed('torch')}, which must be built for each other. Reinstall "
            f"both with `pip install --upgrade --force-reinstall torch torchvision`."
        ) from error


def extra(package: str) -> ModuleType:
    """A package of one of probekit's extras; if it can't be imported, an error with the command that installs it."""
    try:
        return importlib.import_module(package)
    except (ImportError, RuntimeError) as error:  # transformers turns what its own imports raise into RuntimeErrors
        raise ModelError(
            f"{package} can't be imported: {type(error).__name__}: {error}. Found {package} {installed(package)} and "
            f"torch {installed('torch')}. Install it with {install_command(EXTRAS[package])}."
        ) from error


def installed(distribution: str) -> str:
    """The installed version, or "(not installed)"."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(not installed)"
