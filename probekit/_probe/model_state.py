"""What a model keeps beside its parameters, which a run may change and a dry run must not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

__all__ = ["ModelState", "kept_tensors", "same"]

_MODULES_OWN = frozenset(vars(nn.Module()))  # hooks, parameters, the training flag and the like


class ModelState:
    """The buffers and the attributes of a model's modules, as they are now.

    Attributes are restored as they stand in the modules: tensors with their contents, lists, dicts and sets with their
    items; other objects remain, with whatever has been changed within them. Modules of ``torch.distributed`` set
    themselves up in their first pass, so their attributes are left alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [_ModuleState(name, module) for name, module in model.named_modules()]

    def changed(self) -> list[str]:
        """The buffers and attributes whose tensors hold something else now, but for those that no output depends on.

        In train mode these are the running statistics of a batch norm.
        """
        return [name for module in self._modules for name in module.changed()]

    def restore(self) -> None:
        for module in self._modules:
            module.restore()


class _ModuleState:
    def __init__(self, name: str, module: nn.Module) -> None:
        self._name, self._module = name, module
        self._buffers, self._attributes = dict(module._buffers), _attributes(module)
        self._tensors = dict(_tensors(self._held()))
        self._contents = {id(tensor): _Content.of(tensor) for tensor in self._tensors.values()}
        self._containers = [(each, each.copy()) for each in _containers(self._attributes)]

    def _held(self) -> dict[str, Any]:
        return {**self._module._buffers, **_attributes(self._module)}

    def changed(self) -> Iterator[str]:
        if isinstance(self._module, _NormBase) and self._module.training:
            return
        now = dict(_tensors(self._held()))
        for path in self._tensors | now:
            before = self._tensors.get(path)
            if before is None or path not in now or self._contents[id(before)].differs(now[path]):
                yield f"{self._name}.{path}".lstrip(".")

    def restore(self) -> None:
        for content in self._contents.values():
            content.restore()
        for container, items in [*self._containers, (self._module._buffers, self._buffers)]:
            _refill(container, items)
        for name in _attributes(self._module).keys() - self._attributes.keys():
            del self._module.__dict__[name]
        self._module.__dict__.update(self._attributes)


@dataclass(frozen=True)
class _Content:
    """A tensor, and what it held: a copy, or None for a tensor without numbers yet."""

    tensor: Tensor
    held: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor) -> _Content:
        return cls(tensor, None if tensor.is_meta or is_lazy(tensor) else tensor.detach().clone())

    def differs(self, now: Tensor) -> bool:
        """Whether `now` holds something else."""
        if self.held is None or now.is_meta:
            return False
        return not same(self.held, now)

    def restore(self) -> None:
        if self.held is None or not self.differs(self.tensor):
            return
        # An expanded tensor has many elements at one place of the memory, which are written once.
        strides = self.tensor.stride() if self.tensor.layout is torch.strided else ()
        once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)
        with torch.inference_mode(self.tensor.is_inference()), torch.no_grad():
            target, held = self.tensor.detach(), self.held
            (target[once] if 0 in strides else target).copy_(held[once] if 0 in strides else held)


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers; NaN is the same as NaN."""
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    one, other = _comparable(one), _comparable(other)
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


def _comparable(tensor: Tensor) -> Tensor:
    if tensor.is_quantized:
        return tensor.dequantize()
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module keeps in plain attributes."""
    if any(kind.__module__.startswith("torch.distributed") for kind in type(module).__mro__):
        return {}
    return {name: value for name, value in vars(module).items() if name not in _MODULES_OWN}


def _walk(held: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """The tensors, lists, tuples, dicts and sets in what a module holds, each once, with its path."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [(str(name), value) for name, value in held.items()]
    while waiting:
        path, value = waiting.pop()
        if not isinstance(value, Tensor | list | tuple | dict | set) or id(value) in seen:
            continue
        seen.add(id(value))
        yield path, value
        if isinstance(value, dict):
            waiting += [(f"{path}[{key}]", item) for key, item in value.items() if not isinstance(item, str | int)]
        elif isinstance(value, list | tuple):
            waiting += [(f"{path}[{n}]", item) for n, item in enumerate(value) if not isinstance(item, str | int)]


def _tensors(held: Mapping[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors but for parameters, which some modules keep in a list as well."""
    return (
        (path, value)
        for path, value in _walk(held)
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
    )


def _containers(held: Mapping[Any, Any]) -> Iterator[Any]:
    return (value for _, value in _walk(held) if type(value) in (list, dict, set))


def _refill(container: Any, items: Any) -> None:
    """Have a list, dict or set hold the `items` again, the very objects."""
    if isinstance(container, list):
        container[:] = items
    else:
        container.clear()
        container.update(items)


def kept_tensors(model: nn.Module) -> list[str]:
    """The tensors that a model's modules keep in plain attributes, each with its shape."""
    return [
        f"{f'{name}.' if name else ''}{path} {tuple(tensor.shape)}"
        for name, module in model.named_modules()
        for path, tensor in _tensors(_attributes(module))
    ]
