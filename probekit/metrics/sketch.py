"""Column metrics without the columns: counts in fixed cells, which add up, and representative samples made from them.

A value is counted as its nearest bfloat16, the upper 16 bits of a float32. The cells thus have equal width relative to
the value, and their edges don't depend on the data. Where the activation is known to lie between 0 and 1, its distance
from the nearer bound is counted, so that cells are narrow at both ends, nearly even in the logit. Values that are far
too small or too large for an activation keep fewer bits, so that every node takes the same memory.
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
from probekit.metrics._kernels.class_sums import class_counts
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.protocol import Spec, State

__all__ = ["Sketch"]

_INFINITE = 0x7F80  # a bfloat16's bits
_HALF = 0x3F00
_OCTAVE = 2**7  # bfloat16s from a power of two to the next
_COARSE = 2**6  # bfloat16s that share a cell outside the range in which each has its own
_ERROR = 2**-8  # largest distance of a value from its nearest bfloat16, relative to the value
_FEWEST = 64  # samples that represent a class with a small share, if it has as many
_LARGEST = 2**31 - 1  # the largest count
_NODES = 32  # in a block


@dataclass(frozen=True)
class Sketch:
    """The distribution of every class at every node in bounded memory, from which any column metric is approximated.

    `init`, `update` and `merge` are those of a streaming metric, except that `update` changes the state that it is
    given. `blocks` makes blocks of representative samples from a state, from which column metrics are computed as from
    real samples:

    - Class c has m_c samples at each node, the order statistics of ranks ⌊(i + ½) n_c / m_c⌋. Their distribution
      function differs from that of the real samples by at most 1 / (2 m_c). m_c is n_c where the classes have on
      average at most `samples` samples. Otherwise the classes divide `samples` times their number in proportion to
      n_c, so that they keep their weights in a mixture; a class with a small share has 64 samples, or n_c. For equal
      classes m_c is `samples`, and the difference 0.0001. A correction or shuffle that depends on the number of
      samples, such as the bias correction of mutual information, uses m_c.
    - A sample is within 2^−8 (0.4 %) of its value, relative to the value, where its magnitude is from 2^−17 to 2^10
      (8e-6 to 1024), and within a quarter elsewhere. 0, the infinities and all numbers of 8 significant bits in that
      range (6, −1, ½) are exact. Magnitudes below 2^−126 count as 0, those from 2^128 − 2^119 on as infinite.
    - Where the spec's bounds are (0, 1), a sample is within 2^−8 of its distance from the nearer bound, relative to
      that distance, if it is at least 2^−30; 0 and 1 are exact. Values outside the bounds, which rounding may cause,
      count as the bound.

    Samples keep their order, and samples in one cell become ties: overlap, KS and AUROC are those of the rounded
    activation, up to the error of ranks. Only classes that differ by less than 0.8 % of a value, as near the 1 of a
    saturated tanh, are distinguished less well. `errors` gives the error bounds for a state.

    The state is `count` (class), int64, and `signed` or `unit` (class, node, cell), int32, with 7,823 or 7,811 cells:
    31 KB per class and node, 63 MB for 10 classes at 200 nodes, whatever the number of samples. All are integers, so
    the result doesn't depend on how the samples are split and merged. More classes may be appended along the first
    axis.

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
            raise DataError(f"Sketch(samples={self.samples!r}): samples must be at least 2.")

    def init(self, spec: Spec) -> State:
        """The state of no samples."""
        name = _chosen(spec)
        shape = spec.classes, spec.nodes, len(_scale(name).values)
        return {
            "count": torch.zeros(spec.classes, dtype=torch.int64, device=spec.device),
            name: torch.zeros(shape, dtype=torch.int32, device=spec.device),
        }

    def state_bytes(self, spec: Spec) -> int:
        """The size of a state in bytes."""
        return spec.classes * (8 + 4 * spec.nodes * len(_scale(_chosen(spec)).values))

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        """`state` itself, after adding the batch `x` (batch, node), without NaN, with class codes `y` (batch)."""
        name = _name(state)
        cells = state[name]
        _, nodes, width = cells.shape
        table = _table(name, x.device)
        index = table.index_select(0, _keys(x, name).reshape(-1)).view(x.shape)
        index += torch.arange(nodes, device=x.device) * width
        index += (y * (nodes * width))[:, None]
        cells.view(-1).scatter_add_(0, index.view(-1), cells.new_ones(index.numel()))
        state["count"] += class_counts(y, len(cells))
        return state

    def merge(self, a: State, b: State) -> State:
        """The state of the samples of both states."""
        return {key: a[key] + b[key] for key in a}

    def block(self, state: State) -> Block:
        """The samples of all nodes at once: 16 KB per class and node, and temporarily 0.2 MB per node."""
        return next(self.blocks(state, max(1, state[_name(state)].shape[1])))

    def blocks(self, state: State, nodes: int = _NODES) -> Iterator[Block]:
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
                of_class = _spread(cells[code].cpu(), values, int(counts[code]), int(kept[code]))
                made[:, offsets[code] : offsets[code + 1]] = of_class.numpy()
            yield Block(made, offsets)

    def errors(self, state: State) -> dict[str, float]:
        """Bounds of the differences between the samples of `blocks` and the real ones, for the attributes of results.

        `rank_error` is a share of the samples of a class: the largest 1 / (2 m_c), or 0 where no sample is left out.
        `value_error` is relative to the value, or to its distance from the nearer of the bounds 0 and 1. For the share
        `wide_share` of the samples, the largest of any class at any node, the error is a quarter instead.
        """
        counts, name = _counts(state), _name(state)
        kept = self._kept(counts)
        rank = (0.5 / kept[kept < counts]).max(initial=0)
        wide = state[name][..., torch.from_numpy(_scale(name).wide).to(state[name].device)]
        share = (wide.sum(2) / state["count"].clamp(min=1)[:, None].double()).cpu().numpy().max(initial=0)
        return {"rank_error": float(rank), "value_error": _ERROR, "wide_share": float(share)}

    def _kept(self, counts: Codes) -> Codes:
        """The number of samples that represent each class, (class,)."""
        total, most = int(counts.sum()), self.samples * np.count_nonzero(counts)
        if total <= most:
            return counts
        kept: Codes = np.maximum(counts * most // total, np.minimum(counts, _FEWEST))
        return kept


@dataclass(frozen=True)
class _Scale:
    """The cells in ascending order.

    `cells` has the cell of each bfloat16, indexed by its bits as an int16 from the least one on. `values`, float32,
    has the value that represents each cell, and `wide` says whether the cell has several bfloat16s other than 0.
    """

    cells: Codes
    values: Array
    wide: npt.NDArray[np.bool_]


@cache
def _scale(name: str) -> _Scale:
    # In the upper half of [0, 1] the distance from 1 is counted, as a negative number.
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
    """The least magnitude in the same cell, all as the bits of a bfloat16: itself from 2^`low` to 2^`high`."""
    narrow = (magnitude >= (127 + low) * _OCTAVE) & (magnitude < (127 + high) * _OCTAVE)
    normal = magnitude >= _OCTAVE
    return np.where(narrow, magnitude, np.where(normal, magnitude // _COARSE * _COARSE, 0))


def _floats(bits: Codes) -> Array:
    """The bfloat16s with these bits, as float64."""
    return (bits << 16).astype(np.uint32).view(np.float32).astype(np.float64)


@cache
def _table(name: str, device: torch.device) -> Tensor:
    return torch.from_numpy(_scale(name).cells).to(device)


def _keys(x: Tensor, name: str) -> Tensor:
    """The index of each value in the table of cells, int32."""
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
            f"A class has {counts.max()} samples, but a sketch counts at most {_LARGEST} of each. Measure fewer, or "
            "capture a store and measure that."
        )
    return counts


def _spread(cells: Tensor, values: Tensor, count: int, kept: int) -> Tensor:
    """`kept` evenly spaced samples of the `count` in the `cells` (node, cell) of a class: (node, kept), ascending."""
    up_to = cells.cumsum(1, dtype=torch.int64)
    # The number of kept samples whose rank, the floor of (i + 1/2) count / kept, is below.
    below = (2 * kept * up_to + (count - 1)) // (2 * count)
    repeats = below.diff(dim=1, prepend=below.new_zeros(len(cells), 1))
    return values.expand(cells.shape).reshape(-1).repeat_interleave(repeats.view(-1)).view(len(cells), kept)
