"""Column metrics without the columns: counts in fixed cells, which add up, and samples made of them.

A value is counted as the bfloat16 that is nearest to it, which the float32's upper 16 bits are: cells of equal width
relative to the value, whose edges depend on no data. Where the activation is known to lie from 0 to 1, what is counted
is its distance from the nearer of both, so that cells are narrow at both ends, nearly even in the logit. Few bits are
kept of what is far too small or too large for an activation, so that a node takes the same memory whatever it gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probekit.errors import DataError
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.moments import class_counts
from probekit.metrics.protocol import Spec, State

__all__ = ["Sketch"]

_INFINITE = 0x7F80  # a bfloat16's bits
_HALF = 0x3F00
_OCTAVE = 2**7  # bfloat16s from a power of two to the next
_COARSE = 2**6  # those that share a cell outside the range in which each has its own
_ERROR = 2**-8  # how far a value is at most from the bfloat16 nearest to it, relative to the value
_FEWEST = 64  # samples that are made of a class however small its share is, if it has as many
_LARGEST = 2**31 - 1  # a count
_PIECE = 32  # nodes


@dataclass(frozen=True)
class Sketch:
    """The distribution of every class at every node in bounded memory, from which any column metric is approximated.

    `init`, `update` and `merge` are those of a streaming metric, but that `update` counts into the state that it is
    given. Of a state, `blocks` makes blocks of samples, for each column metric to compute from as from real ones:

    - Class c has m_c samples at each node, the order statistics of ranks ⌊(i + ½) n_c / m_c⌋: as a distribution they
      are 1 / (2 m_c) away at most. m_c is n_c where all classes together have at most `samples` a class. Else classes
      share that many in proportion to their n_c, so that they weigh in a mixture what they should; of a class with a
      small share 64 are made, or n_c. For equal classes m_c is `samples`, and the distance 0.0001. What a metric
      corrects or shuffles by the number of samples, such as the bias of mutual information, it does by m_c.
    - A sample is within 2^−8 of its value (0.4 %), relative to it, where its magnitude is from 2^−17 to 2^10 (8e-6 to
      1024), and within a quarter elsewhere. 0, the infinities and all numbers of 8 significant bits in that range (6,
      −1, ½) are exact. What is below 2^−126 counts as 0, from 2^128 − 2^119 on as infinite.
    - Where the spec's bounds are (0, 1), a sample is within 2^−8 of its distance from the nearer bound, where that is
      at least 2^−30, and 0 and 1 are exact. What is outside, which rounding may bring about, counts as the bound.

    Samples keep their order, and those of one cell become ties: overlap, KS and AUROC are those of the activation as
    rounded, to the error of ranks. Only classes that differ within 0.8 % of a value, as near the 1 of a saturated tanh,
    are told apart less well. `errors` says what the bounds are for a state.

    The state is `count` (class), int64, and `signed` or `unit` (class, node, cell), int32, with 7,823 or 7,811 cells:
    31 KB a class and node, 63 MB for 10 classes at 200 nodes, whatever the number of samples. All are integers: split
    and merged in any order they are the same. Other classes may be appended along the first axis.

    Example:
        >>> sketch, cpu = Sketch(), torch.device("cpu")
        >>> state = sketch.init(Spec(nodes=1, classes=1, dtype=torch.float32, device=cpu))
        >>> x = torch.arange(1001.0)[:, None]
        >>> state = sketch.update(state, x, torch.zeros(1001, dtype=torch.int64))
        >>> np.median(sketch.block(state)[0], axis=1)
        array([500.], dtype=float32)
    """

    samples: int = 4096
    name: ClassVar[str] = "sketch"

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise DataError(f"Sketch(samples={self.samples!r}): at least 2 samples are made of a class.")

    def init(self, spec: Spec) -> State:
        """The state of no samples."""
        name = _chosen(spec)
        shape = spec.classes, spec.nodes, len(_scale(name).values)
        return {
            "count": torch.zeros(spec.classes, dtype=torch.int64, device=spec.device),
            name: torch.zeros(shape, dtype=torch.int32, device=spec.device),
        }

    def state_bytes(self, spec: Spec) -> int:
        """Bytes of a state."""
        return spec.classes * (8 + 4 * spec.nodes * len(_scale(_chosen(spec)).values))

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        """`state` itself, to which the batch `x` (batch, node), without NaN, of class codes `y` (batch) is added."""
        name = _name(state)
        cells = state[name]
        _, nodes, width = cells.shape
        table = _table(name, x.device)
        places = table.index_select(0, _keys(x, name).reshape(-1)).view(x.shape)
        places += torch.arange(nodes, device=x.device) * width
        places += (y * (nodes * width))[:, None]
        cells.view(-1).scatter_add_(0, places.view(-1), cells.new_ones(places.numel()))
        state["count"] += class_counts(y, len(cells))
        return state

    def merge(self, a: State, b: State) -> State:
        """The state of the samples of both."""
        return {key: a[key] + b[key] for key in a}

    def block(self, state: State) -> Block:
        """The samples of all nodes at once: 16 KB a class and node, and 0.2 MB a node for as long as it takes."""
        return next(self.blocks(state, max(1, state[_name(state)].shape[1])))

    def blocks(self, state: State, nodes: int = _PIECE) -> Iterator[Block]:
        """Blocks of at most `nodes` nodes, in order.

        Raises:
            DataError: a class has more samples than a cell can count, 2,147,483,647.
        """
        counts = _counts(state)
        kept = self._kept(counts)
        offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        values = torch.from_numpy(_scale(_name(state)).values)
        for cells in state[_name(state)].split(nodes, dim=1):
            made = np.empty((cells.shape[1], offsets[-1]), np.float32)
            for code in np.flatnonzero(kept):
                part = _spread(cells[code].cpu(), values, int(counts[code]), int(kept[code]))
                made[:, offsets[code] : offsets[code + 1]] = part.numpy()
            yield Block(made, offsets)

    def errors(self, state: State) -> dict[str, float]:
        """How far the samples of `blocks` are from the real ones at most, as attributes of results that come of them.

        `rank_error` is a share of the samples of a class: the largest 1 / (2 m_c), and 0 where each sample is there.
        `value_error` is relative to the value, or its distance from the nearer of the bounds 0 and 1; it is a quarter
        instead for as many samples as `wide_share` says, the largest share of a class at a node.
        """
        counts, name = _counts(state), _name(state)
        kept = self._kept(counts)
        rank = (0.5 / kept[kept < counts]).max(initial=0)
        wide = state[name][..., torch.from_numpy(_scale(name).wide).to(state[name].device)]
        share = (wide.sum(2) / state["count"].clamp(min=1)[:, None].double()).cpu().numpy().max(initial=0)
        return {"rank_error": float(rank), "value_error": _ERROR, "wide_share": float(share)}

    def _kept(self, counts: Codes) -> Codes:
        """How many samples are made of each class, (class,)."""
        total, most = int(counts.sum()), self.samples * np.count_nonzero(counts)
        if total <= most:
            return counts
        kept: Codes = np.maximum(counts * most // total, np.minimum(counts, _FEWEST))
        return kept


@dataclass(frozen=True)
class _Scale:
    """The cells in ascending order: the cell of each bfloat16, by its bits as an int16 from the least one on.

    Of each cell, `values` is what stands for it, float32, and `wide` whether it holds several bfloat16s that aren't 0.
    """

    cells: Codes
    values: Array
    wide: npt.NDArray[np.bool_]


@cache
def _scale(name: str) -> _Scale:
    # Of the unit's upper half what is counted is the distance from 1, as a negative number.
    most, narrow, mirror = (_INFINITE, (-17, 10), 0) if name == "signed" else (_HALF, (-30, 0), 2 * _HALF)
    bits = np.arange(-(2**15), 2**15)
    magnitude = (bits & 0x7FFF).clip(max=most)
    group = _grouped(magnitude, *narrow)
    order, cells = np.unique(np.where(bits < 0, mirror - group, group), return_inverse=True)
    first, last = np.full(len(order), most), np.zeros(len(order), np.int64)
    np.minimum.at(first, cells, magnitude)
    np.maximum.at(last, cells, magnitude)
    middle = np.where(first > 0, (_floats(first) + _floats(last)) / 2, 0)
    values = np.where(order <= mirror // 2, middle, 1 - middle) if mirror else np.copysign(middle, order)
    return _Scale(cells, values.astype(np.float32), (first > 0) & (first < last))


def _grouped(magnitude: Codes, low: int, high: int) -> Codes:
    """The first of the magnitudes, all of them a bfloat16's bits, in the same cell: itself from 2^`low` to 2^`high`."""
    narrow = (magnitude >= (127 + low) * _OCTAVE) & (magnitude < (127 + high) * _OCTAVE)
    normal = magnitude >= _OCTAVE
    return np.where(narrow, magnitude, np.where(normal, magnitude // _COARSE * _COARSE, 0))


def _floats(bits: Codes) -> Array:
    """The numbers, float64, of which a bfloat16 has these bits."""
    return (bits << 16).astype(np.uint32).view(np.float32).astype(np.float64)


@cache
def _table(name: str, device: torch.device) -> Tensor:
    return torch.from_numpy(_scale(name).cells).to(device)


def _keys(x: Tensor, name: str) -> Tensor:
    """The place in a table of the cells of each value, int32."""
    if name == "unit":
        x = x.clamp(0, 1)
        x = torch.minimum(x, 1 - x).copysign_(0.5 - x)  # 1 becomes -0
    return x.to(torch.bfloat16).view(torch.int16).int().add_(2**15)


def _chosen(spec: Spec) -> str:
    return "unit" if spec.bounds == (0, 1) else "signed"


def _name(state: State) -> str:
    return "unit" if "unit" in state else "signed"


def _counts(state: State) -> Codes:
    counts: Codes = state["count"].cpu().numpy()
    if counts.max(initial=0) > _LARGEST:
        raise DataError(
            f"A class has {counts.max()} samples, and a sketch counts up to {_LARGEST} of each. Measure fewer, or "
            "capture a store and measure that."
        )
    return counts


def _spread(cells: Tensor, values: Tensor, count: int, kept: int) -> Tensor:
    """Of a class with `count` samples in `cells` (node, cell), `kept` evenly spaced ones: (node, kept), ascending."""
    up_to = cells.cumsum(1, dtype=torch.int64)
    # Those of which the rank, the floor of (i + 1/2) count / kept, is below.
    below = (2 * kept * up_to + (count - 1)) // (2 * count)
    repeats = below.diff(dim=1, prepend=below.new_zeros(len(cells), 1))
    return values.expand(cells.shape).reshape(-1).repeat_interleave(repeats.view(-1)).view(len(cells), kept)
