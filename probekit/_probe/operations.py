"""Functional operations (not modules): which module's forward called each of them, and what it gave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from probekit._nested import leaves
from probekit._probe.calls import CallCounter, in_backward
from probekit._probe.site_name import SiteName

__all__ = ["OperationFollower"]


class OperationFollower(TorchFunctionMode):
    """Hands over the result of every torch function that a module's forward calls, with the name of its site.

    Args:
        calls: counts the calls of modules.
        record: called with the site and what the function returned.

    Attributes:
        paused: whether what is called now isn't the model's.
    """

    def __init__(self, calls: CallCounter, record: Callable[[SiteName, Any], None]) -> None:
        super().__init__()
        self._calls, self._record = calls, record
        self._running: list[tuple[str, int, dict[str, int]]] = []  # modules under way: name, call, operations so far
        self.paused = False

    def attach(self, modules: Mapping[str, nn.Module], hooks: ExitStack) -> None:
        """Know from here on which of the modules is running, and see every operation, until `hooks` is closed."""
        self._running.clear()
        for name, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(self._enter(name)).remove)
            hooks.callback(module.register_forward_hook(self._leave, always_call=True).remove)
        hooks.enter_context(self)

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            if not in_backward():
                self._running.append((name, self._calls.count(name, "op"), defaultdict(int)))

        return hook

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._running:
            self._running.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name != "__get__" and leaves(result):  # attributes, such as x.T, are not operations
            self._see(name.strip("_"), result)
        return result

    def _see(self, function: str, result: Any) -> None:
        if self.paused or not self._running:
            return
        name, call, counts = self._running[-1]
        site = SiteName(name, call, op=f"{function}_{counts[function]}")
        counts[function] += 1
        self._record(site, result)
