"""What a model does while it generates: its many forward passes over a batch of prompts, as one activation a site."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from probekit._data.batches import Batch
from probekit._forward.forward_pass import ForwardPass, begun
from probekit._forward.generated import Generated
from probekit._forward.recorder import Recorder
from probekit._probe.hooks import Probe
from probekit._probe.model_run import copied, run
from probekit._probe.module_hook import HookStack, attach
from probekit._probe.site_name import SiteName
from probekit.errors import ModelError, SiteError

__all__ = ["GenerationPass", "StepRecorder"]


class StepRecorder(Recorder):
    """Gathers what each site gives in the passes of a generation: over the prompts, then over a token at a time.

    `complete` hands it on, as if one pass had seen the prompts and the answers.
    """

    _batch: Batch | None = None

    def ignore(self) -> None:
        super().ignore()
        self._batch = None

    def begin(self, batch: Batch, number: int) -> None:
        self._batch, self._number = batch, number
        self._steps: list[Tensor] = []  # the token ids of each pass
        self._gathered: dict[SiteName, list[Tensor]] = defaultdict(list)

    def step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Called by a hook before each forward pass of the model."""
        given = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(given, Tensor):
            raise ModelError(f"{self._model} generates from something else than input_ids, which can't be followed.")
        if self._batch is not None:
            self._steps.append(given)

    def __call__(self, site: SiteName, tensor: Tensor) -> None:
        if self._batch is None:
            return
        planned = self._planned.get(site)
        if planned is None:
            raise self._unexpected(site, self._number)
        rows, tokens = self._steps[-1].shape
        tensor = planned.unfolded(tensor, rows, (tokens,))
        axis = 3 - planned.nodes.axis
        if tensor.dim() != 3 or (tensor.shape[0], tensor.shape[axis]) != (rows, tokens):
            raise SiteError(
                f"{planned.name} of {self._model} gave shape {tuple(tensor.shape)} for {tokens} tokens of each of "
                f"{rows} samples; it has to give a row for each token. Select other sites (sites=, exclude=).",
                arguments=("sites", "exclude"),
            )
        self._gathered[site].append(tensor.clone())

    def complete(self, generated: Generated) -> None:
        """Hand on the activations of the tokens that the model was given."""
        if self._batch is None:
            return
        length = generated.fed.shape[1]
        self._check_steps(generated.token_ids[:, :length])
        inputs = {"input_ids": generated.token_ids[:, :length], "attention_mask": generated.fed}
        super().begin(replace(self._batch, inputs=inputs, tokens=generated.tokens), self._number)
        for site, steps in self._gathered.items():
            axis = 3 - self._planned[site].nodes.axis
            # Where stopping is decided late, on a GPU, the model has run past the end.
            whole = torch.cat(steps, axis).narrow(axis, 0, length)
            super().__call__(site, whole.flatten(0, 1) if self._planned[site].folded else whole)
        self._gathered.clear()

    def _check_steps(self, expected: Tensor) -> None:
        """Raise ModelError unless the model saw each token once, in order."""
        given = torch.cat(self._steps, 1)[:, : expected.shape[1]].cpu()
        if not torch.equal(given, expected):
            raise ModelError(
                f"{self._model}.generate ran the model on other tokens than those that it returned, each once and in "
                "order. Give it no arguments by which it tries several continuations."
            )


@dataclass(frozen=True)
class GenerationPass(ForwardPass):
    """How the model generates after each batch of prompts.

    `arguments` are those of its ``generate`` beside the inputs, `ends` the token ids that end an answer.
    """

    arguments: Mapping[str, Any]
    ends: tuple[int, ...]
    recorder: StepRecorder

    def run(self, batch: Batch, probe: Probe) -> Generated:
        """The prompts and the answers, once the recorder has handed on what the sites gave.

        Raises:
            ModelError: the model fails on the batch.
            SiteError: a site gives no row for each token.
        """
        model: Any = self.model
        inputs = copied(batch.inputs)
        with begun(self.model, self.options, batch.start), HookStack([self.model]) as hooks:
            before = self.model.register_forward_pre_hook
            attach(before, self.model, self.recorder.step, hooks, prepend=True, with_kwargs=True)
            made = run(self.model, inputs, self._device, partial(model.generate, **self.arguments))
        generated = Generated.of(made, batch.inputs["attention_mask"], self.ends)
        self.recorder.complete(generated)
        return generated
