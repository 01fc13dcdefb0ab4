"""Tensors that don't hold the values of a batch as ordinary ones do: nested ones, and those that torch.func wraps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from probekit.errors import SiteError

__all__ = ["has_gradient", "nested", "outside_transforms", "transformed"]

# Whether a tensor is one that torch.func.grad, vmap and the like have wrapped.
transformed = _functorch.is_functorch_wrapped_tensor


def has_gradient(tensor: Tensor) -> bool:
    """Whether a loss can have a gradient with respect to the tensor."""
    return tensor.is_floating_point() or tensor.is_complex()


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
