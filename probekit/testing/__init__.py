"""The laws of the metric protocol and the contract of recipes, as tests for pytest."""

from __future__ import annotations

from probekit.testing.conformance import Check, checks, conformance
from probekit.testing.law import ConformanceError
from probekit.testing.recipe import check_recipe

__all__ = ["Check", "ConformanceError", "check_recipe", "checks", "conformance"]
