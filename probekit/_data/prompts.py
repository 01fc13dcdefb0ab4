"""Prompts as batches of token ids, padded on the left, in order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit._data.columns import Array
from probekit.errors import DataError

__all__ = ["Prompts", "token_ids_of"]

_EXPECTED = (
    "Give a list of texts with a tokenizer=, a list of token ids for each prompt, a tensor (prompt, position) of token "
    "ids, or what a tokenizer returns for several texts"
)


class Prompts:
    """Batches of so many prompts, each as long as its longest; `padding` is the token id before shorter ones.

    Attributes:
        rows: the number of prompts.
    """

    def __init__(self, token_ids: Sequence[Array], batch_size: int, padding: int) -> None:
        self._token_ids, self._batch_size, self._padding = token_ids, batch_size, padding
        self.rows = len(token_ids)

    def __len__(self) -> int:
        return math.ceil(self.rows / self._batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for start in range(0, self.rows, self._batch_size):
            yield self._batch(self._token_ids[start : start + self._batch_size])

    def _batch(self, prompts: Sequence[Array]) -> dict[str, Tensor]:
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), self._padding)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.from_numpy(prompt)
            mask[row, longest - len(prompt) :] = 1
        return {"input_ids": ids, "attention_mask": mask}


def token_ids_of(prompts: Any, tokenizer: Any) -> list[Array]:
    """The token ids of each prompt, int64, without padding.

    Raises:
        DataError: `prompts` are nothing of the kind, are texts without a tokenizer, or one has no token.
    """
    found = [_ids(number, each) for number, each in enumerate(_several(prompts, tokenizer))]
    if not found:
        raise DataError("There are no prompts.", arguments=("prompts",))
    empty = next((number for number, ids in enumerate(found) if not len(ids)), None)
    if empty is not None:
        raise DataError(
            f"Prompt {empty} has no token, and a model can't begin with none. Give it one, such as the tokenizer's "
            "beginning of a text (bos_token), or leave the prompt out.",
            arguments=("prompts",),
        )
    return found


def _several(prompts: Any, tokenizer: Any) -> Sequence[Any]:
    if isinstance(prompts, Mapping) and "input_ids" in prompts:
        ids, mask = prompts["input_ids"], prompts.get("attention_mask")
        masks = [None] * len(ids) if mask is None else mask
        return [_real(*pair) for pair in zip(ids, masks, strict=True)]
    if isinstance(prompts, Tensor | np.ndarray) and prompts.ndim == 2:
        return list(prompts)
    if not isinstance(prompts, Sequence) or isinstance(prompts, str):
        raise DataError(f"prompts are a {type(prompts).__name__}. {_EXPECTED}.", arguments=("prompts",))
    if not any(isinstance(each, str) for each in prompts):
        return prompts
    if not all(isinstance(each, str) for each in prompts):
        raise DataError(f"prompts mix texts with something else. {_EXPECTED}.", arguments=("prompts",))
    if tokenizer is None:
        raise DataError(
            "prompts are texts. Give the model's tokenizer too: tokenizer=, as transformers' AutoTokenizer gives it.",
            arguments=("prompts", "tokenizer"),
        )
    return list(tokenizer(list(prompts))["input_ids"])


def _real(ids: Any, mask: Any) -> Any:
    """The token ids that a mask of 1 and 0 says are no padding."""
    return ids if mask is None else np.asarray(ids)[np.asarray(mask) != 0]


def _ids(number: int, given: Any) -> Array:
    ids = np.asarray(given)
    if ids.ndim != 1 or (ids.size and (ids.dtype.kind not in "iu" or int(ids.min()) < 0)):
        raise DataError(
            f"Prompt {number} is an array of shape {ids.shape} and dtype {ids.dtype}, not a row of token ids. "
            f"{_EXPECTED}.",
            arguments=("prompts",),
        )
    return ids.astype(np.int64)
