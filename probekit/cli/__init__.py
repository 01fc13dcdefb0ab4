"""The command line: parse, call one library function, render."""

from __future__ import annotations

from probekit.cli.app import app as main

__all__ = ["main"]
