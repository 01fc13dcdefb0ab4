"""A matrix of weights as the parameter of a metric."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np
from torch import Tensor

from probekit.errors import PluginError
from probekit.metrics.block import Array

__all__ = ["weights_of"]


def weights_of(given: Any, named: str, axes: str) -> tuple[Array, str]:
    """The matrix in float64, which can't be written to, and what tells it from others: its shape and a digest.

    Raises PluginError, which says how the parameter is `named` and which `axes` it has, for anything else than a matrix
    of finite numbers that aren't all 0.
    """
    weights = np.array(given.detach().cpu().numpy() if isinstance(given, Tensor) else given, dtype=np.float64)
    if weights.ndim != 2 or not np.isfinite(weights).all() or not weights.any():
        raise PluginError(
            f"{named} of shape {weights.shape}: the weights of a layer have two axes, {axes}, and are finite and not "
            "all 0. Give model.fc.weight, say."
        )
    weights.setflags(write=False)
    shape = " × ".join(map(str, weights.shape))
    return weights, f"{shape}, sha256 {sha256(weights.tobytes()).hexdigest()[:16]}"
