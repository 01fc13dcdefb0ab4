"""Models whose parameters are sharded over several processes: what each gives a part of, and the whole of it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from probekit._probe.site_name import SiteName
from probekit._probe.tensor_kinds import unusual

__all__ = ["is_part", "is_sharded", "parts", "runs_in_parts", "whole"]

T = TypeVar("T")

_WIDTHS = {nn.Linear: "out_features", nn.Embedding: "embedding_dim"}  # of the whole module, also of one that is sharded


def whole(tensor: Tensor) -> Tensor:
    """The values of a DTensor, gathered, for which all processes that have a part of it must call this.

    A result that a collective operation is still making is waited for. Other tensors are returned as they are.
    """
    if hasattr(tensor, "full_tensor"):  # to import the class takes a second
        tensor = tensor.full_tensor()
    return tensor.trigger_wait() if hasattr(tensor, "trigger_wait") else tensor


def is_sharded(model: nn.Module) -> bool:
    """Whether a forward pass of the model is one of several processes together."""
    return any(_of_several(tensor) for tensor in chain(model.parameters(), model.buffers()))


def runs_in_parts(model: nn.Module) -> bool:
    """Whether each process computes a part of what modules give, and not only stores a part of their parameters."""
    return bool(_groups(model))


def parts(model: nn.Module, modules: Mapping[str, nn.Module], found: Mapping[SiteName, Tensor]) -> set[SiteName]:
    """Of the activations that one pass gave, those of which each process has a part, in what looks like a whole tensor.

    A whole one is alike in all processes. They all have to call this, with the activations of the same inputs.
    """
    groups = _groups(model)
    if not groups:
        return set()
    plain = {site: tensor for site, tensor in found.items() if unusual(tensor) is None}
    differ = {site for site, tensor in plain.items() if _is_narrow(site, modules[site.module], tensor)}
    for group in groups:
        differ |= _differing(plain, group)
    return differ


def is_part(model: nn.Module, output: Tensor) -> bool:
    """Whether each process has a part of what the model returns, in what looks like a whole tensor."""
    plain = {} if unusual(output) else {"output": output}
    return any(_differing(plain, group) for group in _groups(model))


def _of_several(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor") and tensor.device_mesh.size() > 1  # type: ignore[attr-defined]


def _groups(model: nn.Module) -> list[dist.ProcessGroup]:
    """The processes that compute parts of one module's output, in each direction of the mesh of its parameters."""
    stored = {id(part) for module in model.modules() if _is_fsdp(module) for part in module.modules()}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if _of_several(parameter):
                mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
                dims = list(range(mesh.ndim))
                if id(module) in stored:  # in the first direction in which they are sharded
                    dims = [dim for dim in dims if not placements[dim].is_replicate()][1:]
                if dims:
                    return [mesh.get_group(dim) for dim in dims]
    return []


def _is_fsdp(module: nn.Module) -> bool:
    return any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)


def _is_narrow(site: SiteName, module: nn.Module, tensor: Tensor) -> bool:
    """Whether a module gave fewer nodes than it has."""
    if site.side or site.op or site.leaf:
        return False
    widths = (getattr(module, name) for kind, name in _WIDTHS.items() if isinstance(module, kind))
    return any(width != tensor.shape[-1] for width in widths)


def _differing(found: Mapping[T, Tensor], group: Any) -> set[T]:
    """The sites whose tensors aren't alike in all processes of a group."""
    ours = {site: (tuple(tensor.shape), tensor.dtype) for site, tensor in found.items()}
    kinds = _gathered(ours, group)
    differ = {site for site in ours if any(each.get(site) != ours[site] for each in kinds)}
    unlike = {site for site in ours if site not in differ and not _as_in_first(found[site], group)}
    return differ.union(*_gathered(unlike, group))


def _gathered(ours: Any, group: Any) -> list[Any]:
    of_all: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(of_all, ours, group=group)
    return of_all


def _as_in_first(tensor: Tensor, group: Any) -> bool:
    """Whether the first process of a group has the same values, but for rounding."""
    theirs = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.broadcast(theirs.reshape(-1).view(torch.uint8), dist.get_global_rank(group, 0), group=group)
    if not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
        return torch.equal(tensor, theirs)
    tolerance = 1e-3 * float(tensor.abs().max())
    return torch.allclose(tensor, theirs, rtol=1e-2, atol=tolerance, equal_nan=True)
