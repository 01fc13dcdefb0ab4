"""What is known of the real tokens of a batch: their ids at least, where the inputs hold these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit._tokens import TokenDict, Tokens

__all__ = ["tokens_of"]

_IDS, _MASK = "input_ids", "attention_mask"  # transformers' names


def tokens_of(inputs: Any, whole: Any = None) -> Tokens | None:
    """Those of a batch's `inputs`: what the `whole` batch that they were taken from says, or else their ids.

    None where the inputs aren't called as transformers call them.
    """
    if isinstance(whole, TokenDict):
        return whole.tokens
    ids = inputs.get(_IDS) if isinstance(inputs, Mapping) else None
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point() or ids.is_complex():
        return None
    mask = inputs.get(_MASK)
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    if not isinstance(real, Tensor) or real.shape != ids.shape:
        return None
    real = real != 0
    counts = real.sum(1).cpu().numpy().astype(np.int64)
    return Tokens(counts, {"token_id": ids[real].cpu().numpy().astype(np.int64)})
