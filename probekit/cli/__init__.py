"""The command line: parse, call one library function, render."""

from __future__ import annotations

from importlib import import_module

try:
    import_module("probekit.errors")
except ImportError as error:  # as it says, the package is another project's
    raise SystemExit(f"Error: {error}") from None

from probekit.cli.app import app as main

__all__ = ["main"]
