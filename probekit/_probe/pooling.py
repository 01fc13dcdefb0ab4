"""Pooling an activation over its positions, of which a mask says which are real."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from probekit.errors import DataError, SiteError

__all__ = ["NAMED", "Constants", "Mask", "Reduced", "constant", "is_mask", "narrow_dtype", "sample_dims", "wide_dtype"]

_ATTENTION_ERROR = 0.02  # by which shares in half precision, rounded each, may miss a sum of 1
_SPACE = {1: ("position",), 2: ("y", "x"), 3: ("z", "y", "x")}

Constants: TypeAlias = dict[tuple[object, ...], Tensor]


def sample_dims(ndim: int, nodes: int) -> tuple[str, ...]:
    """The names of the `ndim` axes of one sample, of which number `nodes` counts the nodes.

    >>> sample_dims(3, 0), sample_dims(2, 1)
    (('channel', 'y', 'x'), ('position', 'node'))
    """
    if ndim < 2 or (ndim == 2 and nodes == 1):
        return ("position", "node")[-ndim:] if ndim else ()
    space = _SPACE.get(ndim - 1, ()) if nodes in (0, ndim - 1) else ()
    names = list(space or [f"axis_{axis}" for axis in range(1, ndim + 1) if axis != nodes + 1])
    return (*names[:nodes], "channel", *names[nodes:])


class Reduced(NamedTuple):
    """A reduced activation: `tensor`, whose axis 0 is the batch, or one row a token; its axis `nodes` is the nodes.

    For rows of tokens, `sample` (row,) is the index of each row's sample in the batch, and `positions` (row,) its
    index among that sample's real tokens, both int64 on the CPU; otherwise they are None. `real` tells which positions
    of a tensor that has some are real, where a mask says so.
    """

    tensor: Tensor
    sample: Tensor | None = None
    positions: Tensor | None = None
    nodes: int = 1
    real: Mask | None = None

    @property
    def dims(self) -> tuple[str, ...]:
        """The names of the tensor's axes after axis 0."""
        return sample_dims(self.tensor.dim() - 1, self.nodes - 1)


@dataclass(frozen=True, eq=False)
class Mask:
    """Which tokens of a batch are real: (batch, position), true where they are; padding may stand anywhere.

    Made once a batch with `Mask.of`, its indices serve every site of that batch.
    """

    given: Tensor
    _there: Constants = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, mask: Tensor | Mask) -> Mask:
        """`mask` as a Mask.

        Raises:
            DataError: it holds anything but true and false, or 1 and 0.
        """
        if isinstance(mask, Mask):
            return mask
        if not is_mask(mask):
            raise DataError(
                f"This mask, of shape {tuple(mask.shape)}, must hold only 1 (a real token) and 0 (padding)."
            )
        return cls(mask.detach().cpu().bool())

    @cached_property
    def padded(self) -> bool:
        """Whether any token is not real."""
        return not bool(self.given.all())

    @cached_property
    def lengths(self) -> Tensor:
        """The number of real tokens of each sample (batch,)."""
        return self.given.sum(1)

    @cached_property
    def tokens(self) -> Tensor:
        """(batch, number): each sample's real tokens in order, then its last one again, as indices into all tokens."""
        order = torch.argsort((~self.given).to(torch.uint8), dim=1, stable=True)
        numbers = torch.arange(max(self.lengths.tolist(), default=1))
        order = order.gather(1, torch.minimum(numbers, self.lengths[:, None] - 1))
        return order + torch.arange(len(order))[:, None] * self.given.shape[1]

    @cached_property
    def filled(self) -> Tensor:
        """(batch, number): which entries of `tokens` hold a token of their own."""
        return torch.arange(self.tokens.shape[1]) < self.lengths[:, None]

    def on(self, name: str, device: torch.device) -> Tensor:
        """One of the tensors above, on `device`."""
        if (name, device) not in self._there:
            self._there[name, device] = getattr(self, name).to(device)
        return self._there[name, device]

    def check(self, tensor: Tensor) -> None:
        """Raise SiteError unless the mask is of the tokens (batch, position, node), with a real one in every sample."""
        shape = tuple(self.given.shape)
        if shape != tensor.shape[:2]:
            raise SiteError(
                f"the mask has shape {shape}, and the (batch, position) of these tokens is {tuple(tensor.shape[:2])}. "
                "Say which mask is this site's, or that it has none (mask=), or leave the site out (exclude=).",
                arguments=("mask", "exclude"),
            )
        if not self.lengths.all():
            empty = int((self.lengths == 0).nonzero()[0])
            raise SiteError(f"sample {empty} of the batch has no real token: its mask is 0 everywhere.")


def is_mask(tensor: Tensor) -> bool:
    """Whether a tensor holds true and false, or 1 and 0, alone."""
    return bool(((tensor == 0) | (tensor == 1)).all())


def constant(
    made: Constants, device: torch.device, key: tuple[int | torch.dtype, ...], make: Callable[[], Tensor]
) -> Tensor:
    """A tensor that depends on `key` alone, made once and kept in `made` for each device."""
    if (device, *key) not in made:
        # Made under inference_mode it couldn't serve a later forward that has gradients.
        with torch.inference_mode(False):
            made[device, *key] = make().to(device)
    return made[device, *key]


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values of `dtype` are added up."""
    fractional = dtype.is_floating_point or dtype.is_complex
    return torch.promote_types(dtype, torch.float32 if fractional else torch.float64)


def narrow_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums of values of `dtype` are kept."""
    return dtype if dtype.is_floating_point or dtype.is_complex else torch.float64


def _by_position(kept: Reduced, mask: Mask | None) -> Tensor:
    """(batch, position, node) for any layout, checked against the mask; (batch, 1, …) without positions."""
    tensor = kept.tensor
    if tensor.dim() < 3:
        return tensor.unsqueeze(1)
    # The first way makes no copy, and is that of feature maps.
    spread = tensor.flatten(2).transpose(1, 2) if kept.nodes == 1 else tensor.movedim(kept.nodes, -1).flatten(1, -2)
    if mask is not None:
        mask.check(spread)
    if not spread.shape[1]:
        raise SiteError("it has no positions.")
    return spread


def _packed(kept: Reduced, mask: Mask | None) -> tuple[Tensor, Mask | None]:
    """(batch, number, node), as `Mask.tokens` orders them, and the mask where entries are left over."""
    spread = _by_position(kept, mask)
    if mask is None or not mask.padded or kept.tensor.dim() < 3:
        return spread, None
    tokens = mask.on("tokens", spread.device)
    return spread.flatten(0, 1).index_select(0, tokens.flatten()).unflatten(0, tokens.shape), mask


def _mean(kept: Reduced, mask: Mask | None) -> Reduced:
    tensor = kept.tensor
    packed, real = _packed(kept, mask)
    packed = packed.to(wide_dtype(tensor.dtype))
    counts: Tensor | int = packed.shape[1]
    if real is not None:
        # Adding -0.0 changes no bit of anything; adding 0.0 changes -0.0. In place, since what is packed is a copy.
        packed.masked_fill_(~real.on("filled", tensor.device)[:, :, None], -0.0)
        counts = real.on("lengths", tensor.device)[:, None]
    return Reduced((_pairwise_sum(packed) / counts).to(narrow_dtype(tensor.dtype)))


def _pairwise_sum(values: Tensor) -> Tensor:
    """The sum over axis 1, by adding neighbours until one is left.

    A value meets the same partners whatever follows the sample's end, so padding, the rest of the batch, the memory
    layout and the device leave its bits alone; torch's own sum promises none of these.
    """
    while values.shape[1] > 1:
        even, odd = values[:, 0::2], values[:, 1::2]
        pairs, alone = even[:, : odd.shape[1]] + odd, even[:, odd.shape[1] :]
        values = torch.cat([pairs, alone], 1) if alone.shape[1] else pairs
    return values[:, 0]


def _max(kept: Reduced, mask: Mask | None) -> Reduced:
    return Reduced(_packed(kept, mask)[0].amax(1))


def _flatten(kept: Reduced, mask: Mask | None) -> Reduced:
    return Reduced(kept.tensor.flatten(1) if kept.tensor.dim() > 1 else kept.tensor.unsqueeze(1))


def _tokens_of(kept: Reduced, mask: Mask | None) -> Tensor:
    """The tokens (batch, position, node)."""
    if kept.tensor.dim() != 3:
        raise SiteError(
            "it has no tokens, which have the shape (batch, position, node). Select sites that have tokens (sites=, "
            "exclude=), or reduce only those, as in reduce={'layers.*': 'tokens'}.",
            arguments=("sites", "exclude", "reduce"),
        )
    return _by_position(kept, mask)


def _one_token(kept: Reduced, mask: Mask | None, *, number: int) -> Reduced:
    tokens = _tokens_of(kept, mask)
    if mask is None:
        return Reduced(tokens[:, number])
    return Reduced(tokens.flatten(0, 1).index_select(0, mask.on("tokens", tokens.device)[:, number]))


def _all_tokens(kept: Reduced, mask: Mask | None) -> Reduced:
    tokens = _tokens_of(kept, mask)
    real = Mask(torch.ones(tokens.shape[:2], dtype=torch.bool)) if mask is None else mask
    sample, positions = real.filled.nonzero(as_tuple=True)
    index = real.tokens[real.filled].to(tokens.device)
    return Reduced(tokens.flatten(0, 1).index_select(0, index), sample, positions)


def _attention_entropy(kept: Reduced, mask: Mask | None) -> Reduced:
    """The mean entropy (batch, head) of the attention of the real queries, in bits."""
    maps = kept.tensor
    if maps.dim() not in (3, 4) or not maps.is_floating_point():
        raise SiteError(
            "it is no attention map, which is of floats and has the shape (batch, head, query, key), or (batch, query, "
            "key) for the mean of the heads. Reduce only the sites that are, as in "
            "reduce={'**.attention[1]': 'attention_entropy'}.",
            arguments=("reduce",),
        )
    maps = (maps if maps.dim() == 4 else maps.unsqueeze(1)).to(wide_dtype(maps.dtype))
    sums = maps.sum(3)
    attends = sums != 0  # a query that may attend to nothing, and the zeros of a dry run
    if not ((maps >= 0).all() and ((sums - 1).abs() < _ATTENTION_ERROR).where(attends, True).all()):
        raise SiteError(
            "it is no attention map: the values of a query must be shares, from 0 on, that add up to 1; these go from "
            f"{float(maps.min()):.3g} on and add up to between {float(sums.min()):.3g} and {float(sums.max()):.3g}. "
            "Scores before the softmax are none, nor are weights after dropout (mode='eval' leaves that out).",
            arguments=("reduce", "mode"),
        )
    if mask is not None:
        mask.check(maps.transpose(1, 2))
        attends = attends & mask.on("given", maps.device)[:, None]
    # Divided by their sum, since shares in half precision add up to 1 only nearly.
    entropies = torch.special.entr(maps / sums[..., None]).sum(3).where(attends, 0.0)
    mean = entropies.sum(2) / attends.sum(2) / math.log(2)
    return Reduced(mean.to(narrow_dtype(kept.tensor.dtype)))


NAMED: dict[str, Callable[[Reduced, Mask | None], Reduced]] = {
    "mean": _mean,
    "max": _max,
    "flatten": _flatten,
    "cls": partial(_one_token, number=0),
    "last": partial(_one_token, number=-1),
    "tokens": _all_tokens,
    "attention_entropy": _attention_entropy,
}
