"""The metric protocol: what the engine hands to a metric, and what it takes back.

A metric is pure and knows arrays only. There are three kinds.

- A *streaming* metric adds up over batches: `init`, `update`, `merge`, `finalize`. `update` and `merge` return a new
  state, a flat dict of tensors, and change none of their arguments; states merge in any order to the same. Its class
  says what it sees in its attribute `scope`:

  - ``"node"``, the default: blocks of nodes of a site. Its state's tensors have the leading axes (class,) or (class,
    node, ...), so that blocks can be put side by side without knowing the metric.
  - ``"site"``: whole rows, all nodes of a site. Where an axis of its state follows the classes, it is the first.
  - ``"sites"``: the rows of all sites of a measurement at once. `init` takes a list of specs and `update` a list of
    batches, one a site; the dims ``site`` and ``site_b`` of its variables are the sites, in this order.

- A *column* metric needs every sample of a node at once: ``compute(block)``.
- A *sample* metric goes over the whole rows of a site itself, as often as it must: ``compute_samples(samples)``.

All return variables: ``{name: (dims, array)}``. The dims ``label``, ``label_b`` (classes) and ``node`` have fixed
lengths; others are the metric's own. A column metric's variables have the dim ``node``, along which the engine joins
blocks of nodes; where blocks differ in the length of an own dim, they are padded at its end with NaN (0 in counts).
Where the positions along an own dim have values, the metric's attribute ``coords`` says them: ``{dim: values}``.

Streaming metrics whose attribute `state_key` is equal have the same `init`, `update` and `merge`: asked for together,
they have one state between them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import update_wrapper
from operator import attrgetter
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from probekit.errors import PluginError
from probekit.metrics.block import Array, Block, Codes

__all__ = [
    "ColumnMetric",
    "FunctionMetric",
    "Metric",
    "Parameters",
    "SampleMetric",
    "Samples",
    "Spec",
    "State",
    "StreamingMetric",
    "Variables",
    "in_pieces",
    "metric",
]

State: TypeAlias = dict[str, Tensor]
Variables: TypeAlias = dict[str, tuple[tuple[str, ...], Array]]


@dataclass(frozen=True)
class Spec:
    """What a streaming metric's state is for: so many nodes and classes, activations of `dtype` on `device`.

    `bounds` are the least and the greatest value that the activation can take, None where that isn't known.
    """

    nodes: int
    classes: int
    dtype: torch.dtype
    device: torch.device
    bounds: tuple[float, float] | None = None


class Metric(Protocol):
    """What every metric says of itself.

    `version` goes up when the same data give other numbers; `parameters` go into the attributes of every result. The
    first line of the docstring is what ``probekit metrics`` shows.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def parameters(self) -> Mapping[str, Any]: ...


@runtime_checkable
class StreamingMetric(Metric, Protocol):
    """A metric that adds up over batches."""

    def init(self, spec: Spec) -> State:
        """The state of no samples."""

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        """`state` and the batch `x` (batch, node), a float32 or float64 tensor, with class codes `y` (batch), int64.

        It is called without gradients.
        """

    def merge(self, a: State, b: State) -> State:
        """The state of the samples of both."""

    def finalize(self, state: State) -> Variables:
        """The variables; `state` stays as it is and may be updated further."""


@runtime_checkable
class ColumnMetric(Metric, Protocol):
    """A metric that needs all samples of a node at once."""

    def compute(self, block: Block) -> Variables:
        """The variables of the block's nodes; `block` is shared between metrics and must not be changed."""


class Samples(Protocol):
    """The rows of a site, to be read again and again in the same order."""

    @property
    def number(self) -> int:
        """How many there are."""

    @property
    def nodes(self) -> int: ...

    @property
    def classes(self) -> int: ...

    @property
    def codes(self) -> Codes:
        """The class of each row, (row,)."""

    @property
    def rows(self) -> Codes:
        """The number of each row in the store, (row,), ascending."""

    def batches(self) -> Iterator[tuple[Array, Codes]]:
        """All rows in order, as (batch, node), float32 or float64, with their classes (batch,)."""

    def take(self, places: Codes) -> Array:
        """The rows (row, node) at the given places, ascending from 0; the caller sees to it that they fit in memory."""


@runtime_checkable
class SampleMetric(Metric, Protocol):
    """A metric that needs whole rows more than once, or many of them at once."""

    def compute_samples(self, samples: Samples) -> Variables:
        """The variables of the site."""


class Parameters:
    """Base of metrics that are frozen dataclasses: their fields are their parameters."""

    version: ClassVar[int] = 1

    @property
    def parameters(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]


def in_pieces(pieces: Iterable[Block], compute: Callable[[Block], Variables]) -> Variables:
    """The variables of a block, whose last dim is the node, from those that `compute` gives for its pieces."""
    parts = [compute(piece) for piece in pieces]
    return {
        name: (dims, np.concatenate([part[name][1] for part in parts], axis=-1)) for name, (dims, _) in parts[0].items()
    }


class FunctionMetric:
    """A column metric from a function of one class's sorted values; made by `metric`.

    It is pickled by name, as functions are, so that it can go to another process that can import it.
    """

    version: ClassVar[int] = 1
    parameters: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, function: Callable[[Array], Array]) -> None:
        update_wrapper(self, function)
        self.__qualname__: str = function.__qualname__
        self.name: str = function.__name__
        self._function = function

    def __call__(self, values: Array) -> Array:
        return self._function(values)

    def __reduce__(self) -> str:
        try:
            named = attrgetter(self.__qualname__)(sys.modules[self.__module__])
        except (AttributeError, KeyError):
            named = None
        if named is not self:
            raise PluginError(
                f"The metric {self.name!r} can't be sent to another process: it goes there by name, and "
                f"{self.__qualname__!r} of the module {self.__module__!r} isn't it. Define it at the top level of a "
                "module, under @pk.metric and its own name."
            )
        return str(self.__qualname__)

    def compute(self, block: Block) -> Variables:
        missing = np.full(block.nodes, np.nan, block.values.dtype)
        rows = [self._row(block[code].T) if count else missing for code, count in enumerate(block.counts)]
        return {self.name: (("label", "node"), np.stack(rows))}

    def _row(self, values: Array) -> Array:
        row = np.asarray(self._function(values))
        if row.shape != values.shape[1:]:
            raise PluginError(
                f"given values of shape {values.shape} (samples of a class, nodes), {self.name!r} returned shape "
                f"{row.shape}; it must return one number a node, shape {values.shape[1:]}"
            )
        return row


def metric(function: Callable[[Array], Array]) -> FunctionMetric:
    """A column metric from a function of one class: its values (n_c, node), each node sorted ascending → (node,).

    The metric is called like the function, and described by the first line of its docstring. A class without samples
    gives NaN, and the function isn't called for it. The result has the dims (label, node).

    >>> import numpy as np, probekit as pk
    >>> @pk.metric
    ... def spread(values):
    ...     "Range of each class at each node."
    ...     return values[-1] - values[0]
    >>> block = pk.metrics.Block.from_samples(np.array([[3.0], [1.0], [2.0]]), [0, 0, 0])
    >>> spread.compute(block)
    {'spread': (('label', 'node'), array([[2.]]))}
    """
    return FunctionMetric(function)
