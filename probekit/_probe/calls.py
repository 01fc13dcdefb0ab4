"""Which forward pass of a model is under way, and the number of each call of a module in it."""

from __future__ import annotations

import gc
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from threading import Thread, current_thread, get_ident
from types import FrameType
from typing import NamedTuple

from torch import nn
from torch._C import _current_graph_task_id

from probekit.errors import SiteError

__all__ = ["CallCounter", "has_ended", "in_backward"]


class Running(NamedTuple):
    """A call that is under way, until it returns or anything is raised.

    A hook can't tell when it ends: torch calls none where a KeyboardInterrupt ends it.
    """

    frame: FrameType
    thread: int

    @property
    def ended(self) -> bool:
        at = sys._current_frames().get(self.thread)
        while at is not None and at is not self.frame:
            at = at.f_back
        return at is None


def has_ended(frame: FrameType, thread: int) -> bool:
    """`Running.ended`, for those who ask often: the garbage collector doesn't track a frame before it has ended."""
    return gc.is_tracked(frame) and Running(frame, thread).ended


class CallCounter:
    """Counts the calls of each module in a forward pass of a model.

    Where a part of the model runs by itself, the pass is of the outermost method of the model's modules that is under
    way. When it is over, the pass goes on until one of its modules comes again.

    Args:
        model: the model's class, for errors.
        modules: all of the model's.
        began: called when a pass begins, with whether it is of a part alone.
    """

    def __init__(self, model: str, modules: Iterable[nn.Module], began: Callable[[bool], None]) -> None:
        self._model, self._began = model, began
        self._modules = {id(module) for module in modules}
        self._passes: list[Running] = []  # of the model that are under way, one within another
        self._part: Running | None = None  # what the last pass was of, if it was of a part
        self._calls: dict[tuple[str, str], int] = defaultdict(int)  # of each module and side, in this pass
        self._elsewhere: dict[tuple[str, str], Thread] = {}  # where those ran that didn't run in the pass's own thread
        self._several: set[str] = set()

    @property
    def outermost(self) -> bool:
        """Whether the pass under way is the model's, and not one of the model within itself."""
        if len(self._passes) > 1:
            self._drop_ended()
        return len(self._passes) == 1

    @property
    def several(self) -> set[str]:
        """The modules that ran more than once in a pass since `forget`."""
        return self._several

    def reset(self) -> None:
        """No pass is under way."""
        self._passes, self._part = [], None

    def forget(self) -> None:
        """Forget which modules ran more than once."""
        self._several = set()

    def begin(self, *given: object) -> None:
        """Called by a hook before the model's forward.

        Raises:
            SiteError: a pass is under way in another thread.
        """
        if in_backward():
            return
        self._drop_ended()
        if self._passes and self._passes[-1].thread != get_ident():
            raise self._in_two_threads(self._model)
        if not self._passes:
            self._part = None
            self._begin(of_part=False)
        self._passes.append(Running(sys._getframe(2), get_ident()))  # what called the hook lasts as long as the pass

    def end(self, *seen: object) -> None:
        """Called by a hook after the model's forward, also if it raises."""
        if self._passes and self._passes[-1].thread == get_ident() and not in_backward():
            self._passes.pop()

    def count(self, name: str, side: str) -> int:
        """The number of this call of a module in this pass, counted at this `side` of it.

        Raises:
            SiteError: the module has run in another thread in this pass.
        """
        key = name, side
        if self._passes and has_ended(*self._passes[-1]):
            self._drop_ended()
        now = self._passes[-1] if self._passes else self._pass_of_part(key)
        if now.thread != get_ident() or self._elsewhere:
            self._check_thread(key, now)
        call = self._calls[key]
        self._calls[key] = call + 1
        if call:
            self._several.add(name)
        return call

    def _pass_of_part(self, key: tuple[str, str]) -> Running:
        if self._part is None or (key in self._calls and self._part.ended):
            self._part = Running(self._outermost_method(), get_ident())
            self._begin(of_part=True)
        return self._part

    def _outermost_method(self) -> FrameType:
        frame: FrameType | None = sys._getframe()
        found = sys._getframe()
        while frame is not None:
            first = frame.f_code.co_varnames[:1]
            if first == ("self",) and id(frame.f_locals.get("self")) in self._modules:
                found = frame
            frame = frame.f_back
        return found

    def _check_thread(self, key: tuple[str, str], now: Running) -> None:
        other = None if now.thread == get_ident() else current_thread()
        if key in self._calls and self._elsewhere.get(key) is not other and not now.ended:
            raise self._in_two_threads(key[0])
        if other is not None:
            self._elsewhere[key] = other

    def _in_two_threads(self, name: str) -> SiteError:
        of = "" if name == self._model else f" of {self._model}"
        return SiteError(
            f"{name}{of} runs in two threads at once, and a probe can't tell whose activations are whose. Run the "
            "probed model in one thread at a time; of a model in nn.DataParallel, probe the .module, and run that."
        )

    def _drop_ended(self) -> None:
        self._passes = [one for one in self._passes if not one.ended]

    def _begin(self, *, of_part: bool) -> None:
        self._calls.clear()
        self._elsewhere.clear()
        self._began(of_part)


def in_backward() -> bool:
    """Whether a backward pass is under way, in which checkpointed modules run once more to no new purpose."""
    return _current_graph_task_id() != -1
