"""Which forward pass of a model is under way, and the number of each call of a module in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["CallCounter", "in_backward"]


class CallCounter:
    """Counts the calls of each module in a forward pass of a model.

    A part of the model that is called by itself makes a pass, too, which ends when one of its modules comes again.

    Args:
        began: called when a pass begins, with whether it is of a part alone.
    """

    def __init__(self, began: Callable[[bool], None]) -> None:
        self._began = began
        self._depth = 0  # of the model's forward passes that are under way
        self._of_part = False
        self._calls: dict[tuple[str, str], int] = defaultdict(int)  # of each module and side, in this pass
        self._most: dict[str, int] = defaultdict(int)  # of each module in any pass since `forget`

    @property
    def outermost(self) -> bool:
        """Whether the pass under way is the model's, and not one of the model within itself."""
        return self._depth == 1

    @property
    def several(self) -> set[str]:
        """The modules that ran more than once in a pass since `forget`."""
        return {module for module, calls in self._most.items() if calls > 1}

    def reset(self) -> None:
        """No pass is under way."""
        self._depth = 0

    def forget(self) -> None:
        """Forget which modules ran more than once."""
        self._most.clear()

    def begin(self, module: nn.Module, args: Any) -> None:
        """A hook before the model's forward."""
        if self._depth == 0:
            self._begin(of_part=False)
        self._depth += 1

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        """A hook after the model's forward, also if it raises."""
        self._depth -= 1

    def count(self, name: str, side: str) -> int:
        """The number of this call of a module in this pass, counted at this `side` of it."""
        if self._depth == 0 and (not self._of_part or (name, side) in self._calls):
            self._begin(of_part=True)
        call = self._calls[name, side]
        self._calls[name, side] = call + 1
        self._most[name] = max(self._most[name], call + 1)
        return call

    def _begin(self, *, of_part: bool) -> None:
        self._calls.clear()
        self._of_part = of_part
        self._began(of_part)


def in_backward() -> bool:
    """Whether a backward pass is under way, in which checkpointed modules run once more to no new purpose."""
    return torch._C._current_graph_task_id() != -1
