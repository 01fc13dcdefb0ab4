"""A hook that belongs to one module, and to no copy of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

__all__ = ["HookStack", "attach"]


def attach(
    register: Callable[..., RemovableHandle],
    module: nn.Module,
    act: Callable[..., Any],
    hooks: ExitStack,
    **options: bool,
) -> None:
    """Register a hook that calls `act` with what the module is given or gives, until `hooks` is closed.

    Args:
        register: the method of `module` that registers it, such as ``module.register_forward_hook``.
        options: of that method.
    """
    hook = _ModuleHook(module, act)
    hooks.callback(hook.end)
    hooks.callback(register(hook, **options).remove)


class HookStack(ExitStack):
    """What is to be undone on a model's modules: all of it, also where Ctrl-C comes between one step and the next."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self._modules = list(modules)

    def __exit__(self, *details: Any) -> bool:
        try:
            return bool(super().__exit__(*details))
        finally:
            super().__exit__(None, None, None)  # what an interrupt has left
            _remove_ended(self._modules)


def _remove_ended(modules: Iterable[nn.Module]) -> None:
    """Remove the hooks that have ended and are still registered."""
    for module in modules:
        for registered in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in registered.items() if isinstance(hook, _ModuleHook) and hook.ended]:
                registered.pop(key, None)
                for notes in _about_hooks(module):
                    notes.pop(key, None)


def _about_hooks(module: nn.Module) -> list[dict[int, Any]]:
    """What torch notes about hooks beside them."""
    names = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
    return [getattr(module, name) for name in names]


class _ModuleHook:
    __slots__ = ("_act", "_module")

    def __init__(self, module: nn.Module, act: Callable[..., Any]) -> None:
        self._module: nn.Module | None = module
        self._act = act

    def __call__(self, module: nn.Module, *seen: Any) -> Any:
        # A shallow copy shares the hooks of its original, and so do the replicas that nn.DataParallel makes for a pass.
        if module is self._module or (self._module is not None and getattr(module, "_is_replica", False)):
            return self._act(*seen)
        return None

    @property
    def ended(self) -> bool:
        return self._module is None

    def end(self) -> None:
        """Do nothing from here on, also where a pass that is under way holds on to this hook."""
        self._module = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A deep copy or a pickle of the module gets this instead: it takes anything, does nothing, and needs no
        # probekit where the pickle is loaded.
        return getattr, (nullcontext(), "__exit__")
