"""Tensors that don't hold the values of a batch in order: nested, sparse, quantised, sharded, wrapped by torch.func."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from probekit.errors import SiteError

__all__ = ["Unusual", "has_gradient", "nested", "outside_transforms", "transformed", "unusual"]

# Whether a tensor is one that torch.func.grad, vmap and the like have wrapped.
transformed = _functorch.is_functorch_wrapped_tensor


def has_gradient(tensor: Tensor) -> bool:
    """Whether a loss can have a gradient with respect to the tensor."""
    return tensor.is_floating_point() or tensor.is_complex()


class Unusual(NamedTuple):
    """What a tensor `t` is, and the expression that makes an ordinary one of it."""

    what: str
    conversion: str


def unusual(tensor: Tensor) -> Unusual | None:
    """What a tensor is that doesn't hold its numbers in order; None for an ordinary one."""
    if tensor.is_quantized:
        return Unusual(f"quantised values ({tensor.dtype})", "t.dequantize()")
    if tensor.layout is not torch.strided:
        return Unusual(f"a tensor of layout {tensor.layout}", "t.to_dense()")
    if hasattr(tensor, "full_tensor"):
        return Unusual("a DTensor, of which each process has a part", "t.full_tensor()")
    if is_traceable_wrapper_subclass(tensor):
        return Unusual(f"a {type(tensor).__name__}, which is made of other tensors", "…")
    return None


@contextmanager
def outside_transforms(tensor: Tensor, site: str) -> Iterator[Tensor]:
    """The values of a transformed tensor, in a block in which no transform is at work.

    Raises:
        SiteError: the transform is vmap, inside which a tensor lacks an axis.
    """
    with temporarily_clear_interpreter_stack():
        while _functorch.is_gradtrackingtensor(tensor):
            tensor = _functorch.get_unwrapped(tensor)
        if transformed(tensor):
            raise SiteError(
                f"{site} runs inside torch.func.vmap, where a tensor lacks the axis that is mapped over. Select sites "
                "outside it (sites=, exclude=)."
            )
        yield tensor


def nested(site: str) -> SiteError:
    """The error for a nested tensor."""
    return SiteError(
        f"{site} gave a nested tensor, whose samples have lengths of their own, so they have no common shape. If it is "
        "from torch's fast path for transformer layers, turn that off: "
        "torch.backends.mha.set_fastpath_enabled(False). If the model makes it, select other sites (sites=, exclude=)."
    )
