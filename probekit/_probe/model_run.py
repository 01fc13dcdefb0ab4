"""One run of a model on a batch, which leaves the model as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from probekit._nested import mapped
from probekit.errors import ModelError

__all__ = ["device_of", "every_module_runs", "run", "running"]


@contextmanager
def every_module_runs() -> Iterator[None]:
    """Without torch's fast path of transformer layers, which runs none of their modules and gives nested tensors."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def running(model: nn.Module, mode: str = "eval") -> Iterator[None]:
    """The model in ``"eval"`` or ``"train"`` mode, without gradients.

    Every module's training flag, the buffers and the state of the random generators are put back afterwards.
    """
    training = [(module, module.training) for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    # Asking a CUDA device for its state would start CUDA, so only those in use already are kept.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    model.train(mode == "train")
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, flag in training:
            module.training = flag
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])


def device_of(model: nn.Module) -> torch.device | None:
    """Where the model's first parameter or buffer is, and None where it has none."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), None)


def run(model: nn.Module, inputs: Any, device: torch.device | None) -> Any:
    """The model's output for one batch: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Tensors are taken to `device`, the model's, which itself is never moved.
    """
    inputs = inputs if device is None else _on(device, inputs)
    try:
        if isinstance(inputs, Mapping):
            return model(**inputs)
        # A named tuple, such as a PackedSequence, is one argument.
        several = isinstance(inputs, tuple | list) and not hasattr(inputs, "_fields")
        return model(*inputs) if several else model(inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"{type(model).__name__} failed on a batch of {mapped(_described, inputs)}: {error}"
        ) from error


def _on(device: torch.device, inputs: Any) -> Any:
    """The inputs with every tensor in them on `device`."""

    def moved(value: Any) -> Any:
        if isinstance(value, PackedSequence):
            return value.to(device)  # type: ignore[arg-type]  # its stub knows dtypes only
        return value.to(device) if isinstance(value, Tensor) else value

    return mapped(moved, inputs)


class _Text(str):
    """A text that is shown without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _described(value: Any) -> _Text:
    if isinstance(value, Tensor):
        return _Text(f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}")
    return _Text(type(value).__name__)
