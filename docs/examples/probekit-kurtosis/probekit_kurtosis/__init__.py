"""How heavy the tails of an activation are: excess kurtosis, and Moors' kurtosis from octiles."""

from __future__ import annotations

from probekit_kurtosis.moments import Kurtosis
from probekit_kurtosis.octiles import moors

__all__ = ["Kurtosis", "moors"]
