"""A model's tokenizer, and batches of the texts that it has read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from probekit._tokens import TokenDict, Tokens
from probekit.errors import DataError

__all__ = ["Tokenizer"]

_PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids")
_BEYOND = 2**24  # tokens; transformers says about 1e30 for a tokenizer that knows no limit


class Tokenizer:
    """A tokenizer of transformers', which cuts texts at `max_length` tokens; by default the most that it knows of.

    `words` and `steps` say what it does, for a store.

    Raises DataError for a limit that isn't one.
    """

    def __init__(self, tokenizer: Any, name: str, max_length: int | None = None) -> None:
        self._tokenizer, self._name = tokenizer, name
        known = getattr(tokenizer, "model_max_length", None)
        known = known if isinstance(known, int) and known < _BEYOND else None
        if max_length is not None and (max_length < 1 or (known is not None and max_length > known)):
            most = "" if known is None else f", at most the {known} that {name} takes"
            raise DataError(
                f"max_length is {max_length}. Give a number of tokens from 1{most}.", arguments=("max_length",)
            )
        self.max_length = max_length or known
        cut = "never cut" if self.max_length is None else f"cut at {self.max_length} tokens"
        kind = type(tokenizer).__name__
        self.words = f"{kind} of {name}; {cut}, padded on the right"
        self.steps = {
            "tokenizer": kind,
            "from": name,
            "max_length": self.max_length,
            "padding": "right",
        }

    def limited(self, max_length: int | None) -> Tokenizer:
        """The same with another limit, unless that is None."""
        return self if max_length is None else Tokenizer(self._tokenizer, self._name, max_length)

    @property
    def facts(self) -> dict[str, Any]:
        """The attributes of a store that say it."""
        return {"preprocessing": self.words, "preprocessing_steps": self.steps}

    def __call__(self, text: str) -> dict[str, Any]:
        """What the model takes of one text, lists of a value a token, and its ``tokens`` and whether it is ``cut``."""
        fast = bool(getattr(self._tokenizer, "is_fast", False))
        limits = {} if self.max_length is None else {"truncation": True, "max_length": self.max_length}
        found = dict(self._tokenizer(text, return_offsets_mapping=fast, verbose=False, **limits))
        ids = found["input_ids"]
        spans = found.pop("offset_mapping", None)
        tokens: dict[str, Any] = {"token_id": ids, "token": self._tokenizer.convert_ids_to_tokens(ids)}
        if spans is not None:
            tokens |= {"char_start": [start for start, _ in spans], "char_end": [end for _, end in spans]}
            pairs = zip(spans, tokens["token"], strict=True)
            tokens["token"] = [text[start:end] if start < end else token for (start, end), token in pairs]
        found["tokens"] = tokens
        found["truncated"] = len(ids) == self.max_length and self._is_longer(text)
        return found

    def _is_longer(self, text: str) -> bool:
        """Whether a text has more tokens than the limit."""
        whole = self._tokenizer(text, truncation=False, verbose=False)["input_ids"]
        return self.max_length is not None and len(whole) > self.max_length

    def collate(self, encoded: Sequence[dict[str, Any]]) -> TokenDict:
        """A batch of what was made of texts, padded on the right, where it changes no position of a real token."""
        longest = max(len(each["input_ids"]) for each in encoded)
        keys = [key for key in _PER_TOKEN if key in encoded[0]]
        filling = dict.fromkeys(keys, 0) | {"input_ids": self._padding}
        batch = TokenDict(
            {
                key: torch.tensor([[*each[key], *[filling[key]] * (longest - len(each[key]))] for each in encoded])
                for key in keys
            }
        )
        batch.tokens = Tokens(
            np.array([len(each["input_ids"]) for each in encoded], np.int64),
            {
                name: np.array([value for each in encoded for value in each["tokens"][name]])
                for name in encoded[0]["tokens"]
            },
        )
        return batch

    @property
    def _padding(self) -> int:
        """The token that fills short texts; the mask leaves it out, so any will do where there is none for it."""
        for name in ("pad_token_id", "eos_token_id"):
            found = getattr(self._tokenizer, name, None)
            if isinstance(found, int):
                return found
        return 0
