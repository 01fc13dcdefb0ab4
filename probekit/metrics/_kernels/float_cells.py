"""Cells of floats that follow the data: each holds the magnitudes that share their upper bits.

A magnitude's key is the integer that its bits are, whose order is that of the magnitudes: 2^m of them from a power of
two to the next, m = 23 for float32 and 52 for float64. Magnitudes below the least normal one have keys of the same
kind, as if exponents went on. At level s, a cell is 2^s neighbouring keys. A half-line (the positive or the negative
numbers of a node) has `CELLS` cells in a row, and the least level at which its data fit into them. Level m − 7 is that
of 8 significant bits, where a cell is what rounds to one such number. Cells of a level are unions of those of a lower
one: the counts at a higher level follow from those at a lower, and a half-line's level and counts depend on nothing but
its data, however they were split and merged.

The value that stands for a cell is its lower edge below level m − 7, at which numbers of m + 1 − s bits are exact; the
8-bit number at level m − 7; and the middle key above. It is within 2^(s−m), 2^−8 and 2^(s−m−1) of every value in the
cell, relative to that value: a cell has 2^s keys, and a magnitude is at least 2^m of the steps between keys at it. (A
cell above level m − 7 may begin below a power of two, where steps are half as wide; both the distance and the value
are then smaller by the same number of steps, and so is their ratio.) Below the least normal number not every key is a
float. Rounding to one may double the distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from probekit.metrics.protocol import State

__all__ = ["CELLS", "RANGES", "Floats", "Magnitudes", "absent", "raise_levels", "reach", "within"]

CELLS = 2**12  # of a half-line: 32 powers of two at 8 bits
RANGES = ("level", "first", "last", "exact", "focus")

_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
_NONE = torch.iinfo(torch.int64)  # the first and last cell of a half-line without data: the greatest, the least


@dataclass(frozen=True)
class Floats:
    """The keys of floats of a dtype, float32 or float64."""

    dtype: torch.dtype

    @property
    def mantissa(self) -> int:
        return 23 if self.dtype == torch.float32 else 52

    @property
    def plain(self) -> int:
        """The level of 8 significant bits."""
        return self.mantissa - 7

    @property
    def half(self) -> int:
        """What is added to keys, so that cells at level `plain` have the 8-bit numbers in their middle."""
        return 1 << (self.plain - 1)

    @property
    def levels(self) -> tuple[int, ...]:
        """All levels, up to that at which every float there is has a cell.

        That of 9 bits is left out: the data of most nodes then have the level of 8, which costs least.
        """
        return tuple(level for level in range(self.mantissa + 1) if level != self.plain - 1)

    def extended(self, magnitudes: Tensor) -> Tensor:
        """Keys of magnitudes that are given as the integers of their bits; below the least normal one they differ."""
        whole = _INTEGERS[self.dtype]
        raised = (magnitudes.to(whole).view(self.dtype) * 2.0**self.mantissa).view(whole)
        extended = raised.to(magnitudes.dtype) - (self.mantissa << self.mantissa)
        return torch.where((magnitudes > 0) & (magnitudes < 1 << self.mantissa), extended, magnitudes)

    def values(self, cells: Tensor, level: Tensor) -> Tensor:
        """The magnitudes that stand for the `cells` of a level, float64."""
        middle = torch.where(level > self.plain, (1 << level) >> 1, 0) + torch.where(level == self.plain, self.half, 0)
        return self.of_keys((cells << level) + middle)

    def of_keys(self, keys: Tensor) -> Tensor:
        """The magnitudes that have such keys, to which `half` was added, float64; rounded where there are none."""
        info, scale = torch.finfo(self.dtype), self.mantissa << self.mantissa
        lowest, highest = (1 << self.mantissa) - scale, _bits(info.max, self.dtype)
        keys = (keys - self.half).clamp(lowest, highest)
        normal = keys >= 1 << self.mantissa
        raised = torch.where(normal, keys, keys + scale).to(_INTEGERS[self.dtype]).view(self.dtype)
        return torch.where(normal, raised, raised * 2.0**-self.mantissa).double()

    def error(self, ranges: State) -> Tensor:
        """The largest distance of a value from that of its cell, relative to the value, at each half-line."""
        level = ranges["level"].double()
        error = torch.where(level > self.plain, level - 1, torch.where(level < self.plain, level, self.plain - 1))
        error = (error - self.mantissa).exp2()
        below = (ranges["first"] << ranges["level"]) - self.half < 1 << self.mantissa
        error = torch.where(below, 2 * error, error).clamp(max=1.0)
        return torch.where(ranges["exact"] | (ranges["level"] == 0), 0.0, error)


def _bits(value: float, dtype: torch.dtype) -> int:
    return int(torch.tensor(value, dtype=dtype).view(_INTEGERS[dtype]))


@cache
def _levels(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(Floats(dtype).levels, device=device)


@dataclass(frozen=True)
class Magnitudes:
    """The magnitudes of samples (sample, node), from the `bits` of these.

    `low` and `high` (node, half) are the least and the greatest key of each half-line, without 0 and infinities.
    `infinite` says whether there are infinities, `small` whether there are numbers below the least normal one.

    On a CPU torch adds, shifts and masks integers ten times as fast as it compares and chooses.
    """

    floats: Floats
    bits: Tensor
    low: Tensor
    high: Tensor
    infinite: bool
    small: bool

    @classmethod
    def of(cls, x: Tensor) -> Magnitudes:
        floats = Floats(x.dtype)
        bits = x.view(_INTEGERS[x.dtype])
        low, high, infinite = _extremes(bits, _bits(torch.inf, x.dtype))
        there, small = low <= high, bool((low < 1 << floats.mantissa).any())
        if small:
            low, high = floats.extended(low), floats.extended(high)
        low, high = ((each + floats.half).where(there, none) for each, none in ((low, _NONE.max), (high, _NONE.min)))
        return cls(floats, bits, low, high, infinite, small)

    @cached_property
    def key(self) -> Tensor:
        key = self.bits & torch.iinfo(self.bits.dtype).max
        return (self.floats.extended(key) if self.small else key).add_(self.floats.half)

    @cached_property
    def sign(self) -> Tensor:
        """−1 for negative numbers, else 0."""
        return self.bits >> (8 * self.bits.itemsize - 1)

    def places(self, ranges: State) -> Tensor:
        """The place of each sample among the cells of both half-lines, then 0 and −0; of an infinity, any."""
        level = ranges["level"]
        if not self.infinite and not self.small and _are_plain(self.floats, ranges):
            return _plain_places(self.bits)
        zero = (self.floats.half >> level) & (CELLS - 1)
        first = torch.tensor([0, CELLS], device=level.device)
        to_zero = torch.tensor([2 * CELLS, 2 * CELLS + 1], device=level.device) - first - zero
        places = (self.key >> self.of_half(level)).bitwise_and_(CELLS - 1)
        places.sub_(self.sign, alpha=CELLS)
        is_zero = ((self.bits & torch.iinfo(self.bits.dtype).max) - 1) >> (8 * self.bits.itemsize - 1)
        return places.add_(is_zero & self.of_half(to_zero))

    def exact(self, ranges: State) -> Tensor:
        """Whether all samples of a half-line are equal to what stands for their cells, (node, half)."""
        level = ranges["level"]
        odd = self.key & self.of_half((1 << level) - 1)
        odd ^= self.of_half(_residue(self.floats, level))
        wrong = torch.stack([(odd & ~self.sign).amax(0), (odd & self.sign).amax(0)], 1) > 0
        return ~wrong & (level <= self.floats.plain)

    def of_half(self, values: Tensor) -> Tensor:
        """For each sample the one of the `values` (node, half) that is of its half-line."""
        positive, negative = values.to(self.key.dtype).unbind(1)
        return (self.sign & (negative - positive)).add_(positive)


def _extremes(bits: Tensor, infinite: int) -> tuple[Tensor, Tensor, bool]:
    """The least and the greatest magnitude of each half-line as integers, (node, half), int64, low > high for none.

    0, infinities and NaN, which has no place, don't count. The third says whether there are infinities or NaN.
    """
    info = torch.iinfo(bits.dtype)
    mirrored = bits ^ info.min
    # Less 1, so that 0 is the greatest.
    low = torch.stack([(mirrored - 1).amin(0) + 1, (bits - 1).amin(0) + 1], 1)
    high = torch.stack([bits.amax(0), mirrored.amax(0)], 1)
    if (high >= infinite).any():
        return *_extremes(torch.where((bits & info.max) >= infinite, 0, bits), infinite)[:2], True
    there = high > 0
    return (low & info.max).long().where(there, 1 << 62), high.long().where(there, 0), False


def _are_plain(floats: Floats, ranges: State) -> bool:
    """Whether all half-lines have cells that the upper 16 bits of a float32 tell, as they mostly do."""
    if floats.dtype != torch.float32:
        return False
    absent, largest = ranges["first"] > ranges["last"], _bits(torch.inf, floats.dtype) >> floats.plain
    return bool((absent | ((ranges["level"] == floats.plain) & (ranges["last"] < largest))).all())


def _plain_places(bits: Tensor) -> Tensor:
    floats = Floats(torch.float32)
    upper = (bits + floats.half).bitwise_right_shift_(floats.plain).bitwise_and_(0xFFFF)
    return _plain_table(bits.device).index_select(0, upper.reshape(-1)).view(bits.shape)


@cache
def _plain_table(device: torch.device) -> Tensor:
    """The place of each number by its upper 16 bits."""
    upper = torch.arange(2**16, dtype=torch.int32)
    magnitude, negative = upper & 0x7FFF, upper >> 15
    places = torch.where(magnitude > 0, (magnitude & (CELLS - 1)) + CELLS * negative, 2 * CELLS + negative)
    return places.to(device)


def _residue(floats: Floats, level: Tensor) -> Tensor:
    """What the lower bits of a key are at a number that stands for its cell, up to 8 bits."""
    return torch.where(level == floats.plain, floats.half, 0)


def absent(nodes: int, device: torch.device) -> State:
    """The half-lines of `nodes` nodes without data, (node, half).

    That is the `level`, the `first` and `last` cell, whether these are `exact`, and the `focus`, −1 for none.
    """
    level = torch.zeros(nodes, 2, dtype=torch.int64, device=device)
    first, last = torch.full_like(level, _NONE.max), torch.full_like(level, _NONE.min)
    exact, focus = torch.ones_like(level, dtype=torch.bool), torch.full_like(level, -1)
    return {"level": level, "first": first, "last": last, "exact": exact, "focus": focus}


def within(ranges: State, low: Tensor, high: Tensor) -> bool:
    """Whether the half-lines reach from the key `low` to the key `high` already."""
    level = ranges["level"]
    return bool(((low >> level >= ranges["first"]) & (high >> level <= ranges["last"])).all())


def reach(floats: Floats, ranges: State, low: Tensor, high: Tensor) -> State:
    """The half-lines, but for `exact` and `focus`, once they also reach from the key `low` to the key `high`."""
    low = torch.minimum(low, ranges["first"] << ranges["level"])
    high = torch.maximum(high, ranges["last"] << ranges["level"])
    levels = _levels(floats.dtype, low.device)
    # Halves of cell numbers, since the differences of the numbers themselves may be too large for an integer.
    wide = (high[..., None] >> levels >> 1) - (low[..., None] >> levels >> 1) >= CELLS // 2
    there = low <= high
    level = torch.maximum(ranges["level"], torch.where(there, levels[wide.sum(-1).clamp(max=len(levels) - 1)], 0))
    first, last = torch.where(there, low >> level, _NONE.max), torch.where(there, high >> level, _NONE.min)
    return {"level": level, "first": first, "last": last}


def raise_levels(floats: Floats, cells: Tensor, ranges: State, level: Tensor) -> None:
    """Bring half-lines to a higher `level` (node, half): change their counts `cells` (class, node, half, cell)."""
    chosen = (level > ranges["level"]) & (ranges["first"] <= ranges["last"])
    if not chosen.any():
        return
    nodes, halves = chosen.nonzero(as_tuple=True)
    before, after, last = (each[chosen][:, None] for each in (ranges["level"], level, ranges["last"]))
    places = torch.arange(CELLS, device=cells.device)
    numbers = last - ((last - places) & (CELLS - 1))
    counts = cells[:, nodes, halves]
    into = ((numbers << before >> after) & (CELLS - 1)).expand(counts.shape)
    cells[:, nodes, halves] = torch.zeros_like(counts).scatter_add_(2, into, counts)
    fits = ((numbers << before) & ((1 << after) - 1) == _residue(floats, after)) & (after <= floats.plain)
    ranges["exact"][nodes, halves] &= (fits | ~counts.any(0)).all(1)
