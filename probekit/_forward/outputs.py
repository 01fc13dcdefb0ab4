"""The logits in a model's output, and the classes that it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from probekit._data.columns import Array
from probekit._probe.sharded import whole
from probekit.errors import ModelError

__all__ = ["PREDICTION", "logits_of", "predictions"]

PREDICTION = "prediction"


def logits_of(output: Any) -> Any:
    """The logits of a model's output: its ``.logits`` or ``["logits"]``, else the output itself."""
    return output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)


def predictions(output: Any, rows: int) -> Array:
    """The class that a model predicts for each of so many samples: where its logits (sample, class) are largest, int64.

    Raises:
        ModelError: the output has no such logits.
    """
    logits = logits_of(output)
    logits = whole(logits) if isinstance(logits, Tensor) else logits
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != rows or logits.shape[1] < 2:
        given = f"of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"in a {type(output).__name__}"
        raise ModelError(
            "predictions=True needs logits (sample, class) with at least two classes. For "
            f"{rows} samples, this model's output is {given}. Capture a model that returns logits (alone, as .logits "
            "or under the key 'logits'), or leave predictions out.",
            arguments=("predictions",),
        )
    classes: Array = logits.detach().argmax(1).cpu().numpy()
    return classes
