"""The options that a capture and a live measurement share: which sites, and how the model runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from probekit._probe.reductions import Reduction
from probekit._probe.selectors import Selector
from probekit.errors import ModelError, StoreError, check_choice, check_kind

__all__ = ["DTYPES", "Loss", "MaskChoice", "Reset", "RunOptions", "SiteOptions"]

Loss: TypeAlias = Callable[[Any, Tensor | None], Tensor]  # of the model's output and the labels; a scalar
Reset: TypeAlias = Callable[[nn.Module], object]
# Where the mask of real tokens is in the inputs; False for none.
MaskChoice: TypeAlias = str | int | Callable[[Any], Tensor] | Literal[False]

MODES = ("eval", "train", "as is")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "float64": torch.float64, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class SiteOptions:
    """Which sites are recorded, and what is kept of each; `probekit.capture` documents every field.

    Raises:
        StoreError: a store doesn't keep this `dtype`.
    """

    sites: Selector
    exclude: Selector | None
    reduce: Mapping[Any, Reduction] | Reduction | None
    batch_dim: Mapping[Any, int] | int | None
    node_dim: Mapping[Any, int] | int | None = None
    mask: Mapping[Any, MaskChoice] | MaskChoice | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and not (isinstance(self.dtype, str) and self.dtype in DTYPES):
            known = ", ".join(DTYPES)
            raise StoreError(
                f"dtype is {self.dtype!r}; a store keeps {known}, or None for what the model gives.",
                arguments=("dtype",),
            )


@dataclass(frozen=True)
class RunOptions:
    """How the model runs; `probekit.capture` documents every field.

    Raises:
        ModelError: there is no such `mode`, or `predictions` and `stop_early` exclude each other.
    """

    mode: str
    loss: Loss | None = None
    predictions: bool | Literal["auto"] = False
    reset: Reset | None = None
    stop_early: bool = False

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES, ModelError)
        check_kind("stop_early", self.stop_early, bool, "True or False", ModelError)
        if self.stop_early and self.predictions is True:
            raise ModelError(
                "predictions=True needs the model's logits, and with stop_early=True the forward pass ends before "
                "there are any. Give one of them.",
                arguments=("predictions", "stop_early"),
            )
