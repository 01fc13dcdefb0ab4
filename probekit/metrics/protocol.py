"""The metric protocol: the arguments that the engine gives a metric, and the results that it expects.

A metric is pure and knows arrays only. There are three kinds.

- A *streaming* metric adds up over batches: `init`, `update`, `merge`, `finalize`. `update` and `merge` return a new
  state, a flat dict of tensors, and change none of their arguments. States merge to the same result in any order. The
  class attribute `scope` says which rows the metric sees:

  - ``"node"``, the default: blocks of nodes of a site. The tensors of its state have the leading axes (class,) or
    (class, node, ...), so that blocks can be put side by side without knowing the metric.
  - ``"site"``: whole rows, all nodes of a site. If an axis of a state's tensor follows the classes, it is the first.
  - ``"sites"``: the rows of all sites of a measurement at once. `init` takes a list of specs and `update` a list of
    batches, one for each site; the dims ``site`` and ``site_b`` of its variables are the sites, in this order.

- A *column* metric needs every sample of a node at once: ``compute(block)``. While a model runs, the values may be
  rounded. The method ``error_bound(resolution)`` → (node,), if the metric has one, then says how far its results are
  from the exact ones at most, from what a `probekit.metrics.resolution.Resolution` says of the block.
- A *sample* metric reads the whole rows of a site itself, as often as it must: ``compute_samples(samples)``. With the
  class attribute ``needs_target = True`` it also has ``samples.target``, a number for each row from the column that the
  user names (``pk.measure(store, metric, target="age")``). With the attribute ``split_by``, the name of a column or
  None, it has ``samples.units``: which rows must stay on one side of a split into training and held-out rows. With
  ``scope = "sites"`` it gets a list, the samples of each site, which have the same rows, and its variables have the
  dims ``site`` and ``site_b``. It can read one site after the other, and so needs memory for the rows of one.

All return variables: ``{name: (dims, array)}``. The dims ``label``, ``label_b`` (classes) and ``node`` have fixed
lengths, and ``node_b`` stands beside ``node`` in a table of all pairs; a metric may add dims of its own. A column
metric's variables have the dim ``node``, along which the engine joins blocks of nodes. Where blocks differ in the
length of an added dim, they are padded at its end with NaN (0 in counts). The metric's attribute ``coords``,
``{dim: values}``, gives values to the positions along an added dim.

A metric may have the class attribute ``positions = "each"``: each position of a feature map is then an observation for
it, unless the user asks for something else (``pk.measure(…, positions="mean")``). It is for metrics that count values,
since the mean over a map's positions is hardly ever 0. Other metrics are given that mean.

A metric may have the attribute ``headline``, a `probekit.metrics.Headline`: which of its variables to look at first,
and how to read it.

A metric may have the method ``memory(spec, samples)``: the most bytes that it holds at a time beside the samples, for
the nodes, classes and dtype of a spec (a list of specs if it compares sites) and so many samples. That is its state
with what an update of up to 2,048 samples or `finalize` adds, or what `compute` makes, its variables included; no less
for more nodes or samples. The engine asks for it before anything runs: it gives blocks of as many nodes as fit, and
refuses what doesn't fit. Without the method, a streaming metric takes twice the state that `init` makes, on torch's
``meta`` device if it can, and 40 bytes for each value of a batch; another metric no more than its samples.

A streaming metric may have the method ``seconds(spec, samples)``: about how long all its updates take on one core, and
how long `finalize` takes, as a tuple. Progress divides a task by it; without it, `finalize` is taken to be short.

A column metric may have the method ``relabelling(values, classes)`` (see `Relabelling`), by which the engine evaluates
many shuffles of the labels sooner than by as many calls of `compute`; a streaming metric of nodes may have the method
``relabelled(spec, labellings)`` for that (see `StreamRelabelling`). A column metric's attribute `null_repeats` is the
number of shuffles that the engine measures for it where the caller asks for no null; where a sample has several rows,
which aren't independent, it measures ten for metrics that have such a method and are `corrected`.

A metric may have the class attribute `interval`, by which its intervals are found whatever the caller asks for:
``"jackknife"`` where equal samples make the metric something else, so that samples that are drawn twice would mislead,
``"bootstrap"``, ``"formula"``, or None for a metric without intervals. With ``"formula"`` it has the method
``intervals(variables, confidence)``, which returns ``{variable: (low, high)}`` of what it measured. Its attribute
`corrected`, a parameter or not, is True if what chance gives is taken off its variables: a bootstrap then takes no bias
off them once more. Its attribute `ranges`, ``{variable: (least, greatest)}``, says which values its estimates can have
whatever the samples are, infinity for an open side (`probekit.metrics.ranges` has the usual ones): intervals end there.
What is corrected for chance may lie beyond the range of what it estimates, and has none. Its attribute
`interval_classes`, ``{variable: number}``, is the fewest classes, of two samples or more, by which a variable has an
interval.

Streaming metrics with equal `state_key` attributes have the same `init`, `update` and `merge`: measured together, they
share one state.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import update_wrapper
from operator import attrgetter
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from probekit.errors import PluginError
from probekit.metrics.block import Array, Block, Codes
from probekit.metrics.limits import Limits, check_parameters

__all__ = [
    "BATCH",
    "ColumnMetric",
    "FunctionMetric",
    "Metric",
    "Parameters",
    "RelabelledStates",
    "Relabelling",
    "SampleMetric",
    "Samples",
    "Spec",
    "State",
    "StreamRelabelling",
    "StreamingMetric",
    "Variables",
    "metric",
]

BATCH = 2048  # samples of a store in an update: a few calls, whose temporaries still stay in the cache

State: TypeAlias = dict[str, Tensor]
Variables: TypeAlias = dict[str, tuple[tuple[str, ...], Array]]


@dataclass(frozen=True)
class Spec:
    """The samples that a streaming metric's state is for: the numbers of nodes and classes, the dtype and the device.

    `bounds` are the least and the greatest value that the activation can take, `samples` the number of samples that
    will come; either is None where it isn't known.
    """

    nodes: int
    classes: int
    dtype: torch.dtype
    device: torch.device
    bounds: tuple[float, float] | None = None
    samples: int | None = None


class Metric(Protocol):
    """The attributes that every metric has.

    `version` increases when the same data give other numbers. `parameters` are written to the attributes of every
    result. ``probekit metrics`` shows the first line of the docstring.
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
        """The state after the batch `x` (batch, node), float32 or float64, with class codes `y` (batch), int64.

        It is called under ``torch.no_grad()``.
        """

    def merge(self, a: State, b: State) -> State:
        """The state of the samples of both states."""

    def finalize(self, state: State) -> Variables:
        """The variables; `state` doesn't change and may be updated further."""


@runtime_checkable
class ColumnMetric(Metric, Protocol):
    """A metric that needs all samples of a node at once."""

    def compute(self, block: Block) -> Variables:
        """The variables of the block's nodes; `block` is shared between metrics and must not be changed."""


@runtime_checkable
class Relabelling(ColumnMetric, Protocol):
    """A column metric that prepares a node's samples once for many labels, as the null of shuffled labels needs."""

    def relabelling(self, values: Array, classes: int) -> Callable[[Codes], Variables]:
        """A function that gives the variables of `values` (node, sample) for class codes (sample,), 0 to `classes` − 1.

        They are those of `compute`, to the same bits; variables of pairs of classes may lack. `values`, in any order,
        don't change.
        """


class RelabelledStates(Protocol):
    """The states of a streaming metric for several labellings of the same samples, which are added to at once."""

    def add(self, x: Tensor, codes: Codes) -> None:
        """Add the batch `x` (batch, node), whose class codes in each labelling are `codes` (labelling, batch)."""

    @property
    def exact(self) -> bool:
        """Whether the states are those of `update` but for the last digits; if not, they aren't asked for."""

    def states(self) -> Iterator[State]:
        """The state of each labelling, for `finalize`."""


@runtime_checkable
class StreamRelabelling(StreamingMetric, Protocol):
    """A streaming metric of nodes that adds up many labellings sooner than by as many updates, as a null needs."""

    def relabelled(self, spec: Spec, labellings: int) -> RelabelledStates:
        """What adds up so many labellings; `spec` has the classes of one."""


class Samples(Protocol):
    """The rows of a site, which can be read repeatedly in the same order."""

    @property
    def number(self) -> int:
        """The number of rows."""

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

    @property
    def target(self) -> Array:
        """The number of each row in the column that is the measurement's target, (row,), float64 and finite.

        Only a metric whose attribute `needs_target` is True has it.
        """

    @property
    def units(self) -> Codes:
        """The unit of each row, (row,), int64: rows of one unit aren't independent, so a split keeps them together.

        For a metric whose attribute `split_by` is None, a unit is a sample, as one with several tokens; the units of
        samples have the same numbers at every site. For one whose `split_by` names a column, a unit is a value of it.
        Other metrics have no units.
        """

    def batches(self) -> Iterator[tuple[Array, Codes]]:
        """All rows in order, as (batch, node), float32 or float64, with their classes (batch,)."""

    def take(self, places: Codes) -> Array:
        """The rows (row, node) at the ascending indices `places`; the caller ensures that they fit in memory."""


@runtime_checkable
class SampleMetric(Metric, Protocol):
    """A metric that reads whole rows more than once, or many of them at once."""

    def compute_samples(self, samples: Any) -> Variables:
        """The variables of the site's `Samples`; or those of all sites, of a list of them, for ``scope = "sites"``."""


class Parameters:
    """Base of metrics that are frozen dataclasses: the fields are the parameters.

    Each is checked by the type that its field declares, and by the class attribute `limits`.
    """

    version: ClassVar[int] = 1
    limits: ClassVar[Limits] = {}

    def __post_init__(self) -> None:
        check_parameters(self)

    @property
    def parameters(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]


class FunctionMetric:
    """A column metric from a function of one class's sorted values; `metric` creates it.

    It is pickled by name, as functions are, so it can be sent to any process that can import it.
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
                f"The metric {self.name!r} can't be sent to another process: it is pickled by name, and "
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
                f"{row.shape}; it must return one number for each node, shape {values.shape[1:]}"
            )
        return row


def metric(function: Callable[[Array], Array]) -> FunctionMetric:
    """A column metric from a function of one class's values (n_c, node), sorted ascending at each node → (node,).

    The metric can be called like the function, and the first line of its docstring describes it. A class without
    samples gives NaN, without a call of the function. The result has the dims (label, node).

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
