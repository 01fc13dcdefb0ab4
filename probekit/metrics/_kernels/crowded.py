"""Finer cells where the values of a half-line crowd: next to the minimum of a GELU, or at a value that many share.

A half-line may have a focus, which is a key of `probekit.metrics._kernels.float_cells`. Keys that differ from it in
their lowest bits alone, those of an eighth of a power of two, then count in `FINE` cells of their own in place of the
usual ones. A cell holds the keys of which the highest bit that differs from the focus is the same, and the 5 bits below
it: the nearer to the focus, the narrower it is. For float64 the lowest 29 bits of keys aren't looked at.

Every such cell is a part of one usual cell of level m − 7 or more, so that its counts can be added to that one. They
are where the level is raised beyond m − 3, and where states with different foci are merged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from probekit.metrics._kernels.float_cells import CELLS, Floats, Magnitudes
from probekit.metrics.protocol import State

__all__ = ["FINE", "find_foci", "fine_keys", "fold", "into_fine", "most_level"]

_BITS = 5  # of a cell, below the highest bit that differs
_WINDOW = 20  # bits that are looked at
FINE = (_WINDOW << _BITS) + 1
_CROWDED = 0.005  # the share of the classes' mixture in a cell from which it is looked at more closely
_SAMPLES = 2**13  # that tell where values crowd


def _dropped(floats: Floats) -> int:
    """The lowest bits of keys, which aren't looked at."""
    return floats.mantissa - 23


def most_level(floats: Floats) -> int:
    """The level at which the keys around a focus are one cell."""
    return _WINDOW + _dropped(floats)


def into_fine(samples: Magnitudes, places: Tensor, focus: Tensor, width: int) -> Tensor:
    """The `places` of samples (sample, node), where those around a `focus` (node, half) have one from `width` on."""
    differs = (samples.key ^ samples.of_half(focus)) >> _dropped(samples.floats)
    near = differs >> _WINDOW == 0
    # The bits of a float are its exponent, and what follows its highest bit.
    fine = ((differs & ((1 << _WINDOW) - 1)).float().view(torch.int32) >> (23 - _BITS)) - (127 << _BITS) + 1
    fine = fine.clamp_(min=0).to(places.dtype).add_(width).sub_(samples.sign.to(places.dtype), alpha=FINE)
    return torch.where(near, fine, places)


def fine_keys(floats: Floats, focus: Tensor) -> tuple[Tensor, Tensor]:
    """The first key of each fine cell (node, half, cell), and how many keys it has, (cell,)."""
    number = torch.arange(FINE - 1, device=focus.device)
    highest, below = number >> _BITS, number & ((1 << _BITS) - 1)
    size = 1 << (highest - _BITS).clamp(min=0)
    differs = (1 << highest) | torch.where(highest >= _BITS, below * size, below >> (_BITS - highest).clamp(min=0))
    differs, size = (torch.cat([each.new_tensor([one]), each]) for each, one in ((differs, 0), (size, 1)))
    dropped = _dropped(floats)
    first = ((focus[..., None] >> dropped) ^ differs) & -size
    return first << dropped, size << dropped


def fold(floats: Floats, usual: Tensor, fine: Tensor, ranges: State, chosen: Tensor) -> None:
    """Add counts in fine cells to the usual ones (class, node, half, cell); `chosen` half-lines lose their focus."""
    chosen = chosen & (ranges["focus"] >= 0)
    if not chosen.any():
        return
    nodes, halves = chosen.nonzero(as_tuple=True)
    first, _ = fine_keys(floats, ranges["focus"][chosen])
    into = ((first >> ranges["level"][chosen][:, None]) & (CELLS - 1)).expand(len(usual), -1, -1)
    usual[:, nodes, halves] = usual[:, nodes, halves].scatter_add(2, into, fine[:, nodes, halves])
    fine[:, nodes, halves] = 0
    ranges["focus"][nodes, halves] = -1


def find_foci(floats: Floats, x: Tensor, mixture: Tensor, ranges: State) -> Tensor:
    """The foci (node, half) that suit samples `x` (sample, node), −1 where values don't crowd.

    `mixture` is the share of the classes, each of which weighs the same, in the usual cells (node, half, cell) that may
    hold several values. The focus is the half-sample mode (Robertson and Cryer 1974) of the keys in the fullest one.
    """
    fullest, cell = (each.cpu() for each in mixture.max(2))
    level, few = ranges["level"].cpu(), x[:: -(-len(x) // _SAMPLES)].cpu()
    crowded = (fullest > _CROWDED) & (level >= floats.plain) & (level <= most_level(floats))
    focus = torch.full_like(level, -1)
    for node, half in crowded.nonzero().tolist():
        samples = Magnitudes.of(few[:, node : node + 1].contiguous())
        ours = samples.key[samples.sign == -half].long()
        there = (ours >> level[node, half]) & (CELLS - 1) == cell[node, half]
        focus[node, half] = _densest(ours[there].sort().values)
    normal = focus >= 1 << floats.mantissa  # not next to 0, which has a cell of its own
    return torch.where(normal, focus, -1).to(x.device)


def _densest(keys: Tensor) -> int:
    """The half-sample mode of sorted keys; −1 without any."""
    while len(keys) > 2:
        half = (len(keys) + 1) // 2
        start = int((keys[half - 1 :] - keys[: len(keys) - half + 1]).argmin())
        keys = keys[start : start + half]
    return int(keys[0]) if len(keys) else -1
