"""What a module gives, made to carry gradients where it doesn't, and what is known of these before they come."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from probekit.errors import SiteError

__all__ = ["Awaited", "carrying_gradients", "replaced"]


@dataclass
class Awaited:
    """A gradient that a backward pass may bring: `edge` is where in the graph it comes by."""

    edge: GradientEdge | None
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    view: Tensor | None
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> Awaited:
        """The gradient of a tensor that has a history."""
        view = tensor.detach() if tensor._is_view() else None
        return cls(get_gradient_edge(tensor), tensor.shape, tensor.dtype, tensor.device, view, tensor._version)

    def zeros(self) -> Tensor:
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)

    def check_view(self, site: str) -> None:
        """Raise SiteError where the tensor is a view that was overwritten: torch then leads gradients past it."""
        if self.view is not None and self.view._version != self.version:
            raise SiteError(
                f"{site} is the gradient of a view of another tensor, which the model changes in place afterwards, so "
                "that torch doesn't compute it. Give the operation that does so inplace=False, or select the gradient "
                "of the module before or after (sites=, exclude=)."
            )


class _Same(torch.autograd.Function):
    """The same memory in a tensor that has a history, as what an operation gives has."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, source: Tensor) -> Tensor:
        return tensor.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def carrying_gradients(leaf: Tensor) -> Tensor:
    """The values of a tensor without a history, in its memory, in one that has one.

    If the leaf itself were made to require gradients, the model couldn't change it in place, and a weight or an input
    that a module hands on would require them from then on.
    """
    return _Same.apply(leaf, torch.zeros((), requires_grad=True))  # type: ignore[no-any-return]


def replaced(value: Any, by: Mapping[int, Tensor]) -> Any:
    """A copy of a nested value in which other tensors take the places of those whose ``id()`` is in `by`."""
    if isinstance(value, Tensor):
        return by.get(id(value), value)
    if isinstance(value, list | tuple):
        items = [replaced(item, by) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, Mapping):
        made: Any = copy.copy(value)
        for key, item in value.items():
            made[key] = replaced(item, by)
        return made
    if is_dataclass(value) and not isinstance(value, type):
        made = copy.copy(value)
        for field in fields(value):
            object.__setattr__(made, field.name, replaced(getattr(value, field.name), by))
        return made
    return value
