"""Each activation reduced, cast and handed on, at the moment the model makes it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from probekit._data.batches import Batch
from probekit._forward.site_plan import PlannedSite, SitePlan
from probekit._probe.reductions import Mask, Reduced
from probekit._probe.site_name import SiteName
from probekit.errors import SiteError

__all__ = ["Recorder", "Sink"]

Sink: TypeAlias = Callable[[str, Reduced], None]


@dataclass
class _Now:
    """The batch that is being recorded, and which sites haven't given theirs."""

    number: int
    rows: int
    mask: Mask | None
    missing: dict[SiteName, PlannedSite]


class Recorder:
    """Hands each activation, at the moment it is made, to `sink`, with the name of its site.

    The `record` of a probe. Call `begin` before a batch's forward pass and `end` after it.

    Raises:
        SiteError: a site ran at one batch and not at another, more or less often, or changed its shape.
    """

    def __init__(self, plan: SitePlan, sink: Sink) -> None:
        self._model = plan.model
        self._sink = sink
        self._planned = {each.site._replace(call=each.site.call or 0): each for each in plan.sites}
        self._overflows: dict[str, Tensor] = {}
        self._now = _Now(-1, 0, None, {})

    def begin(self, batch: Batch, number: int) -> None:
        mask = None if batch.mask is None else Mask.of(batch.mask)
        self._now = _Now(number, batch.rows, mask, dict(self._planned))

    def __call__(self, site: SiteName, tensor: Tensor) -> None:
        now = self._now
        planned = now.missing.pop(site, None)
        if planned is None:
            raise self._unexpected(site)
        reduced = planned.keep(tensor, now.mask, now.rows)
        source, spec = reduced.tensor, planned.spec
        if source.shape[1:] != spec.shape or (reduced.sample is None and source.shape[0] != now.rows):
            raise SiteError(
                f"{spec.name} of {self._model} gave shape {tuple(source.shape)} at batch {now.number}, of {now.rows} "
                f"samples; in the first batch each {'token' if spec.tokens else 'sample'} had shape {spec.shape}."
            )
        if planned.dtype != source.dtype:
            reduced = reduced._replace(tensor=self._cast(spec.name, source, planned.dtype))
        self._sink(spec.name, reduced)

    def _unexpected(self, site: SiteName) -> SiteError:
        known, number = self._planned.get(site), self._now.number
        if known is None:
            return SiteError(f"{site} of {self._model} ran at batch {number} and not in the first batch.")
        return SiteError(f"{known.name} of {self._model} ran more often at batch {number} than in the first batch.")

    def _cast(self, name: str, source: Tensor, dtype: torch.dtype) -> Tensor:
        cast = source.to(dtype)
        if torch.finfo(dtype).max < torch.finfo(source.dtype).max:
            lost = cast.isinf().sum() - source.isinf().sum()  # on the device: asking for the number would wait for it
            self._overflows[name] = self._overflows[name] + lost if name in self._overflows else lost
        return cast

    def end(self) -> None:
        """Check that every site ran in the batch."""
        if self._now.missing:
            missing = ", ".join(sorted(each.name for each in self._now.missing.values()))
            raise SiteError(f"{missing} of {self._model} didn't run at batch {self._now.number}.")

    def warn_of_overflow(self) -> None:
        lost = {name: int(count) for name, count in self._overflows.items()}
        lost = {name: count for name, count in lost.items() if count}
        if lost:
            warnings.warn(
                f"Values too large for the dtype became infinite: {lost}. Capture these sites as float32.",
                stacklevel=4,
            )
