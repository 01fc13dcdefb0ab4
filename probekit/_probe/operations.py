"""Functional operations (not modules): which module's forward called each of them, and what it gave."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from threading import get_ident
from types import FrameType
from typing import Any, NamedTuple

from torch import nn
from torch.overrides import TorchFunctionMode

from probekit._nested import leaves
from probekit._probe.calls import CallCounter, has_ended, in_backward
from probekit._probe.module_hook import attach
from probekit._probe.site_name import SiteName

__all__ = ["OperationFollower"]


class _Body(NamedTuple):
    """The forward of a module that is under way, and how often it has called each function so far."""

    name: str
    call: int
    frame: FrameType  # which lasts as long
    counts: dict[str, int]


class OperationFollower(TorchFunctionMode):
    """Hands over the result of every torch function that a module's forward calls, with the name of its site.

    It sees what the thread calls in which it was attached.

    Args:
        calls: counts the calls of modules.
        record: called with the site and what the function returned.

    Attributes:
        paused: whether what is called now isn't the model's.
    """

    def __init__(self, calls: CallCounter, record: Callable[[SiteName, Any], None]) -> None:
        super().__init__()
        self._calls, self._record = calls, record
        self._bodies: list[_Body] = []  # one within another
        self._thread = 0
        self.paused = False

    def attach(self, modules: Mapping[str, nn.Module], hooks: ExitStack) -> None:
        """Know from here on which of the modules is running, and see every operation, until `hooks` is closed."""
        self._thread = get_ident()
        hooks.callback(self._bodies.clear)
        for name, module in modules.items():
            attach(module.register_forward_pre_hook, module, self._enter(name), hooks)
            attach(module.register_forward_hook, module, self._leave(name), hooks, always_call=True)
        hooks.enter_context(self)

    def _enter(self, name: str) -> Callable[..., None]:
        def act(*given: object) -> None:
            if get_ident() == self._thread and not in_backward():
                # The frame is that of what called the hook.
                self._bodies.append(_Body(name, self._calls.count(name, "op"), sys._getframe(2), defaultdict(int)))

        return act

    def _leave(self, name: str) -> Callable[..., None]:
        def act(*seen: object) -> None:
            # Torch calls it also where a hook before the forward failed, so that it may not have begun.
            if get_ident() == self._thread and self._bodies and self._bodies[-1].name == name and not in_backward():
                self._bodies.pop()

        return act

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name != "__get__" and leaves(result):  # attributes, such as x.T, are not operations
            self._see(name.strip("_"), result)
        return result

    def _see(self, function: str, result: Any) -> None:
        while self._bodies and has_ended(self._bodies[-1].frame, self._thread):
            self._bodies.pop()
        if self.paused or not self._bodies:
            return
        body = self._bodies[-1]
        site = SiteName(body.name, body.call, op=f"{function}_{body.counts[function]}")
        body.counts[function] += 1
        self._record(site, result)
