"""What is asked of a capture, and the plan that follows from a dry run on a few samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from torch import Tensor, nn

from probekit._capture.plan import CapturePlan, make_plan
from probekit._data.batches import Batch, Batches
from probekit._data.columns import PREDICTION, predictions
from probekit._probe.reductions import Reduction
from probekit._probe.selectors import Selector
from probekit._probe.site_table import SiteTable, device_of, run, running
from probekit._probe.site_table import sites as dry_run
from probekit._sizes import parse_size
from probekit.errors import DataError, ModelError

__all__ = ["Request", "peek"]

DRY_ROWS = 3  # samples of a dry run


@dataclass(frozen=True)
class Request:
    """What is to be captured of a model, and how; see `probekit.capture` for each."""

    sites: Selector
    exclude: Selector | None
    reduce: Mapping[Any, Reduction] | Reduction | None
    batch_dim: Mapping[Any, int] | int
    dtype: str | None
    compression: str | None
    memory: str | int
    mode: str
    predictions: bool = False

    def plan(self, model: nn.Module, first: Batch, rows: int | None, free: int | None) -> CapturePlan:
        """The plan for data that begin with the batch `first`.

        Raises:
            ModelError: predictions are to be kept, and the model gives no logits.
        """
        example, table = self._dry_run(model, first)
        if self.predictions:
            _check_predictions(model, example)
        return make_plan(
            model,
            table,
            self._shorter(model, example),
            example,
            batch_size=first.rows,
            rows=rows,
            free=free,
            reduce=self.reduce,
            batch_dim=self.batch_dim,
            dtype=self.dtype,
            compression=self.compression,
            memory=self.bytes,
        )

    @property
    def bytes(self) -> int:
        """The bound on the writer's buffers."""
        return parse_size(self.memory)

    def _dry_run(self, model: nn.Module, first: Batch) -> tuple[Batch, SiteTable]:
        """A dry run on a few samples, which cost little, or on the whole batch where the model takes no fewer."""
        few = _head(first, DRY_ROWS)
        table = self._tried(model, few)
        if few is None or table is None:
            return first, self._sites(model, first)
        return few, table

    def _shorter(self, model: nn.Module, example: Batch) -> SiteTable | None:
        """The sites on one sample less than the example: which axis follows the batch shows then.

        An axis may be as long as the batch by chance, such as the time steps of a recurrent layer. There is no second
        run for a single sample, nor for a model that takes batches of one size only.
        """
        return self._tried(model, _head(example, example.rows - 1))

    def _tried(self, model: nn.Module, batch: Batch | None) -> SiteTable | None:
        """The sites on a batch; None where there is none, or the model doesn't take so few samples."""
        try:
            return None if batch is None else self._sites(model, batch)
        except ModelError:
            return None

    def _sites(self, model: nn.Module, batch: Batch) -> SiteTable:
        return dry_run(model, batch.inputs, select=self.sites, exclude=self.exclude)


def _check_predictions(model: nn.Module, example: Batch) -> None:
    if PREDICTION in example.columns:
        raise DataError(
            f"columns= has {PREDICTION!r}, as which predictions=True keeps what the model predicts. Name it otherwise."
        )
    with running(model):
        predictions(run(model, example.inputs, device_of(model)), example.rows)


def _head(batch: Batch, rows: int) -> Batch | None:
    """The first samples of a batch; None where it has no more, or its inputs can't be cut."""
    inputs = _cut(batch.inputs, batch.rows, rows)
    if not 0 < rows < batch.rows or inputs is None:
        return None
    mask = None if batch.mask is None else batch.mask[:rows]
    return replace(batch, inputs=inputs, rows=rows, mask=mask, columns={n: v[:rows] for n, v in batch.columns.items()})


def _cut(inputs: Any, rows: int, wanted: int) -> Any:
    """The first samples of all tensors in `inputs`; None for what isn't made of tensors."""
    if isinstance(inputs, Tensor):
        return inputs[:wanted] if inputs.dim() and len(inputs) == rows else inputs
    if isinstance(inputs, Mapping):
        parts = {name: _cut(value, rows, wanted) for name, value in inputs.items()}
        return None if any(part is None and inputs[name] is not None for name, part in parts.items()) else parts
    if isinstance(inputs, tuple | list) and not hasattr(inputs, "_fields"):
        several = [_cut(value, rows, wanted) for value in inputs]
        return None if any(part is None for part in several) else tuple(several)
    return inputs if isinstance(inputs, str | int | float | bool) else None


def peek(batches: Batches) -> tuple[Batch, Iterator[Batch]]:
    """The first batch of the data, and the stream that still begins with it; DataError where there is none."""
    stream = iter(batches)
    first = next(stream, None)
    if first is None or not first.rows:
        raise DataError("The data hold no samples.")
    return first, chain([first], stream)
