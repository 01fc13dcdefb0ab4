"""The dry run: what a model gives for the first samples of the data, and what it changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from probekit._data.batches import Batch
from probekit._forward.forward_pass import begun
from probekit._forward.options import RunOptions, SiteOptions
from probekit._forward.outputs import PREDICTION, predictions
from probekit._nested import mapped, tensors
from probekit._probe.model_run import copied, device_of, every_module_runs, run, running, written
from probekit._probe.model_state import ModelState, same
from probekit._probe.selectors import module_names
from probekit._probe.site_table import SiteTable, find_sites, with_folds
from probekit.errors import DataError, ModelError

__all__ = ["DryRun", "dry_run"]

SAMPLES = 3  # of a dry run


@dataclass(frozen=True)
class DryRun:
    """The sites of a model as they were for the samples of `example`, and for another number of samples.

    `other` shows which axis follows the batch: for one sample less or, where the model doesn't take that, for twice as
    many. It is None where the model takes neither. `writes_inputs` says whether the model's forward changes its inputs,
    `changed` names the buffers and attributes that a pass changes, `state` those of them that the next one depends on.
    """

    example: Batch
    sites: SiteTable
    other: SiteTable | None
    writes_inputs: bool
    changed: tuple[str, ...]
    state: tuple[str, ...]


def dry_run(model: nn.Module, first: Batch, sites: SiteOptions, how: RunOptions) -> DryRun:
    """Run the model on a few samples of the `first` batch, or on all of it where the model doesn't take fewer.

    The model gets copies of the inputs, and is left as it was.

    Raises:
        SiteError: the selector picks nothing.
        ModelError: the model can't run on the batch, or gives no logits to predict by.
        DataError: a column is called as the predictions are.
    """
    dry = _Dry(model, first, sites, how)
    few = _with_rows(first, SAMPLES)
    found = dry.tried(few)
    if few is None or found is None:
        few, found = first, dry.sites_of(first)
    if how.predictions:
        _check_predictions(model, few, how)
    # An axis may be as long as the batch by chance, such as the time steps of a recurrent layer.
    other = dry.tried(_with_rows(few, few.rows - 1)) or dry.tried(_with_rows(few, 2 * few.rows))
    if few.owners is None:
        found = with_folds(model, few.inputs, few.rows, found, lambda: begun(model, how, 0))
    return DryRun(few, found, other, dry.writes_inputs, dry.changed, dry.state)


class _Dry:
    """The passes of a dry run, and what they have shown so far."""

    def __init__(self, model: nn.Module, first: Batch, sites: SiteOptions, how: RunOptions) -> None:
        module_names(model)  # raises for what has no modules that run
        self._model, self._first, self._sites, self._how = model, first, sites, how
        self.writes_inputs = False
        self.changed: tuple[str, ...] = ()
        self.state: tuple[str, ...] = ()

    def tried(self, batch: Batch | None) -> SiteTable | None:
        """The sites for a batch; None where there is none, or the model doesn't take so many samples."""
        try:
            return None if batch is None else self.sites_of(batch)
        except ModelError:
            return None

    def sites_of(self, batch: Batch) -> SiteTable:
        model, how, inputs = self._model, self._how, copied(batch.inputs)
        with running(model, how.mode) as before, every_module_runs():
            with begun(model, how, 0):
                found = find_sites(model, inputs, self._sites.sites, self._sites.exclude)
            self.writes_inputs |= written(inputs, batch.inputs)
            changed = tuple(before.changed())
            self.changed = tuple(dict.fromkeys((*self.changed, *changed)))
            if changed and not self.state and self._depends_on_state(batch, before):
                self.state = changed
        return found

    def _depends_on_state(self, batch: Batch, before: ModelState) -> bool:
        """Whether what the model gives for a batch depends on the pass before, and not only on what it is given.

        A state may be of no consequence, such as a table that the first pass makes, or an activation kept to look at.
        """
        before.restore()
        first = self._output(batch)
        try:
            self._output(self._different(batch))
        except ModelError:  # for the state of the pass before doesn't fit
            return True
        pairs = zip(first, self._output(batch), strict=True)
        return not all(same(*pair) for pair in pairs)

    def _different(self, batch: Batch) -> Batch:
        """Other samples of the first batch, where it has some that the model takes."""
        return _with_rows(self._first, SAMPLES, last=True) or _with_rows(batch, batch.rows - 1) or batch

    def _output(self, batch: Batch) -> list[Tensor]:
        with begun(self._model, self._how, 0):
            return list(tensors(run(self._model, copied(batch.inputs), device_of(self._model))))


def _check_predictions(model: nn.Module, example: Batch, how: RunOptions) -> None:
    if PREDICTION in example.columns:
        raise DataError(
            f"columns= has {PREDICTION!r}, the name under which predictions=True keeps what the model predicts. Give "
            "that column another name.",
            arguments=("columns", "predictions"),
        )
    with running(model, how.mode), begun(model, how, 0):
        predictions(run(model, copied(example.inputs), device_of(model)), example.rows)


def _with_rows(batch: Batch, rows: int, *, last: bool = False) -> Batch | None:
    """The first or last samples of a batch, or all of them twice; None where its inputs can't be cut so."""
    if batch.owners is not None or (not 0 < rows < batch.rows and rows != 2 * batch.rows):
        return None
    try:
        inputs = mapped(lambda value: _cut(value, batch.rows, -rows if last else rows), batch.inputs)
    except TypeError:
        return None
    return replace(batch, inputs=inputs, rows=rows, columns={n: v[:rows] for n, v in batch.columns.items()})


def _cut(value: Any, rows: int, wanted: int) -> Any:
    """So many samples of a tensor, the last ones for a negative number.

    Raises TypeError for what may hold samples in a way that nobody knows.
    """
    if isinstance(value, Tensor):
        if not value.dim() or len(value) != rows:
            return value
        if wanted > rows:
            return torch.cat([value, value])
        return value[:wanted] if wanted > 0 else value[wanted:]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(type(value).__name__)
