"""Which tensor among a model's inputs tells the real tokens of a site from padding."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from probekit._forward.options import MaskChoice
from probekit._nested import leaves
from probekit.errors import DataError, SiteError, near

__all__ = ["CUSTOM", "MaskSource", "choose_mask", "given_mask", "named_inputs"]

CUSTOM = "attention_mask"  # what transformers call a mask that is 1 for real tokens, alone or after a prefix


@dataclass(frozen=True)
class MaskSource:
    """Where a mask is: the `name` that errors and stores give it, and what takes it out of a batch's inputs.

    Sources of one `key` give the same mask; two functions may have the same name.
    """

    name: str
    key: object
    of: Callable[[Any], Tensor]


def named_inputs(model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    """The tensors among the inputs by the names of their keys, or of the parameters of the model's forward."""
    return _named_by(_parameters(model), inputs)


def _named_by(names: list[str], inputs: Any) -> dict[str, Tensor]:
    if isinstance(inputs, tuple | list) and not hasattr(inputs, "_fields"):
        inputs = {names[n] if n < len(names) else str(n): value for n, value in enumerate(inputs)}
    elif not isinstance(inputs, Mapping):
        inputs = {(*names, "0")[0]: inputs}
    return {path[1:-1]: tensor for path, tensor in leaves(inputs)}


def _parameters(model: nn.Module) -> list[str]:
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a forward that isn't Python's
        return []
    return [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]


def given_mask(model: nn.Module, inputs: Any, asked: MaskChoice) -> MaskSource | None:
    """The mask that the user names: a key or a parameter of forward, a place among the inputs, a callable; or none.

    Raises:
        DataError: the inputs have no such tensor.
    """
    if asked is False:
        return None
    if callable(asked):
        return MaskSource(getattr(asked, "__qualname__", type(asked).__qualname__), id(asked), _checked(asked))
    names = list(named_inputs(model, inputs))
    if isinstance(asked, int) and not isinstance(asked, bool) and 0 <= asked < len(names):
        asked = names[asked]
    if asked not in names:
        hint = near(asked, names) if isinstance(asked, str) else ""
        raise DataError(
            f"mask is {asked!r}, and the tensors among the inputs are {', '.join(map(repr, names))}.{hint} Give one of "
            "these names, its place, a callable that makes the mask of the inputs, or False for none.",
            arguments=("mask",),
        )
    return _named(model, asked)


def _named(model: nn.Module, name: str) -> MaskSource:
    parameters = _parameters(model)
    return MaskSource(name, name, lambda inputs: _named_by(parameters, inputs)[name])


def _checked(function: Callable[[Any], Any]) -> Callable[[Any], Tensor]:
    def mask(inputs: Any) -> Tensor:
        made = function(inputs)
        if not isinstance(made, Tensor):
            raise DataError(f"mask= returned a {type(made).__name__}, not a tensor.", arguments=("mask",))
        return made

    return mask


def choose_mask(model: nn.Module, inputs: Any, positions: tuple[int, int], site: str) -> MaskSource | None:
    """The mask of a site with such a (batch, position), where the inputs have one that is called like one.

    Raises:
        SiteError: the inputs have several that fit, or only some whose meaning isn't known.
    """
    fitting = [name for name, tensor in named_inputs(model, inputs).items() if tuple(tensor.shape) == positions]
    masks = [name for name in fitting if name.rpartition("[")[2].endswith(CUSTOM)]
    unknown = [name for name in fitting if "mask" in name.lower() and name not in masks]
    if len(masks) > 1 or (unknown and not masks):
        found = ", ".join(map(repr, masks or unknown))
        why = "any of which may tell its padding" if masks else "and 1 may mean a real token or padding there"
        name = (masks or unknown)[0]
        raise SiteError(
            f"{site} has {positions[1]} positions, and the inputs hold {found}, {why}. Say which tokens are real: "
            f"mask={{{site!r}: {name!r}}} for one that is 1 for real tokens, mask=lambda inputs: … for a mask that is "
            "made of the inputs, or mask=False for none.",
            arguments=("mask",),
        )
    return _named(model, masks[0]) if masks else None
