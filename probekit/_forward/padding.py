"""What padding does to what is kept: which reductions may count it, and whether texts may run with less of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from probekit._forward.dry_run import DryRun
from probekit._forward.masks import CUSTOM, named_inputs
from probekit._forward.options import RunOptions
from probekit._nested import tensors
from probekit._probe.sharded import runs_in_parts

__all__ = ["runs_by_length", "warn_of_padding"]


def runs_by_length(model: nn.Module, dry: DryRun, kept: Iterable[tuple[int, ...]], how: RunOptions) -> bool:
    """Whether what is kept of a text is the same, whichever texts run with it, and however far they are padded.

    `kept` are the shapes of what the sites keep of a sample or a token.
    """
    example = dry.example
    if not example.padded or example.tokens is None or how.mode != "eval" or dry.state or runs_in_parts(model):
        return False
    # Of a site that keeps positions, an axis is as long as the padded texts.
    lengths = {tensor.shape[1] for tensor in tensors(example.inputs)}
    return all(lengths.isdisjoint(shape) for shape in kept)


def warn_of_padding(model: nn.Module, inputs: Any, pooled: Mapping[str, tuple[int, int]]) -> None:
    """Warn where the positions of sites may be padding: `pooled` are those (batch, position) that no mask tells."""
    named = named_inputs(model, inputs)
    lengths = {tensor.shape[1] for tensor in named.values() if tensor.dim() in (2, 3)}
    shortened = any(name.endswith(CUSTOM) for name in named)  # a model of sound makes fewer positions of these
    blind = [site for site, (_, length) in pooled.items() if shortened or length in lengths]
    if blind:
        warnings.warn(
            f"No mask says which positions of {', '.join(blind[:3])}{' …' if blind[3:] else ''} are real, so "
            "reduce= counts padding too. Say where the mask is (mask='attention_mask', or a callable "
            "that makes it of the inputs, where the site has fewer positions), or that there is none (mask=False).",
            stacklevel=5,
        )
