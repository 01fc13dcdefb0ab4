"""Reductions of one activation: pooled over its positions, single tokens, chosen nodes, a projection."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from probekit._probe.node_axes import node_axis_by_shape
from probekit._probe.pooling import NAMED, Constants, Mask, Reduced, constant, narrow_dtype, wide_dtype
from probekit.errors import ProbekitError, SiteError, arguments_of, near

__all__ = ["Mask", "Projection", "Reduced", "Reducer", "Reduction", "plan_reduction"]

SHOWN = 60  # characters of a reduction in an error's text


@dataclass(frozen=True)
class Projection:
    """A random projection of the node axis to `size` nodes, by a Gaussian matrix divided by sqrt(size).

    The matrix depends on the width, `size` and `seed` alone: the standard normals of numpy's ``PCG64(seed)`` in
    float64, of shape (width, size), cast where they are used. It keeps squared lengths in expectation (Johnson and
    Lindenstrauss, 1984).
    """

    size: int
    seed: int = 0


Part: TypeAlias = str | slice | Projection | Sequence[int] | Callable[[Tensor], Tensor]
Reduction: TypeAlias = Part | Sequence[Part]


@dataclass(frozen=True)
class Reducer:
    """A reduction, checked and ready to be applied to the activations of one site. Made by `plan_reduction`."""

    site: str
    steps: tuple[_Step, ...]

    def describe(self) -> str:
        """The reduction as JSON text; a callable by its qualified name."""
        return json.dumps([step.text() for step in self.steps])

    @property
    def by_token(self) -> bool:
        """Whether the rows that are kept are tokens, not samples."""
        return _Named("tokens") in self.steps

    @property
    def pools(self) -> bool:
        """Whether what is kept depends on which positions are real."""
        return any(isinstance(step, _Named) and step.name != "flatten" for step in self.steps)

    @property
    def of_attention(self) -> bool:
        """Whether it reduces attention maps, whose positions are the queries."""
        return _Named("attention_entropy") in self.steps

    @property
    def keeps_positions(self) -> bool:
        """Whether the positions are kept as they are."""
        return all(isinstance(step, _Nodes | _Project) for step in self.steps)

    @property
    def makes_batch(self) -> bool:
        """Whether a callable comes first, which may be there to make axis 0 the batch."""
        return isinstance(self.steps[0], _Call)

    def __call__(
        self,
        tensor: Tensor,
        mask: Tensor | Mask | None = None,
        *,
        rows: int | None = None,
        nodes: int | None = None,
    ) -> Reduced:
        """Reduce one activation. The input stays as it is; the result may share its memory.

        Args:
            tensor: (batch, …), of which one axis is the nodes, and the others are positions.
            mask: (batch, position), 1 for real tokens. Without one every token is real.
            rows: samples in the batch; by default, the length of axis 0.
            nodes: the axis that is the nodes; by default axis 1 of four or five axes, as of feature maps, else the
                last one.

        Raises:
            SiteError: the activation or the mask doesn't fit; the message names the step, the site and the shape.
            DataError: the mask holds other values than 0 and 1.
        """
        real = None if mask is None else Mask.of(mask)
        if rows is None:
            rows = len(tensor) if tensor.dim() else 1
        axis = node_axis_by_shape(tensor.dim()).axis if nodes is None else nodes
        kept = Reduced(tensor, nodes=axis, real=real if self.keeps_positions else None)
        for step in self.steps:
            try:
                if not isinstance(step, _Call):
                    _check_batch(kept.tensor, rows)
                made = step.keep(kept, real)
                if made.sample is None or kept.sample is not None:
                    _check_batch(made.tensor, rows)
            except Exception as error:
                fact = str(error) if isinstance(error, ProbekitError) else f"{type(error).__name__}: {error}"
                shape = tuple(kept.tensor.shape)
                raise SiteError(
                    f"reduce={_short(step.text())} on {self.site}, of shape {shape}: {fact}",
                    arguments=("reduce", *arguments_of(error)),
                ) from error
            kept, rows = made, len(made.tensor)
        return kept


def plan_reduction(spec: Reduction, *, site: str) -> Reducer:
    """A reduction of the activations of `site`, checked before any is made.

    Args:
        spec: what to keep, or a sequence of these, applied in order:

            - ``"mean"``, ``"max"``: over the positions, real tokens only, or over y and x. An activation without
              positions is kept as it is. The mean is summed in pairs, so that it is bit-identical however the batch is
              padded or split; in float32 for half precision (cast back), in float64 for integers (kept as float64).
            - ``"flatten"``: all values of a sample, padding too, as its nodes.
            - ``"cls"``, ``"last"``: the first and the last real token.
            - ``"tokens"``: one row a real token, sample after sample.
            - ``"attention_entropy"``: of an attention map (batch, head, query, key), −Σ p log₂ p over the keys, in
              bits, on average over the real queries, for each head (Clark et al. 2019, who take nats): 0 where each
              query attends to one key, log₂ of the number of keys where it attends to all alike.
            - indices or a slice of nodes; a `Projection` of the nodes (in float32 at least, cast back).
            - a callable, tensor → tensor, that leaves the batch as axis 0, or makes it axis 0. It gets a copy.
        site: the name that errors give.

    Raises:
        SiteError: `spec` is not a reduction.

    Example:
        >>> import torch
        >>> first_two = plan_reduction(["last", [0, 1]], site="encoder")
        >>> tokens, mask = torch.arange(12.0).reshape(2, 2, 3), torch.tensor([[1, 1], [1, 0]])
        >>> first_two(tokens, mask).tensor
        tensor([[3., 4.],
                [6., 7.]])
        >>> first_two.describe()
        '["last", {"nodes": [0, 1]}]'
    """
    try:
        steps = tuple(_steps(spec))
        rest = steps[steps.index(_Named("tokens")) + 1 :] if _Named("tokens") in steps else ()
        late = next((step.name for step in rest if isinstance(step, _Named)), None)
        if late is not None:
            raise SiteError(f"{late!r} follows 'tokens', after which no positions are left.")
    except SiteError as error:
        raise SiteError(f"reduce for {site}: {error}", arguments=("reduce", *error.arguments)) from error
    return Reducer(site, steps)


def _steps(spec: Any) -> list[_Step]:
    spec = spec.tolist() if isinstance(spec, Tensor | np.ndarray) else spec
    if isinstance(spec, str):
        if spec not in NAMED:
            raise SiteError(f"{spec!r} is not one of {', '.join(map(repr, NAMED))}.{near(spec, NAMED)}")
        return [_Named(spec)]
    if isinstance(spec, slice):
        return [_slice(spec)]
    if isinstance(spec, Projection):
        return [_projection(spec)]
    if callable(spec):
        return [_Call(spec)]
    if not isinstance(spec, Sequence) or not spec:
        raise SiteError(
            f"{spec!r} is not a reduction. Give {', '.join(map(repr, NAMED))}, indices or a slice of nodes, a "
            "Projection, a callable, or a sequence of these."
        )
    if all(_whole(node) for node in spec):
        return [_Nodes(tuple(map(int, spec)))]
    if any(isinstance(part, bool | int | float) for part in spec):
        raise SiteError(f"{_short(spec)} mixes indices of nodes with something else, or holds booleans or fractions.")
    return [step for part in spec for step in _steps(part)]


def _slice(asked: slice) -> _Nodes:
    ends = (asked.start, asked.stop, asked.step)
    if not all(end is None or _whole(end) for end in ends) or (asked.step is not None and asked.step < 1):
        raise SiteError(f"{asked} is not a slice of nodes: it needs whole numbers, and a step of at least 1.")
    return _Nodes(tuple(None if end is None else int(end) for end in ends), is_slice=True)


def _projection(asked: Projection) -> _Project:
    if not (_whole(asked.size) and _whole(asked.seed) and asked.size >= 1 and asked.seed >= 0):
        raise SiteError(f"{asked} needs a size of at least 1, and a seed of at least 0.")
    return _Project(int(asked.size), int(asked.seed))


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _check_batch(tensor: Tensor, rows: int) -> None:
    if not tensor.dim() or len(tensor) != rows:
        raise SiteError(f"axis 0 of shape {tuple(tensor.shape)} is not the batch, of length {rows}.")


@dataclass(frozen=True)
class _Named:
    name: str

    def text(self) -> Any:
        return self.name

    def keep(self, kept: Reduced, mask: Mask | None) -> Reduced:
        return NAMED[self.name](kept, mask)


@dataclass(frozen=True)
class _Nodes:
    """Indices of nodes, or the start, stop and step of a slice of them."""

    chosen: tuple[int | None, ...]
    is_slice: bool = False
    _made: Constants = field(default_factory=dict, compare=False, repr=False)

    def text(self) -> Any:
        return {"slice" if self.is_slice else "nodes": list(self.chosen)}

    def keep(self, kept: Reduced, mask: Mask | None) -> Reduced:
        axis = _node_axis(kept)
        width = kept.tensor.shape[axis]
        index = constant(self._made, kept.tensor.device, (width,), lambda: self._index(width))
        return kept._replace(tensor=kept.tensor.index_select(axis, index))

    def _index(self, width: int) -> Tensor:
        nodes = (
            range(width)[slice(*self.chosen)] if self.is_slice else [node for node in self.chosen if node is not None]
        )
        out = [node for node in nodes if not -width <= node < width]
        if out or not nodes:
            raise SiteError(f"it has {width} nodes: {f'no {_short(out)}' if out else 'none of them in the slice'}.")
        return torch.tensor(nodes) % width


@dataclass(frozen=True)
class _Project:
    size: int
    seed: int
    _made: Constants = field(default_factory=dict, compare=False, repr=False)

    def text(self) -> Any:
        return {"projection": {"size": self.size, "seed": self.seed}}

    def keep(self, kept: Reduced, mask: Mask | None) -> Reduced:
        tensor, axis = kept.tensor, _node_axis(kept)
        wide, width = wide_dtype(tensor.dtype), tensor.shape[axis]
        matrix = constant(self._made, tensor.device, (width, wide), lambda: self._draw(width).to(wide))
        # Autocast around the model's forward would do the product in half precision.
        with torch.autocast(tensor.device.type, enabled=False):
            product = tensor.movedim(axis, -1).to(wide) @ matrix
        return kept._replace(tensor=product.movedim(-1, axis).to(narrow_dtype(tensor.dtype)))

    def _draw(self, width: int) -> Tensor:
        normal = np.random.Generator(np.random.PCG64(self.seed)).standard_normal((width, self.size))
        return torch.from_numpy(normal / np.sqrt(self.size))


@dataclass(frozen=True)
class _Call:
    function: Callable[[Tensor], object]

    def text(self) -> Any:
        named = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        module = getattr(named, "__module__", None)
        return {"callable": f"{module}.{named.__qualname__}" if module else named.__qualname__}

    def keep(self, kept: Reduced, mask: Mask | None) -> Reduced:
        # A copy: a function that works in place would otherwise change what the model computes next.
        made = self.function(kept.tensor.clone())
        if not isinstance(made, Tensor):
            raise SiteError(f"it returned a {type(made).__name__}, not a tensor.")
        same = made.dim() == kept.tensor.dim() and made.shape[kept.nodes] == kept.tensor.shape[kept.nodes]
        return kept._replace(tensor=made, nodes=kept.nodes if same else node_axis_by_shape(made.dim()).axis)


_Step: TypeAlias = _Named | _Nodes | _Project | _Call


def _node_axis(kept: Reduced) -> int:
    if kept.tensor.dim() < 2:
        raise SiteError("it has one value per sample, and no nodes to choose from.")
    return kept.nodes
