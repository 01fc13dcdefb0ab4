"""One forward pass of a model over a batch, with a probe on it, and a backward pass where gradients are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probekit._data.batches import Batch
from probekit._forward.options import RunOptions
from probekit._forward.outputs import logits_of
from probekit._probe.early_stop import AllRecorded
from probekit._probe.hooks import Probe
from probekit._probe.model_run import copied, device_of, run, seeded
from probekit._probe.sharded import whole
from probekit.errors import DataError

__all__ = ["ForwardPass", "begun"]


@contextmanager
def begun(model: nn.Module, options: RunOptions, seed: int) -> Iterator[None]:
    """A pass that `seed` alone decides: what it draws at random, and the state that the user's `reset` clears."""
    if options.reset is not None:
        options.reset(model)
    with seeded(seed):
        yield


@dataclass(frozen=True)
class ForwardPass:
    """How the model runs on each batch, as planned."""

    model: nn.Module
    options: RunOptions
    gradients: bool  # a backward pass follows
    writes_inputs: bool  # the model gets copies

    def run(self, batch: Batch, probe: Probe) -> Any:
        """The model's output, once the probe has seen everything; None where its record has left the pass.

        Raises:
            ModelError: the model fails on the batch.
            DataError: there is nothing to make a loss of.
        """
        inputs = copied(batch.inputs) if self.writes_inputs else batch.inputs
        # What a pass draws doesn't depend on where a capture was stopped.
        with begun(self.model, self.options, batch.start):
            if not self.gradients:
                try:
                    return run(self.model, inputs, self._device)
                except AllRecorded:
                    return None
            with torch.inference_mode(False), torch.enable_grad():
                output = run(self.model, inputs, self._device)
                probe.backward(self._loss(output, batch))
        return output

    @cached_property
    def _device(self) -> torch.device | None:
        return device_of(self.model)

    @property
    def loss_name(self) -> str:
        loss = F.cross_entropy if self.options.loss is None else self.options.loss
        return str(getattr(loss, "__qualname__", type(loss).__qualname__))

    def _loss(self, output: Any, batch: Batch) -> Tensor:
        labels = None if batch.labels is None else torch.from_numpy(batch.labels)
        if self.options.loss is not None:
            return self.options.loss(output, labels)
        logits = logits_of(output)
        logits = whole(logits) if isinstance(logits, Tensor) else logits
        if labels is None or not isinstance(logits, Tensor) or logits.dim() != 2:
            raise DataError(
                "Gradients need a loss. By default it is the cross-entropy of logits (sample, class) and the labels, "
                f"and here the {'model gives no such logits' if labels is not None else 'data have no labels'}: pass "
                "loss=, a callable of the output and the labels.",
                arguments=("loss",),
            )
        if len(labels) and int(labels.max()) >= logits.shape[1]:
            raise DataError(
                f"The labels go up to {int(labels.max())}, and the model's logits have {logits.shape[1]} classes."
            )
        return F.cross_entropy(logits, labels.to(logits.device), reduction="sum")
