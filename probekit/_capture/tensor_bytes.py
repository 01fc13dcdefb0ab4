"""The numbers of a tensor of any kind, as bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

__all__ = ["bytes_of"]

_COMPRESSED = {  # the indices of each layout that is compressed by rows or columns
    torch.sparse_csr: (Tensor.crow_indices, Tensor.col_indices),
    torch.sparse_bsr: (Tensor.crow_indices, Tensor.col_indices),
    torch.sparse_csc: (Tensor.ccol_indices, Tensor.row_indices),
    torch.sparse_bsc: (Tensor.ccol_indices, Tensor.row_indices),
}


def bytes_of(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes of a tensor's numbers in order; of one that is made of others, those of each in turn.

    A DTensor, which is sharded over processes, gives this process's part.
    """
    parts = [_plain_bytes(part) for part in _parts(tensor.detach())]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _plain_bytes(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    flat: np.ndarray[Any, np.dtype[np.uint8]] = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return flat


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that hold the numbers of a tensor."""
    parts = _next_parts(tensor)
    if parts is None:
        yield tensor.resolve_conj().resolve_neg()
    else:
        for part in parts:
            yield from _parts(part)


def _next_parts(tensor: Tensor) -> list[Tensor] | None:
    """The tensors that a tensor is made of; None for a plain one."""
    if hasattr(tensor, "to_local"):  # a DTensor; to import its class takes a second
        return [tensor.to_local()]
    if tensor.is_nested:
        return list(tensor.unbind())
    if is_traceable_wrapper_subclass(tensor):  # such as torchao's
        return [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
    if tensor.is_quantized:
        return [tensor.int_repr(), *_scales(tensor)]
    if tensor.layout == torch.sparse_coo:
        whole = tensor.coalesce()
        return [whole.indices(), whole.values()]
    if tensor.layout in _COMPRESSED:
        return [*(indices(tensor) for indices in _COMPRESSED[tensor.layout]), tensor.values()]
    return None if tensor.layout == torch.strided else [tensor.to_dense()]


def _scales(tensor: Tensor) -> list[Tensor]:
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return [torch.tensor([tensor.q_scale(), tensor.q_zero_point()], dtype=torch.float64)]
    return [tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()]
