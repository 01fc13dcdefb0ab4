"""The shape of an activation's distribution: whether it has two humps, and how heavy its tails are."""

from __future__ import annotations

from probekit_shape.moments import Bimodality
from probekit_shape.octiles import moors

__all__ = ["Bimodality", "moors"]
