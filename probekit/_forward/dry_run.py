"""The dry run: what a model gives for the first samples of the data, and what it changes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probekit._data.batches import Batch
from probekit._data.fields import LABEL
from probekit._forward.forward_pass import begun
from probekit._forward.options import RunOptions, SiteOptions
from probekit._forward.outputs import PREDICTION, logits_of, predictions
from probekit._nested import mapped, tensors
from probekit._probe.model_run import copied, device_of, every_module_runs, run, running, written
from probekit._probe.model_state import ModelState, same
from probekit._probe.selectors import module_names
from probekit._probe.sharded import is_part, runs_in_parts
from probekit._probe.site_table import SiteTable, find_sites, with_folds
from probekit.errors import DataError, ModelError

__all__ = ["DryRun", "dry_run"]

SAMPLES = 3  # of a dry run


@dataclass(frozen=True)
class DryRun:
    """The sites of a model as they were for the samples of `example`, and for another number of samples.

    `predictions` says whether what the model predicts is kept. `seconds` is what a pass takes for a sample, at most.

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
    predictions: bool
    seconds: float


def dry_run(model: nn.Module, first: Batch, sites: SiteOptions, how: RunOptions, classes: int | None = None) -> DryRun:
    """Run the model on a few samples of the `first` batch, or on all of it where the model doesn't take fewer.

    The model gets copies of the inputs, and is left as it was. `classes` is the number of classes of the labels, where
    it is known and their codes are in an order that doesn't depend on the samples.

    Raises:
        SiteError: the selector picks nothing.
        ModelError: the model can't run on the batch, or gives no logits to predict by, or a part of them.
        DataError: a column is called as the predictions are.
    """
    dry = _Dry(model, first, sites, how)
    few = _with_rows(first, SAMPLES)
    found = dry.tried(few)
    if few is None or found is None:
        few, found = first, dry.sites_of(first)
    if how.predictions or (how.loss is None and any(site.kind == "gradient" for site in found)):
        _check_logits(model, few, how)
    predictions = _keeps_predictions(model, few, how, classes)
    # An axis may be as long as the batch by chance, such as the time steps of a recurrent layer.
    other = dry.tried(_with_rows(few, few.rows - 1)) or dry.tried(_with_rows(few, 2 * few.rows))
    if few.owners is None:
        found = with_folds(model, few.inputs, few.rows, found, lambda: begun(model, how, 0))
    return DryRun(few, found, other, dry.writes_inputs, dry.changed, dry.state, predictions, dry.seconds)


class _Dry:
    """The passes of a dry run, and what they have shown so far."""

    def __init__(self, model: nn.Module, first: Batch, sites: SiteOptions, how: RunOptions) -> None:
        module_names(model)  # raises for what has no modules that run
        self._model, self._first, self._sites, self._how = model, first, sites, how
        self.writes_inputs = False
        self.changed: tuple[str, ...] = ()
        self.state: tuple[str, ...] = ()
        self.seconds = math.inf

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
                start = time.perf_counter()
                found = find_sites(model, inputs, self._sites.sites, self._sites.exclude)
                self.seconds = min(self.seconds, (time.perf_counter() - start) / max(1, batch.rows))
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


def _keeps_predictions(model: nn.Module, example: Batch, how: RunOptions, classes: int | None) -> bool:
    """Whether predictions are kept: as asked, or where there are labels and as many logits as classes."""
    if not how.predictions or how.stop_early:  # which refuses what is asked for
        return False
    if how.predictions == "auto" and (classes is None or LABEL not in example.columns or PREDICTION in example.columns):
        return False
    if PREDICTION in example.columns:
        raise DataError(
            f"columns= has {PREDICTION!r}, the name under which predictions=True keeps what the model predicts. Give "
            "that column another name.",
            arguments=("columns", "predictions"),
        )
    with running(model, how.mode), begun(model, how, 0):
        output = run(model, copied(example.inputs), device_of(model))
    if how.predictions == "auto":
        return getattr(logits_of(output), "shape", None) == (example.rows, classes)
    predictions(output, example.rows)
    return True


def _check_logits(model: nn.Module, example: Batch, how: RunOptions) -> None:
    """Raise ModelError where each of several processes has the logits of some classes only."""
    if not runs_in_parts(model):
        return
    with running(model, how.mode), begun(model, how, 0):
        logits = logits_of(run(model, copied(example.inputs), device_of(model)))
    if isinstance(logits, Tensor) and is_part(model, logits):
        raise ModelError(
            f"The logits of {type(model).__name__} are another tensor in each of the processes that run it together, "
            f"here of shape {tuple(logits.shape)}, so each has those of some classes. Give parallelize_module "
            "use_local_output=False for the last layer; or leave predictions out, and give loss= for gradients.",
            arguments=("predictions", "loss"),
        )


def _with_rows(batch: Batch, rows: int, *, last: bool = False) -> Batch | None:
    """The first or last samples of a batch, or all of them twice; None where its inputs can't be cut so."""
    if batch.owners is not None or (not 0 < rows < batch.rows and rows != 2 * batch.rows):
        return None
    try:
        inputs = mapped(lambda value: _cut(value, batch.rows, -rows if last else rows), batch.inputs)
    except TypeError:
        return None
    chosen = np.arange(rows) % batch.rows + (batch.rows - rows if last else 0)
    tokens = None if batch.tokens is None else batch.tokens.of(chosen)
    columns = {name: values[chosen] for name, values in batch.columns.items()}
    return replace(batch, inputs=inputs, rows=rows, columns=columns, tokens=tokens)


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
