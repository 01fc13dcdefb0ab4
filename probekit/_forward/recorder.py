"""Each activation reduced, cast and handed on, at the moment the model makes it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from threading import get_ident
from typing import TypeAlias

import torch
from torch import Tensor

from probekit._data.batches import Batch
from probekit._forward.masks import MaskSource
from probekit._forward.site_plan import PlannedSite, SitePlan
from probekit._forward.token_rows import are_tokens
from probekit._probe.early_stop import AllRecorded
from probekit._probe.folding import position_counts
from probekit._probe.reductions import Mask, Reduced
from probekit._probe.sharded import whole
from probekit._probe.site_name import SiteName
from probekit.errors import SiteError

__all__ = ["Recorder", "Sink"]

PADDED = (
    " If batches are padded to the longest of their own samples, keep something of one size (reduce=): tokens, mean, …"
)

Sink: TypeAlias = Callable[[str, Reduced], None]


@dataclass
class _Now:
    """The batch that is being recorded, and which sites haven't given theirs."""

    number: int
    batch: Batch
    missing: dict[SiteName, PlannedSite]
    masks: dict[object, Mask] = field(default_factory=dict)  # each made when a site needs it
    thread: int = field(default_factory=get_ident)  # that runs the model

    @cached_property
    def positions(self) -> set[int]:
        return position_counts(self.batch.inputs, self.batch.rows)

    def mask(self, source: MaskSource | None) -> Mask | None:
        if source is None:
            return None
        if source.key not in self.masks:
            self.masks[source.key] = Mask.of(source.of(self.batch.inputs))
        return self.masks[source.key]


class Recorder:
    """Hands each activation, at the moment it is made, to `sink`, with the name of its site.

    The `record` of a probe. Call `begin` before a batch's forward pass and `end` after it. With `stop_early` it leaves
    the pass once every site has given its activation.

    Raises:
        AllRecorded: to leave the pass.
        SiteError: a site ran at one batch and not at another, more or less often, or changed its shape.
    """

    def __init__(self, plan: SitePlan, sink: Sink, *, stop_early: bool = False) -> None:
        self._model = plan.model
        self._sink, self._stop_early = sink, stop_early
        self._planned = {each.site._replace(call=each.site.call or 0): each for each in plan.sites}
        self._overflows: dict[str, Tensor] = {}
        self._underflows: dict[str, Tensor] = {}
        self._now: _Now | None = None

    def ignore(self) -> None:
        """What comes until `begin` is not recorded."""
        self._now = None

    def begin(self, batch: Batch, number: int) -> None:
        self._now = _Now(number, batch, dict(self._planned))

    def __call__(self, site: SiteName, tensor: Tensor) -> None:
        try:
            self._record(site, tensor)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:  # else they would look like the model's own
            raise SiteError(f"{site} of {self._model}, of shape {tuple(tensor.shape)}: {error}") from error
        # In another thread it would end that alone, and leave the pass without what it waits for.
        now = self._now
        if self._stop_early and now is not None and not now.missing and get_ident() == now.thread:
            raise AllRecorded

    def _record(self, site: SiteName, tensor: Tensor) -> None:
        now = self._now
        if now is None:
            return
        planned = now.missing.pop(site, None)
        if planned is None:
            raise self._unexpected(site, now.number)
        tensor = self._unfolded(planned, tensor, now)
        if tensor.dim() != planned.ndim:
            raise SiteError(
                f"{planned.name} of {self._model} gave shape {tuple(tensor.shape)} at batch {now.number}, of "
                f"{now.batch.rows} samples, and had {planned.ndim} axes in the first batch. If the model drops "
                "axes of length 1, as .squeeze() does, say in the model which one, as in .squeeze(1); or choose the "
                "size of the batches so that none has a single sample.",
                arguments=("batch_size",),
            )
        tensor = whole(tensor)
        reduced = planned.keep(tensor, now.mask(planned.mask), now.batch)
        source, spec = reduced.tensor, planned.spec
        if source.shape[1:] != spec.shape or (reduced.sample is None and source.shape[0] != now.batch.rows):
            raise SiteError(
                f"{spec.name} of {self._model} gave shape {tuple(source.shape)} at batch {now.number}, of "
                f"{now.batch.rows} samples; in the first batch each {'token' if spec.tokens else 'sample'} had shape "
                f"{spec.shape}.{PADDED if planned.mask is not None else ''}",
                arguments=("reduce",) if planned.mask is not None else (),
            )
        if spec.token_columns and not are_tokens(reduced, now.batch.tokens):
            raise SiteError(
                f"{spec.name} of {self._model} gave {len(source)} rows at batch {now.number}, and its inputs have "
                f"{0 if now.batch.tokens is None else now.batch.tokens.counts.sum()} tokens; in the first batch these "
                "were the same, sample by sample."
            )
        if planned.dtype != source.dtype:
            reduced = reduced._replace(tensor=self._cast(spec.name, source, planned.dtype))
        self._sink(spec.name, reduced)

    def _unfolded(self, planned: PlannedSite, tensor: Tensor, now: _Now) -> Tensor:
        try:
            return planned.unfolded(tensor, now.batch.rows, now.positions)
        except SiteError as error:
            raise SiteError(f"{planned.name} of {self._model} at batch {now.number}: {error}") from error

    def _unexpected(self, site: SiteName, number: int) -> SiteError:
        known = self._planned.get(site)
        if known is None:
            return SiteError(f"{site} of {self._model} ran at batch {number} and not in the first batch.")
        return SiteError(f"{known.name} of {self._model} ran more often at batch {number} than in the first batch.")

    def _cast(self, name: str, source: Tensor, dtype: torch.dtype) -> Tensor:
        cast = source.to(dtype)
        if torch.finfo(dtype).max < torch.finfo(source.dtype).max:
            # On the device: asking for the number would wait for it.
            _count(self._overflows, name, cast.isinf().sum() - source.isinf().sum())
        if torch.finfo(dtype).smallest_normal > torch.finfo(source.dtype).smallest_normal:
            _count(self._underflows, name, (cast == 0).sum() - (source == 0).sum())
        return cast

    def end(self) -> None:
        """Check that every site ran in the batch."""
        if self._now is not None and self._now.missing:
            missing = ", ".join(sorted(each.name for each in self._now.missing.values()))
            raise SiteError(f"{missing} of {self._model} didn't run at batch {self._now.number}.")

    def warn_of_lost_values(self) -> None:
        fates = {
            "large for the dtype became infinite": self._overflows,
            "small for the dtype became 0": self._underflows,
        }
        for fate, lost in fates.items():
            counts = {name: int(count) for name, count in lost.items() if int(count)}
            if counts:
                warnings.warn(f"Values too {fate}: {counts}. Capture these sites as float32.", stacklevel=4)


def _count(counts: dict[str, Tensor], name: str, number: Tensor) -> None:
    counts[name] = counts[name] + number if name in counts else number
