"""Whether the rows that a site gives are the tokens of the data, so that what is known of these is known of them."""

from __future__ import annotations

import numpy as np

from probekit._probe.pooling import Reduced
from probekit._tokens import Tokens

__all__ = ["are_tokens", "known_tokens"]


def are_tokens(reduced: Reduced, tokens: Tokens | None) -> bool:
    """Whether a site gave a row for each token of each sample."""
    if reduced.sample is None or tokens is None:
        return False
    counts = np.bincount(reduced.sample.numpy(), minlength=len(tokens.counts))
    return bool(np.array_equal(counts, tokens.counts))


def known_tokens(reduced: Reduced, tokens: Tokens | None) -> tuple[str, ...]:
    """The names of what is known of a site's rows as tokens."""
    return tuple(tokens.columns) if tokens is not None and are_tokens(reduced, tokens) else ()
