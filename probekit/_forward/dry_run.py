"""The dry run: what a model gives for the first samples of the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from probekit._data.batches import Batch
from probekit._forward.options import RunOptions, SiteOptions
from probekit._forward.outputs import PREDICTION, predictions
from probekit._nested import mapped
from probekit._probe.model_run import device_of, run, running
from probekit._probe.site_table import SiteTable, find_sites
from probekit.errors import DataError, ModelError

__all__ = ["DryRun", "dry_run"]

SAMPLES = 3  # of a dry run


@dataclass(frozen=True)
class DryRun:
    """The sites of a model as they were for the samples of `example`, and for one sample less.

    `shorter` shows which axis follows the batch. It is None where the model doesn't take one sample less.
    """

    example: Batch
    sites: SiteTable
    shorter: SiteTable | None


def dry_run(model: nn.Module, first: Batch, sites: SiteOptions, how: RunOptions) -> DryRun:
    """Run the model on a few samples of the `first` batch, or on all of it where the model doesn't take fewer.

    Raises:
        SiteError: the selector picks nothing.
        ModelError: the model can't run on the batch, or gives no logits to predict by.
        DataError: a column is called as the predictions are.
    """
    few = _head(first, SAMPLES)
    found = _tried(model, few, sites, how)
    if few is None or found is None:
        few, found = first, _sites(model, first, sites, how)
    if how.predictions:
        _check_predictions(model, few, how)
    # An axis may be as long as the batch by chance, such as the time steps of a recurrent layer.
    return DryRun(few, found, _tried(model, _head(few, few.rows - 1), sites, how))


def _tried(model: nn.Module, batch: Batch | None, sites: SiteOptions, how: RunOptions) -> SiteTable | None:
    """The sites for a batch; None where there is none, or the model doesn't take so few samples."""
    try:
        return None if batch is None else _sites(model, batch, sites, how)
    except ModelError:
        return None


def _sites(model: nn.Module, batch: Batch, sites: SiteOptions, how: RunOptions) -> SiteTable:
    return find_sites(model, batch.inputs, sites.sites, sites.exclude, how.mode)


def _check_predictions(model: nn.Module, example: Batch, how: RunOptions) -> None:
    if PREDICTION in example.columns:
        raise DataError(
            f"columns= has {PREDICTION!r}, the name under which predictions=True keeps what the model predicts. Give "
            "that column another name.",
            arguments=("columns", "predictions"),
        )
    with running(model, how.mode):
        predictions(run(model, example.inputs, device_of(model)), example.rows)


def _head(batch: Batch, rows: int) -> Batch | None:
    """The first samples of a batch; None where it has no more, or its inputs can't be cut."""
    if not 0 < rows < batch.rows:
        return None
    try:
        inputs = mapped(lambda value: _cut(value, batch.rows, rows), batch.inputs)
    except TypeError:
        return None
    mask = None if batch.mask is None else batch.mask[:rows]
    return replace(batch, inputs=inputs, rows=rows, mask=mask, columns={n: v[:rows] for n, v in batch.columns.items()})


def _cut(value: Any, rows: int, wanted: int) -> Any:
    """The first samples of a tensor; TypeError for what may hold samples in a way that nobody knows."""
    if isinstance(value, Tensor):
        return value[:wanted] if value.dim() and len(value) == rows else value
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(type(value).__name__)
