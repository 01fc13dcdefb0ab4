"""Weights that accelerate keeps elsewhere, in memory or on a disk, and loads into a module when it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

__all__ = ["offloaded_weights"]


def offloaded_weights(model: nn.Module) -> dict[str, Callable[[], Tensor]]:
    """What reads each weight and buffer that is kept elsewhere, by its name in the model's state dict."""
    found: dict[str, Callable[[], Tensor]] = {}
    for prefix, module in model.named_modules():
        for weights in _maps(getattr(module, "_hf_hook", None)):
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                if tensor.is_meta:
                    found[f"{prefix}.{name}" if prefix else name] = partial(weights.__getitem__, name)
    return found


def _maps(hook: Any) -> Iterator[Any]:
    """The mappings from names to weights that a hook of accelerate's, or several in one, load from."""
    for each in getattr(hook, "hooks", (hook,)):
        weights = getattr(each, "weights_map", None)
        if weights is not None:
            yield weights
