"""Which axis of an activation counts the nodes: followed through the operations that made it."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from probekit._nested import tensors

__all__ = ["NodeAxes", "NodeAxis", "node_axis_by_shape"]

# The operations that make nodes, and on which axis of what they return. A product of two activations makes none.
_LAST = {"linear", "bilinear", "embedding", "embedding_bag", "layer_norm", "rms_norm", "lstm", "gru"}
_LAST |= {"rnn_tanh", "rnn_relu", "multi_head_attention_forward"}
_PRODUCTS = {"matmul", "__matmul__", "addmm", "mm"}
_FIRST = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
_FIRST |= {"batch_norm", "instance_norm", "group_norm", "prelu", "pixel_shuffle", "pixel_unshuffle", "unfold"}


class NodeAxis(NamedTuple):
    """The axis of a whole activation whose entries are its nodes, and how it is known.

    `known_by` is the operation that made the nodes, ``"shape"`` where it is a guess by the number of axes, or
    ``"node_dim"`` where the user has said it.
    """

    axis: int
    known_by: str

    def shown(self, ndim: int) -> str | None:
        """Such as ``axis 1``, with a question mark where that is a guess; None where there is no such axis."""
        sure = self.known_by != "shape" or ndim == 2
        return None if ndim < 2 else f"axis {self.axis}{'' if sure else '?'}"


def node_axis_by_shape(ndim: int) -> NodeAxis:
    """The guess for an activation of so many axes: axis 1 of four or five, as for images, else the last."""
    return NodeAxis(1 if ndim in (4, 5) else max(0, ndim - 1), "shape")


class NodeAxes(TorchFunctionMode):
    """Follows the node axis of every tensor that is made while it is entered.

    A convolution's or a batch norm's nodes are axis 1, a linear layer's the last axis. What is made of such a tensor
    has them where its sizes and strides show them; pooling, activation functions, permutations and sums keep them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: Any = WeakIdKeyDictionary()

    def of(self, tensor: Tensor) -> NodeAxis:
        known: NodeAxis | None = self._known.get(tensor)
        return node_axis_by_shape(tensor.dim()) if known is None or known.axis >= tensor.dim() else known

    def after(self, args: Any, output: Any) -> None:
        """A hook after a module's forward: an operation of one's own that keeps the shape keeps the axis."""
        if isinstance(output, Tensor) and output not in self._known and len(args) == 1:
            given = args[0]
            if isinstance(given, Tensor) and given.shape == output.shape and given in self._known:
                self._known[output] = self._known[given]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "__get__" and not isinstance(result, Tensor):
            return result  # an attribute, such as x.shape
        for made in (result,) if isinstance(result, Tensor) else tensors(result):
            if made.dim() > 1:
                found = self._axis(name, args, made)
                if found is not None:
                    self._known[made] = found
        return result

    def _axis(self, name: str, args: Any, made: Tensor) -> NodeAxis | None:
        if name in _LAST or (name in _PRODUCTS and any(isinstance(given, nn.Parameter) for given in args)):
            return NodeAxis(made.dim() - 1, name)
        if name in _FIRST:
            return NodeAxis(1, name)
        for given in tensors(list(args)):
            known: NodeAxis | None = self._known.get(given)
            if known is not None and known.axis < given.dim():
                axis = _kept_axis(name, given, known.axis, made)
                if axis is not None:
                    return known._replace(axis=axis)
        return None


def _kept_axis(name: str, given: Tensor, axis: int, made: Tensor) -> int | None:
    """Where the nodes of one tensor are in another that was made of it; None where that can't be told."""
    size = given.shape[axis]
    if _is_view(given, made):
        stride = given.stride(axis)
        same = [n for n in range(made.dim()) if made.shape[n] == size and made.stride(n) == stride]
        return same[0] if len(same) == 1 else axis if axis in same else None
    if made.dim() == given.dim() and (made.shape[axis] == size or name in ("cat", "concat", "index_select")):
        return axis
    same = [n for n in range(1, made.dim()) if made.shape[n] == size]
    return same[0] if len(same) == 1 else None


def _is_view(given: Tensor, made: Tensor) -> bool:
    base = given if given._base is None else given._base
    return made._base is not None and made._base is base
