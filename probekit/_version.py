"""The version of probekit, which pyproject.toml, the stores and the results take from here."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
