"""The real tokens of a batch's samples: what each of them is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["TokenDict", "Tokens"]


@dataclass(frozen=True)
class Tokens:
    """Columns of one value a token, sample after sample; `counts` (sample,) says how many tokens each sample has.

    ``token_id`` is int64; ``token`` (str), and ``char_start`` and ``char_end`` (int64), its characters in the sample's
    text, are there where the text is known.
    """

    counts: np.ndarray[Any, np.dtype[np.int64]]
    columns: Mapping[str, np.ndarray[Any, Any]]

    def of(self, samples: np.ndarray[Any, Any]) -> Tokens:
        """Those of some of the samples."""
        counts = self.counts[samples]
        positions = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return Tokens(counts, self.at(np.repeat(samples, counts), positions))

    def at(self, samples: np.ndarray[Any, Any], positions: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """The values of the tokens at these positions among those of these samples."""
        first = np.cumsum(self.counts) - self.counts
        where = first[samples] + positions
        return {name: values[where] for name, values in self.columns.items()}


class TokenDict(dict[str, Any]):
    """A batch of texts by keyword, padded on the right, with their `tokens` and further `columns` of a value a text."""

    tokens: Tokens
    columns: Mapping[str, Any]
