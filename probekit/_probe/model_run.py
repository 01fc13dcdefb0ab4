"""One run of a model on a batch, which leaves the model as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from probekit._nested import mapped, tensors
from probekit._probe.model_state import ModelState, kept_tensors, same
from probekit.errors import ModelError

__all__ = ["copied", "device_of", "every_module_runs", "run", "running", "seeded", "written"]


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
def running(model: nn.Module, mode: str = "eval") -> Iterator[ModelState]:
    """The model in ``"eval"`` or ``"train"`` mode, or ``"as is"``, without gradients.

    Every module's training flag, buffers and attributes, and the state of the random generators are put back
    afterwards. The flags are set on the modules themselves, since a model's own ``train()`` may do more: merge weights,
    or start a training.
    """
    state, training = ModelState(model), [(module, module.training) for module in model.modules()]
    # Asking a CUDA device for its state would start CUDA, so only those in use already are kept.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        if mode != "as is":
            for module in model.modules():
                module.training = mode == "train"
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield state
    finally:
        for module, flag in training:
            module.training = flag
        state.restore()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers that `seed` alone decides; what is drawn after the block is as if the block had drawn nothing."""
    # torch.manual_seed would queue a call for CUDA where that isn't in use, with the text of the stack.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield


def device_of(model: nn.Module) -> torch.device | None:
    """Where the model's first parameter or buffer is, and None where it has none that holds numbers.

    A model whose weights accelerate loads when they are needed says itself where it runs.
    """
    device = getattr(getattr(model, "_hf_hook", None), "execution_device", None)
    if device is not None:
        return torch.device(device)
    there = (tensor.device for tensor in chain(model.parameters(), model.buffers()))
    return next((device for device in there if device.type != "meta"), None)


def copied(inputs: Any) -> Any:
    """The same inputs in memory of their own, for a model that may write to them."""
    return mapped(_copied, inputs)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    try:
        return deepcopy(value)
    except (TypeError, RuntimeError):  # such as an open file, which has no copy
        return value


def written(copy: Any, inputs: Any) -> bool:
    """Whether a model has written to the `copy` of its inputs that it ran on."""
    pairs = zip(tensors(copy), tensors(inputs), strict=True)
    return any(not same(*pair) for pair in pairs)


def run(model: nn.Module, inputs: Any, device: torch.device | None, function: Callable[..., Any] | None = None) -> Any:
    """The model's output for one batch: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Tensors are taken to `device`, the model's, which itself is never moved. `function` is called in place of the model,
    such as a method of it.
    """
    call = model if function is None else function
    inputs = inputs if device is None else _on(device, inputs)
    try:
        if isinstance(inputs, Mapping):
            return call(**inputs)
        # A named tuple, such as a PackedSequence, is one argument.
        several = isinstance(inputs, tuple | list) and not hasattr(inputs, "_fields")
        return call(*inputs) if several else call(inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        fact = f"{type(model).__name__} failed on a batch of {mapped(_described, inputs)}: {error}"
        raise ModelError(f"{fact}{_advice(model, inputs, error)}") from error


def _advice(model: nn.Module, inputs: Any, error: Exception) -> str:
    """A sentence on what a failed forward may lack here, or an empty string."""
    if "does not require grad" in str(error) and not torch.is_grad_enabled():
        ours = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
        line = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(ours)][-1]
        return (
            f"\nIts forward takes a gradient, and gradients are off here: in {line.filename}, line {line.lineno}, run "
            "what the gradient goes through under `with torch.enable_grad():`."
        )
    if isinstance(inputs, Mapping) and isinstance(error, TypeError):
        return "\nA dict is given by keyword. To give it as one argument, nest it in two tuples: ((inputs,),)."
    kept = kept_tensors(model)
    if not kept:
        return ""
    more = f" and {len(kept) - 3} more" if len(kept) > 3 else ""
    return (
        f"\nIts modules keep tensors from one pass to the next: {', '.join(kept[:3])}{more}. If these are a state that "
        "doesn't fit the batch, give reset=, a callable that takes the model and clears it before each pass."
    )


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
