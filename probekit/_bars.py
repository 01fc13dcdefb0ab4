"""The progress that is drawn unless told otherwise: bars in terminals and notebooks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

from probekit.errors import check_kind, plain
from probekit.progress import Progress, silent

__all__ = ["Bars", "beside_bars", "default", "options"]

T = TypeVar("T")

_DELAY = 0.5  # seconds before a bar appears: what is done by then needs none
_shown = True  # what `options` sets


class Bars:
    """Bars on stderr with the rate and the time that is left, where someone watches: in a terminal or a notebook.

    Each call wraps an iterable; one inside another has its bar below. What is done in half a second has no bar.
    """

    def __init__(self) -> None:
        self.used = False  # whether there was anything to wrap
        self._open = 0

    def __call__(self, items: Iterable[T], /, description: str, total: int | None = None) -> Iterator[T]:
        self.used = True
        if not _is_watched():
            yield from items
            return
        self._open += 1
        try:
            with _bar()(desc=plain(description), total=total, unit="", delay=_DELAY, leave=self._open == 1) as bar:
                for item in items:
                    yield item
                    bar.update()
        finally:
            self._open -= 1


class options(AbstractContextManager[None]):  # reads as a function
    """Set how probekit behaves, until it is set again, or for a block: ``with pk.options(progress=False): ...``.

    Args:
        progress: whether functions that are given no ``progress=`` draw bars, in terminals and notebooks.

    Example:
        >>> import probekit as pk
        >>> with pk.options(progress=False):
        ...     pass  # quiet here
    """

    def __init__(self, *, progress: bool) -> None:
        global _shown
        check_kind("progress", progress, bool, "True or False")
        self._before = _shown
        _shown = progress

    def __exit__(self, *_: object) -> None:
        global _shown
        _shown = self._before


def default(progress: Progress | None) -> Progress:
    """The progress that a function was given; for None bars, unless `options` has turned them off.

    Raises:
        DataError: it is no callable.
    """
    if progress is None:
        return Bars() if _shown else silent
    check_kind("progress", progress, Callable, "a callable that wraps an iterable, or None")
    return progress


@contextmanager
def beside_bars() -> Iterator[None]:
    """Where something else is written to stderr: bars make way, and come back below it."""
    if "tqdm" not in sys.modules:
        yield
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        yield


def _is_watched() -> bool:
    if os.environ.get("RANK", "0") != "0":
        return False  # of the processes that torchrun starts, the first draws
    return _in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def _in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    return type(get_ipython()).__name__ == "ZMQInteractiveShell"


def _bar() -> Any:
    """The bar of a notebook that has widgets, or that of a terminal, which a notebook shows too."""
    if _in_notebook() and find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm
    # No thread that looks after slow bars: a process that has threads can't be forked safely.
    return type("Bar", (tqdm,), {"monitor_interval": 0})
