"""Reading what a sketch has counted: the order of its cells, what stands for them, and what they can't tell.

A state has counts (class, node, cell): the cells of both half-lines, then those of 0, of infinity or an upper bound,
and of −infinity or −1. Where values crowd at a node, finer cells of both half-lines follow.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from probekit.metrics._kernels.cells import MOST_ATOMS
from probekit.metrics._kernels.crowded import FINE, fine_keys
from probekit.metrics._kernels.float_cells import CELLS, RANGES, Floats
from probekit.metrics._kernels.lines import LINES, distance_on_line, values_on_line
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.protocol import State
from probekit.metrics.resolution import Counted

__all__ = [
    "ABOVE",
    "BELOW",
    "WIDTH",
    "counted",
    "fine_halves",
    "floats_of",
    "halves",
    "hiding",
    "line_name",
    "ranges_of",
    "represented",
    "shares",
]

ZERO, ABOVE, BELOW = (2 * CELLS + n for n in range(3))
WIDTH = 2 * CELLS + 3


def line_name(state: State) -> str:
    return next(line for line in LINES if line in state)


def floats_of(state: State) -> Floats:
    return Floats(state["x"].dtype)


def ranges_of(state: State, nodes: slice = slice(None)) -> State:
    return {key: state[key][nodes] for key in RANGES}


def halves(cells: Tensor) -> Tensor:
    """The cells of both half-lines, (class, node, half, cell)."""
    halves: Tensor = cells[..., : 2 * CELLS].unflatten(2, (2, CELLS))
    return halves


def represented(state: State, part: slice, counts: Codes, kept: Codes) -> Block:
    """The block of some nodes, of `kept` samples of each class that represent the counts."""
    offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
    order, values = _in_order(state, part)
    made = torch.empty(len(values), int(offsets[-1]), dtype=state["x"].dtype)
    for code in np.flatnonzero(kept):
        cells = state[line_name(state)][code, part].cpu().gather(1, order)
        made[:, offsets[code] : offsets[code + 1]] = _spread(cells, values, int(counts[code]), int(kept[code]))
    return Block(made.numpy(), offsets, None if (kept == counts).all() else counts)


def fine_halves(cells: Tensor) -> Tensor:
    """The fine cells of both half-lines, (class, node, half, cell); none where no node has a focus."""
    fine: Tensor = cells[..., WIDTH:].unflatten(2, (2, -1))
    return fine


def _in_order(state: State, part: slice) -> tuple[Tensor, Tensor]:
    """The places of the cells of some nodes, ascending by value, and the values that stand for them, (node, cell)."""
    name, ranges = line_name(state), {key: each.cpu() for key, each in ranges_of(state, part).items()}
    back = torch.arange(CELLS - 1, -1, -1)
    numbers, level, floats = ranges["last"][..., None] - back, ranges["level"][..., None], floats_of(state)
    places = (numbers & (CELLS - 1)) + torch.tensor([[0], [CELLS]])
    values = floats.values(numbers, level)
    if state[name].shape[2] > WIDTH:
        places, values = _with_fine(places, values, numbers << level, floats, ranges["focus"])
    up, down = places.unbind(1)
    high, low = (values_on_line(each, name, floats.dtype) for each in values.unbind(1))
    down, low = down.flip(1), -low.flip(1)
    zero, above, below = (torch.full_like(up[:, :1], place) for place in (ZERO, ABOVE, BELOW))
    constant = torch.zeros_like(high[:, :1])
    if name == "unit":
        high, low = high.clamp(max=0.5), low.clamp(min=-0.5)  # the middle of a cell may lie beyond
        return torch.cat([zero, up, down, above], 1), torch.cat([constant, high, 1 + low, constant + 1], 1)
    most = constant + (torch.inf if name == "signed" else 1)
    values = torch.cat([-most, low, constant, high, most], 1)
    return torch.cat([below, down, zero, up, above], 1), values


def _with_fine(places: Tensor, values: Tensor, keys: Tensor, floats: Floats, focus: Tensor) -> tuple[Tensor, Tensor]:
    """The places and values (node, half, cell), and those of the fine cells among them, ascending."""
    first, size = fine_keys(floats, focus)
    fine = torch.arange(WIDTH, WIDTH + 2 * FINE).view(1, 2, FINE).expand(first.shape)
    middle = floats.of_keys(first + size // 2)
    order = torch.cat([keys, first], 2).argsort(dim=2, stable=True)
    return torch.cat([places, fine], 2).gather(2, order), torch.cat([values, middle], 2).gather(2, order)


def _spread(cells: Tensor, values: Tensor, count: int, kept: int) -> Tensor:
    """`kept` evenly spaced samples of the `count` in the `cells` (node, cell) of a class: (node, kept), ascending."""
    up_to = cells.cumsum(1, dtype=torch.int64)
    # The number of kept samples whose rank, the floor of (i + 1/2) count / kept, is below.
    below = (2 * kept * up_to + (count - 1)) // (2 * count)
    repeats = below.diff(dim=1, prepend=below.new_zeros(len(cells), 1))
    return values.reshape(-1).repeat_interleave(repeats.view(-1)).view(len(cells), kept)


def counted(state: State, part: slice) -> Counted:
    """The counts of some nodes in order."""
    cells, (order, _) = state[line_name(state)][:, part].cpu(), _in_order(state, part)
    several = hiding(state, part).cpu()
    atoms = (cells.sum(0) * MOST_ATOMS >= state["count"].sum().cpu()) & ~several
    counts = torch.stack([each.gather(1, order) for each in cells])
    return Counted(counts.numpy(), *(each.gather(1, order).numpy() for each in (several, atoms)))


def shares(state: State, part: slice, loose: float) -> tuple[Array, Array, Codes, Array]:
    """Of some nodes: `largest`, `squares`, `atoms` and `ambiguous` of a `Resolution`.

    The share of a value among all samples may be off by `loose`.
    """
    cells, hides = state[line_name(state)][:, part], hiding(state, part)
    counts = state["count"].clamp(min=1)
    crowded = (each * hides for each in cells)  # of one class after the other
    pairs = [(each.amax(1), torch.linalg.vector_norm(each.double(), dim=1)) for each in crowded]
    largest, norms = (torch.stack(each) / counts[:, None].double() for each in zip(*pairs, strict=True))
    of_all = cells.sum(0).double() / counts.sum()
    may_be = of_all >= 1 / MOST_ATOMS - loose
    ambiguous = may_be & (hides | ((of_all - 1 / MOST_ATOMS).abs() < loose))
    found = largest, norms.square(), (may_be & ~hides).sum(1), ambiguous.any(1)
    of_classes, squared, atoms, unclear = (each.cpu().numpy() for each in found)
    return of_classes, squared, atoms, unclear


def hiding(state: State, part: slice) -> Tensor:
    """Whether each cell of some nodes may hold several values, (node, cell)."""
    cells = state[line_name(state)][0, part]
    hides, ranges = torch.zeros_like(cells, dtype=torch.bool), ranges_of(state, part)
    hides[:, : 2 * CELLS] = _several(state, ranges).flatten(1)
    if cells.shape[1] > WIDTH:
        _, size = fine_keys(floats_of(state), ranges["focus"])
        hides[:, WIDTH:] = (~ranges["exact"][..., None] & (size > 1)).flatten(1)
    return hides


def _several(state: State, ranges: State) -> Tensor:
    """Whether each cell of the half-lines (node, half, cell) may hold several values.

    None does where all are exact, and none so near to a bound that there is only one float in it.
    """
    name, floats, level = line_name(state), floats_of(state), ranges["level"][..., None]
    several = (~ranges["exact"][..., None] & (level > 0)).expand(*ranges["exact"].shape, CELLS)
    if name == "signed":
        return several
    last = ranges["last"][..., None]
    numbers = last - ((last - torch.arange(CELLS, device=level.device)) & (CELLS - 1))
    distance = distance_on_line(floats.values(numbers, level), name, floats.dtype)
    return several & (distance * 2.0 ** (floats.mantissa + 1) >= (floats.mantissa - level).double().exp2())
