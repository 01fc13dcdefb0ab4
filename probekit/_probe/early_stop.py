"""A forward pass that is left as soon as it has given all that is wanted of it, and models that can't be left so."""

from __future__ import annotations

from torch import nn

from probekit._probe.offloaded import offloaded_weights

__all__ = ["AllRecorded", "what_must_run"]


class AllRecorded(BaseException):
    """Raised by a probe's ``record`` to leave the forward pass under way.

    It is no `Exception`, so that a model which handles those of its own lets it through.
    """


def what_must_run(model: nn.Module) -> str | None:
    """What has to run after the forwards of the model's modules, as a clause; None where a pass may be left anywhere.

    A pass that is left by an exception runs no hook on the modules that it is in, as after Ctrl-C.
    """
    for name, module in model.named_modules():
        where = name or type(model).__name__
        if any(kind.__module__.startswith("torch.distributed") for kind in type(module).__mro__):
            return f"{where} is a {type(module).__name__}, which ends each pass together with other processes"
        if module._forward_hooks_always_called:
            return f"{where} has a hook that is always called after its forward"
    if offloaded_weights(model):
        return "accelerate unloads weights after the forward of the modules that they belong to"
    return None
