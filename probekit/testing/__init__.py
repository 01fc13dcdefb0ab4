"""The laws of the metric protocol, as tests for pytest."""

from __future__ import annotations

from probekit.testing.conformance import Check, checks, conformance
from probekit.testing.law import ConformanceError

__all__ = ["Check", "ConformanceError", "checks", "conformance"]
