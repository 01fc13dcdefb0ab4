"""Watching a training that Lightning or the Trainer of Hugging Face runs."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, Self

from probekit._measure.watch import Watch
from probekit.errors import DataError, PluginError, install_command

__all__ = ["LightningWatch", "TrainerWatch"]


class _Callback:
    """A callback whose base class belongs to a package that is imported when the first one is made."""

    _classes: tuple[str, ...]  # where the base class may lie, as module:class
    _extra: str

    def __new__(cls, *_: Any, **__: Any) -> Self:
        made: Self = object.__new__(_with_bases(cls))
        return made

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch
        self._seen: int | None = None

    def _at(self, step: int) -> None:
        """Call the watch, once a step: batches whose gradients add up, and a second fit, give the last one again."""
        if step != self._seen:
            self._seen = step
            self._watch(step)


def _with_bases(cls: type[_Callback]) -> Any:
    return type(cls.__name__, (cls, *_bases(cls)), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def _bases(cls: type[_Callback]) -> list[type]:
    """The class of each package that is in use already, or else of the first that is installed."""
    places = [place.split(":") for place in cls._classes]
    used = [place for place in places if place[0] in sys.modules]
    installed = [place for place in places if find_spec(place[0].partition(".")[0])]
    if not installed:
        package = places[0][0].partition(".")[0]
        raise PluginError(f"{cls.__name__} needs {package}, which isn't installed: {install_command(cls._extra)}.")
    return [getattr(import_module(module), name) for module, name in used or installed[:1]]


class LightningWatch(_Callback):
    """A callback for a Lightning ``Trainer`` (of ``lightning`` or ``pytorch_lightning``) that calls `watch`.

    It does so on the process of rank zero, before the training and then after each step of the optimizer, with
    ``trainer.global_step``; or with the number of epochs that are done. What is due is measured.

    Args:
        watch: of the LightningModule or a part of it.
        on: ``"step"`` or ``"epoch"``: what `every` and the dim ``step`` of the watch count.

    Raises:
        PluginError: Lightning isn't installed (extra ``lightning``).
        DataError: another `on`.

    Example::

        watch = pk.Watch(module.net, data, ["sparsity"], every=1, out="watch.zarr")
        trainer = lightning.Trainer(callbacks=[LightningWatch(watch, on="epoch")])
    """

    _classes = ("lightning.pytorch:Callback", "pytorch_lightning:Callback")
    _extra = "lightning"

    def __init__(self, watch: Watch, on: Literal["step", "epoch"] = "step") -> None:
        super().__init__(watch)
        if on not in ("step", "epoch"):
            raise DataError(f"on is {on!r}; it is 'step' or 'epoch'.")
        self._on = on

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._at_rank_zero(trainer, trainer.global_step if self._on == "step" else trainer.current_epoch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._on == "step":
            self._at_rank_zero(trainer, trainer.global_step)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self._on == "epoch":
            self._at_rank_zero(trainer, trainer.current_epoch + 1)

    def _at_rank_zero(self, trainer: Any, step: int) -> None:
        if trainer.is_global_zero:
            self._at(step)


class TrainerWatch(_Callback):
    """A callback for the ``Trainer`` of Hugging Face transformers that calls `watch`.

    It does so on the first process, before the training and then after each step of the optimizer, with
    ``state.global_step``. What is due is measured.

    Raises:
        PluginError: transformers isn't installed (extra ``hf``).

    Example::

        watch = pk.Watch(model, data, ["sparsity"], every=500, sites="**.mlp.act")
        trainer = transformers.Trainer(model=model, callbacks=[TrainerWatch(watch)], ...)
    """

    _classes = ("transformers:TrainerCallback",)
    _extra = "hf"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at_first(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at_first(state)

    def _at_first(self, state: Any) -> None:
        if state.is_world_process_zero:
            self._at(state.global_step)
