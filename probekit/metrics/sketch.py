"""Column metrics without the columns: the samples themselves while they are few, then counts in cells, which add up.

The cells are those of `probekit.metrics._kernels.float_cells`: as fine as the range of a node's values lets them be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit._beats import in_turn
from probekit.errors import DataError
from probekit.metrics._kernels.class_sums import class_counts
from probekit.metrics._kernels.counted_cells import (
    ABOVE,
    BELOW,
    WIDTH,
    counted,
    fine_halves,
    floats_of,
    halves,
    hiding,
    line_name,
    ranges_of,
    represented,
    shares,
)
from probekit.metrics._kernels.crowded import FINE, find_foci, fold, into_fine, most_level
from probekit.metrics._kernels.float_cells import Magnitudes, absent, raise_levels, reach, within
from probekit.metrics._kernels.lines import line_of, place_on_line
from probekit.metrics.block import Block, Codes
from probekit.metrics.protocol import Spec, State
from probekit.metrics.resolution import Resolution, reweighted

__all__ = ["Sketch"]

_FEWEST = 64  # samples that represent a class with a small share, if it has as many
_LARGEST = 2**31 - 1  # the largest count
_NODES = 32  # in a block
_TOGETHER = 128  # nodes that an update handles together on a CPU, whose counts then stay in the cache
_VALUES = 2**26  # in a block
_COUNTS = 2**22  # in order at a time
_SCRATCH = 200_000  # bytes per node, while a block is made
_ROWS = 2048  # samples that are counted together when the first are


@dataclass(frozen=True)
class Sketch:
    """The distribution of every class at every node in bounded memory, from which any column metric is computed.

    `init`, `update` and `merge` are those of a streaming metric, except that `update` changes the state that it is
    given. `blocks` makes blocks of samples from a state, from which column metrics are computed as from real samples.

    - Up to 8,195 samples (float64: 4,097) times the number of classes, the samples themselves are the state, and the
      blocks are exact.
    - Of more samples the state has counts in cells. A cell is an interval of positive or negative values; 0 and the
      infinities have cells of their own. The positive values of a node have 4,096 cells, and so have the negative.
      Cells are as wide as the range of these values asks for, relative to the value: 2^−7 (1 %) where the greatest
      magnitude is 2^8 to 2^31 times the least, at most 2^−11 where it is up to twice the least, and narrower where both
      are nearer to each other.
    - Where the first samples crowd in one cell, as next to the minimum of a GELU, cells around the place where they are
      densest are the narrower the nearer they are to it: 32 for each halving of the distance, within
      an eighth of a power of two.
    - Class c then has m_c samples at each node, the order statistics of ranks ⌊(i + ½) n_c / m_c⌋, each as the value
      that stands for its cell. m_c is n_c where the classes have on average at most `samples` samples. Otherwise the
      classes divide `samples` times their number in proportion to n_c, so that they keep their weights in a mixture; a
      class with a small share has 64 samples, or n_c.
    - Where the spec's bounds are (0, 1) or (−1, 1), cells of values that are nearer to a bound than ½ count the
      distance from it, and a bound itself has a cell of its own.

    Samples keep their order, and those in one cell become ties. `resolution` bounds what this changes, for the data
    that the state has seen. Where all values of a sign are numbers of so few bits that each stands for its own cell
    (small integers, up to 8 bits at any range up to 32 powers of two), they are exact.

    The state is `count` (class), int64, and either the samples `x` (sample, node) with their classes `y` (sample), or
    the counts `signed`, `unit` or `symmetric` (class, node, cell), int32, and which values the cells hold, (node,
    half). That is at most 38 KB per class and node, and twice that while the first become the second. The counts depend
    on the samples alone, not on how these are split and merged, but that the first samples tell where cells are finer.

    Example:
        >>> sketch, cpu = Sketch(), torch.device("cpu")
        >>> state = sketch.init(Spec(nodes=1, classes=1, dtype=torch.float32, device=cpu))
        >>> x = torch.arange(1001.0)[:, None]
        >>> state = sketch.update(state, x, torch.zeros(1001, dtype=torch.int64))
        >>> np.median(sketch.block(state)[0], axis=1)
        array([500.], dtype=float32)
    """

    samples: int = 8192
    name: ClassVar[str] = "sketch"

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise DataError(f"Sketch(samples={self.samples!r}): samples must be at least 2.")

    def init(self, spec: Spec) -> State:
        """The state of no samples."""
        count = torch.zeros(spec.classes, dtype=torch.int64, device=spec.device)
        cells = torch.zeros(spec.classes, spec.nodes, 0, dtype=torch.int32, device=spec.device)
        return {
            "count": count,
            "x": torch.empty(0, spec.nodes, dtype=spec.dtype, device=spec.device),
            "y": count.new_empty(0),
            line_of(spec.bounds): cells,
            **absent(spec.nodes, spec.device),
        }

    def state_bytes(self, spec: Spec, samples: int | None = None) -> int:
        """The most bytes that a state holds, of at most so many `samples`."""
        each, room = spec.dtype.itemsize * spec.nodes + 8, _room(spec.classes, spec.dtype)
        kept = room if samples is None else min(2 * samples, room)  # in a memory that doubles
        counts = 4 * spec.classes * spec.nodes * (WIDTH + 2 * FINE) if samples is None or samples > room else 0
        return 8 * spec.classes + 66 * spec.nodes + max(each * kept, counts)

    def memory(self, spec: Spec, samples: int) -> int:
        """The most bytes that a state takes while it grows, its samples become counts, or a block is made of it."""
        state, kept = self.state_bytes(spec, samples), min(samples, (self.samples + _FEWEST) * spec.classes)
        block = min(spec.nodes, _together(kept)) * (kept * spec.dtype.itemsize + _SCRATCH)
        return state + max(state, block)

    def grow(self, state: State, classes: int) -> State:
        """The state with room for so many classes."""
        name, more = line_name(state), classes - len(state["count"])
        cells = state[name]
        none = cells.new_zeros(more, *cells.shape[1:])
        count = torch.cat([state["count"], state["count"].new_zeros(more)])
        return state | {"count": count, name: torch.cat([cells, none])}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        """`state` itself, after adding the batch `x` (batch, node), without NaN, with class codes `y` (batch)."""
        x, classes = x.to(state["x"].dtype), len(state["count"])
        if not _counted(state):
            filled = int(state["count"].sum())
            if filled + len(x) <= _room(classes, x.dtype):
                _append(state, filled, x, y)
            else:
                _begin_counting(state, filled)
        if _counted(state):
            _add(state, x, y)
        state["count"] += class_counts(y, classes)
        return state

    def merge(self, a: State, b: State) -> State:
        """The state of the samples of both states."""
        a, b = ({key: each.clone() for key, each in state.items()} for state in (a, b))
        numbers = [int(state["count"].sum()) for state in (a, b)]
        if _counted(a) and _counted(b):
            return _joined(a, b)
        count, kept = a["count"] + b["count"], not _counted(a) and not _counted(b)
        if kept and sum(numbers) <= _room(len(count), a["x"].dtype):
            _append(a, numbers[0], b["x"][: numbers[1]], b["y"][: numbers[1]])
            return a | {"count": count}
        # Samples go into the cells of the other state, or, where it has none either, of that which has more to tell
        # where they should be finer.
        into_b = _counted(b) if not kept else numbers[0] < numbers[1]
        into, others, number = (b, a, numbers[0]) if into_b else (a, b, numbers[1])
        if kept:
            _begin_counting(into, max(numbers))
        _add_all(into, others["x"][:number], others["y"][:number])
        return into | {"count": count}

    def block(self, state: State) -> Block:
        """The samples of all nodes at once: at most 16 KB per class and node, and temporarily 0.2 MB per node."""
        return next(self.blocks(state, max(1, state["x"].shape[1])))

    def blocks(self, state: State, nodes: int | None = None) -> Iterator[Block]:
        """Blocks of at most `nodes` nodes, in order; by default of 32, or of as many as have 64 million samples.

        Raises:
            DataError: a class has more samples than a cell can count, 2,147,483,647.
        """
        counts, width = _counts(state), state["x"].shape[1]
        kept = self._kept(counts) if _counted(state) else counts
        together = nodes or _together(int(kept.sum()))
        for part in in_turn(_parts(width, together)):
            yield represented(state, part, counts, kept) if _counted(state) else _samples(state, part)

    def resolution(self, state: State) -> Resolution:
        """What the samples of `blocks` can't tell of the real ones, of the data that the state has seen."""
        counts, nodes = _counts(state), state["x"].shape[1]
        if not _counted(state):
            none = np.zeros((len(counts), nodes))
            return Resolution(counts, counts, none, none, np.zeros(nodes, np.int64), np.zeros(nodes, np.bool_), 0.0)
        kept = self._kept(counts)
        # By how much the share of a value among all samples may be another one in the block.
        loose = float((np.count_nonzero(counts) + 1) / kept.sum() + 2 * reweighted(counts, kept))
        loose *= bool((kept < counts).any())
        parts = [shares(state, part, loose) for part in _parts(nodes, _TOGETHER)]
        largest, squares, atoms, ambiguous = (np.concatenate(each, axis=-1) for each in zip(*parts, strict=True))
        value_error = float(floats_of(state).error(ranges_of(state)).max())
        together = _parts(nodes, max(1, _COUNTS // (len(counts) * WIDTH)))
        return Resolution(
            counts,
            kept,
            largest,
            squares,
            atoms,
            ambiguous,
            value_error,
            lambda: (counted(state, part) for part in together),
        )

    def _kept(self, counts: Codes) -> Codes:
        """The number of samples that represent each class, (class,)."""
        total, most = int(counts.sum()), self.samples * np.count_nonzero(counts)
        if total <= most:
            return counts
        kept: Codes = np.maximum(counts * most // total, np.minimum(counts, _FEWEST))
        return kept


def _together(samples: int) -> int:
    """The number of nodes in a block of so many samples."""
    return max(1, min(_NODES, _VALUES // max(1, samples)))


def _parts(nodes: int, together: int) -> list[slice]:
    """All nodes, so many at a time."""
    return [slice(at, min(at + together, nodes)) for at in range(0, max(1, nodes), together)]


def _room(classes: int, dtype: torch.dtype) -> int:
    """The number of samples that take as much memory as counts in cells."""
    return classes * WIDTH * 4 // dtype.itemsize


def _counted(state: State) -> bool:
    return state[line_name(state)].shape[2] > 0


def _append(state: State, filled: int, x: Tensor, y: Tensor) -> None:
    """Add samples to the first `filled`, in a memory that doubles when it is too small."""
    end = filled + len(x)
    for key, batch in (("x", x), ("y", y)):
        if len(state[key]) < end:
            room = min(max(2 * filled, end), _room(len(state["count"]), x.dtype))
            before, state[key] = state[key], batch.new_empty(room, *batch.shape[1:])
            state[key][:filled] = before[:filled]
        state[key][filled:end] = batch


def _begin_counting(state: State, filled: int) -> None:
    """Count the first `filled` samples in cells instead of keeping them."""
    name, x, y = line_name(state), state["x"][:filled], state["y"][:filled]
    state[name] = state[name].new_zeros(*state[name].shape[:2], WIDTH)
    state["x"], state["y"] = x[:0].clone(), y[:0].clone()
    for few in x.split(_ROWS) if filled else ():  # first, so that no counts have to move
        _widen(state, slice(None), Magnitudes.of(place_on_line(few, name)))
    _add_all(state, x, y)
    _look_closer(state, x, y)


def _add_all(state: State, x: Tensor, y: Tensor) -> None:
    for few, codes in zip(x.split(_ROWS), y.split(_ROWS), strict=True):
        _add(state, few, codes)


def _look_closer(state: State, x: Tensor, y: Tensor) -> None:
    """Count the first samples again, with finer cells where they crowd."""
    name, numbers = line_name(state), torch.bincount(y, minlength=len(state["count"]))
    for part in _parts(x.shape[1], _TOGETHER) if len(x) else ():
        shares = (cells / number for cells, number in zip(state[name][:, part], numbers, strict=True) if number)
        mixture = sum(shares) / (numbers > 0).sum() * hiding(state, part)
        line = place_on_line(x[:, part], name)
        state["focus"][part] = find_foci(floats_of(state), line, halves(mixture[None])[0], ranges_of(state, part))
    if (state["focus"] >= 0).any():
        shape = state[name].shape[:2]
        state[name] = state[name].new_zeros(0)  # which frees the counts so far
        state[name] = state[name].new_zeros(*shape, WIDTH + 2 * FINE)
        _add_all(state, x, y)


def _add(state: State, x: Tensor, y: Tensor) -> None:
    """Count samples in their cells."""
    name, nodes, width = line_name(state), x.shape[1], state[line_name(state)].shape[2]
    together = min(_TOGETHER if x.device.type == "cpu" else nodes, nodes)
    short = torch.int32 if state[name].numel() < 2**31 else torch.int64  # of half the length, twice as fast
    rows, ones = (y * (nodes * width))[:, None].to(short), state[name].new_ones(len(x) * together)
    for start in range(0, nodes, together) if len(x) else ():
        part = slice(start, min(start + together, nodes))
        index = _places(state, part, place_on_line(x[:, part], name)).to(short).add_(rows).long().reshape(-1)
        state[name].view(-1)[start * width :].scatter_add_(0, index, ones[: len(index)])


def _places(state: State, part: slice, line: Tensor) -> Tensor:
    """The place of each number of `line` (sample, node) among the cells of some nodes, which are made wide enough."""
    ranges, samples = ranges_of(state, part), Magnitudes.of(line)
    _widen(state, part, samples)
    if (ranges["exact"] & (ranges["level"] > 0)).any():
        ranges["exact"] &= samples.exact(ranges)
    places, width = samples.places(ranges), state[line_name(state)].shape[2]
    if (ranges["focus"] >= 0).any():
        places = into_fine(samples, places, ranges["focus"], WIDTH)
    if samples.infinite:
        places.masked_fill_(line == torch.inf, ABOVE).masked_fill_(line == -torch.inf, BELOW)
    return places.add_(torch.arange(line.shape[1], device=line.device, dtype=places.dtype), alpha=width)


def _widen(state: State, part: slice, samples: Magnitudes) -> None:
    """Make the cells of some nodes wide enough for samples."""
    ranges = ranges_of(state, part)
    if within(ranges, samples.low, samples.high):
        return
    reached = reach(samples.floats, ranges, samples.low, samples.high)
    _raise(state, part, reached["level"])
    for key, value in reached.items():
        ranges[key].copy_(value)


def _raise(state: State, part: slice, level: Tensor, apart: Tensor | bool = False) -> None:
    """Bring cells to a higher level; where a focus is `apart` from another state's, its fine cells are given up."""
    floats, cells, ranges = floats_of(state), state[line_name(state)][:, part], ranges_of(state, part)
    if cells.shape[2] > WIDTH:
        fold(floats, halves(cells), fine_halves(cells), ranges, (level > most_level(floats)) | apart)
    raise_levels(floats, halves(cells), ranges, level)


def _joined(a: State, b: State) -> State:
    """`a` after the counts of `b` were added; both change."""
    floats, name = floats_of(a), line_name(a)
    keys = [ranges_of(b)[key] for key in ("first", "last")]
    reached = reach(floats, ranges_of(a), *(each << b["level"] for each in keys))
    apart = a["focus"] != b["focus"]
    for state in (a, b):
        _raise(state, slice(None), reached["level"], apart)
    long, short = sorted((a[name], b[name]), key=lambda cells: -cells.shape[2])
    long[..., : short.shape[2]] += short
    sums = {"count": a["count"] + b["count"], name: long}
    return a | reached | sums | {"exact": a["exact"] & b["exact"]}


def _samples(state: State, part: slice) -> Block:
    """The block of some nodes, of the samples that were kept."""
    number = int(state["count"].sum())
    x, y = state["x"][:number, part], state["y"][:number]
    return Block.from_samples(x.cpu().numpy(), y.cpu().numpy(), len(state["count"]))


def _counts(state: State) -> Codes:
    counts: Codes = state["count"].cpu().numpy()
    if counts.max(initial=0) > _LARGEST:
        raise DataError(
            f"A class has {counts.max()} samples, but a sketch counts at most {_LARGEST} of each. Measure fewer, or "
            "capture a store and measure that."
        )
    return counts
