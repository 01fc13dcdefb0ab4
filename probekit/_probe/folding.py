"""Sites whose axis 0 is sample × position, as routers of mixtures of experts have it: found by experiment.

A shape alone doesn't tell them: another axis may be as long by chance, and the position may come before the sample.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from probekit._nested import leaves, mapped, tensors
from probekit._probe.hooks import Probe
from probekit._probe.model_run import copied, device_of, every_module_runs, run, running
from probekit._probe.site_name import SiteName
from probekit.errors import ModelError, SiteError

__all__ = ["folded_sites", "position_counts", "unfold"]

Values: TypeAlias = dict[SiteName, Tensor]


def position_counts(inputs: Any, rows: int) -> set[int]:
    """How many positions the samples of a batch have: the lengths of axis 1 of its token ids, masks or embeddings."""
    found = {path: tensor for path, tensor in leaves(inputs) if tensor.dim() in (2, 3) and len(tensor) == rows}
    return {tensor.shape[1] for path, tensor in found.items() if tensor.dim() == 3 or _counts(path, tensor)}


def _counts(path: str, tensor: Tensor) -> bool:
    """Whether a tensor (sample, …) is one of ids or a mask; fractions may be the features of samples."""
    return not tensor.is_floating_point() or "mask" in path


def unfold(tensor: Tensor, rows: int, positions: Collection[int]) -> Tensor:
    """(sample × position, node) as (sample, position, node), with so many rows of any of these numbers of positions.

    Raises:
        SiteError: axis 0 is another number of rows.
    """
    count = len(tensor) // max(1, rows)
    if count * rows != len(tensor) or count not in positions:
        many = " or ".join(map(str, sorted(positions)))
        raise SiteError(f"it has {len(tensor)} rows, for {rows} samples of {many} positions.")
    apart = tensor.reshape(rows, count, *tensor.shape[1:])
    return apart if apart.dim() > 2 else apart.unsqueeze(2)


def folded_sites(
    model: nn.Module,
    inputs: Any,
    rows: int,
    shapes: Mapping[SiteName, tuple[int, ...]],
    begin: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> dict[SiteName, int]:
    """The sites, by number of positions, whose axis 0 is sample × position, of those with these shapes for `inputs`.

    Where axis 0 is so long, the model runs in eval mode on another number of samples, on shorter ones, and on these in
    another order: then the same rows have to come, sample by sample. Each pass begins in `begin`.
    """
    found: dict[SiteName, int] = {}
    for positions in position_counts(inputs, rows) - {1}:
        asked = [site for site, shape in shapes.items() if shape and shape[0] == rows * positions and len(shape) < 5]
        if asked and rows > 0:
            experiment = _Experiment(model, inputs, rows, positions, begin)
            found |= dict.fromkeys(experiment.passed(asked), positions)
    return found


class _Experiment:
    """Passes over two samples, one of which is made of the other, one after the other and the other way round."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        rows: int,
        positions: int,
        begin: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._model, self._inputs, self._rows, self._positions = model, inputs, rows, positions
        self._begin = begin
        self._order = [0, 1] if rows != 2 else [0, 1, 0]  # another number of samples than there is
        self._swapped = [1, 0, *self._order[2:]]

    def passed(self, sites: Sequence[SiteName]) -> list[SiteName]:
        """Those of the sites whose axis 0 is sample × position."""
        wanted = [str(site) for site in dict.fromkeys(_forward(site) for site in sites)]
        modules = dict.fromkeys(site.module for site in sites)
        # A site whose rows are all alike says nothing; then others of its module do.
        beside = [*modules, *(f"{name}:input" for name in modules)]
        try:
            first, second = (self._values([*wanted, *beside], each) for each in (self._order, self._swapped))
        except (ModelError, SiteError, TypeError):
            return []  # it doesn't take so many samples, or can't be given others
        verdicts = {site: self._verdict(first.get(site), second.get(site)) for site in {**first, **second}}
        by_module: dict[str, set[bool]] = defaultdict(set)
        for site, verdict in verdicts.items():
            if verdict is not None:
                by_module[site.module].add(verdict)
        shorter = self._shorter(wanted)
        kept = []
        for site in sites:
            known = verdicts.get(_forward(site))
            sure = known if known is not None else by_module[site.module] == {True}
            if sure and self._follows(first.get(_forward(site)), shorter.get(_forward(site))):
                kept.append(site)
        return kept

    def _verdict(self, one: Tensor | None, other: Tensor | None) -> bool | None:
        """Whether the rows are sample by sample; None where nothing tells, being alike in either way."""
        count = len(self._order)
        if one is None or other is None or not one.dim() or not len(one) == len(other) == count * self._positions:
            return None
        swapped, sizes = [1, 0, *range(2, count)], (count, self._positions)
        samples_first = _alike(one.unflatten(0, sizes)[swapped], other.unflatten(0, sizes))
        positions_first = _alike(one.unflatten(0, sizes[::-1])[:, swapped], other.unflatten(0, sizes[::-1]))
        return None if samples_first and positions_first else samples_first

    def _follows(self, tensor: Tensor | None, shorter: Tensor | None) -> bool:
        """Whether axis 0 follows the number of samples and, where the model takes shorter ones, of positions."""
        count = len(self._order)
        if tensor is None or len(tensor) != count * self._positions:
            return False
        return shorter is None or (shorter.dim() > 0 and len(shorter) == count * (self._positions - 1))

    def _shorter(self, wanted: Sequence[str]) -> Values:
        """What samples of one position less give; nothing where the model doesn't take them."""
        try:
            return self._values(wanted, self._order, less=1)
        except (ModelError, SiteError):
            return {}

    def _values(self, wanted: Sequence[str], order: Sequence[int], less: int = 0) -> Values:
        inputs = self._batch(order, less)
        with running(self._model), every_module_runs(), self._begin(), Probe(self._model, list(wanted)) as probe:
            run(self._model, inputs, device_of(self._model))
            return {site: tensor.cpu() for site, tensor in probe.take_by_site().items()}

    def _batch(self, order: Sequence[int], less: int) -> Any:
        """The first sample, and what is made of it, in this order.

        Raises TypeError for inputs that hold samples in a way that nobody knows.
        """
        paths = iter([path for path, _ in leaves(self._inputs)])

        def made(value: Any) -> Any:
            if isinstance(value, Tensor):
                return self._reordered(next(paths), value, order, less)
            if value is None or isinstance(value, str | int | float | bool):
                return value
            raise TypeError(type(value).__name__)

        return mapped(made, copied(self._inputs))

    def _reordered(self, path: str, tensor: Tensor, order: Sequence[int], less: int) -> Tensor:
        if not tensor.dim() or len(tensor) != self._rows:
            return tensor
        first = tensor[:1]
        if not self._has_positions(tensor):
            return torch.cat([first] * len(order))
        # Another sample that the model surely takes: the same one position on, or of other ids where these are all one.
        pair = (first, first.roll(1, 1) if self._rolls or not _is_ids(path, tensor) else first ^ 1)
        return torch.cat([pair[each] for each in order])[:, : self._positions - less]

    @cached_property
    def _rolls(self) -> bool:
        """Whether the first sample is another one when it is moved by one position."""
        firsts = [tensor[:1] for tensor in tensors(self._inputs) if self._has_positions(tensor)]
        return any(not torch.equal(first, first.roll(1, 1)) for first in firsts)

    def _has_positions(self, tensor: Tensor) -> bool:
        return tensor.dim() > 1 and tensor.shape[:2] == (self._rows, self._positions)


def _is_ids(path: str, tensor: Tensor) -> bool:
    return "mask" not in path and tensor.dtype != torch.bool and not tensor.is_floating_point()


def _forward(site: SiteName) -> SiteName:
    """The output that a gradient is of, which has its shape and needs no loss."""
    return site._replace(side="") if site.side == "grad" else site


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same, but for rounding, and what rounding decides between two experts."""
    wide = torch.complex128 if one.is_complex() else torch.float64
    one, other = one.to(wide), other.to(wide)
    scale = float(other.abs().nan_to_num(0, 0, 0).max()) if other.numel() else 0.0
    same = torch.isclose(one, other, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)
    return float(same.double().mean()) > 0.98
