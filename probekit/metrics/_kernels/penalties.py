"""The penalty α of a linear model, chosen by rows of the training part that aren't trained on for it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from probekit.metrics._kernels.splits import Mask, Split

__all__ = ["PENALTIES", "best_penalty", "validation_rows"]

PENALTIES = (1e2, 1e1, 1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_UNCHOSEN = 1.0  # where there are no rows to choose by
_VALIDATION = 0.25


def validation_rows(split: Split, training: Mask) -> Mask:
    """A quarter of the training units of each class, at least one where it has two."""
    return split.held_out(_VALIDATION, among=training)


def best_penalty(losses: Iterable[float], rises: int | None = None) -> float:
    """The penalty with the least loss, the largest of equals. `losses` are those of `PENALTIES`, and may end before.

    With `rises`, so many losses in turn that aren't less than the least end the choice.
    """
    least, best, since = np.inf, _UNCHOSEN, 0
    for alpha, loss in zip(PENALTIES, losses, strict=False):
        if loss < least:
            least, best, since = loss, alpha, 0
        else:
            since += 1
        if since == rises:
            break
    return best
