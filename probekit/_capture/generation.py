"""What a language model does at each token that it generates, into a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from numbers import Integral
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from probekit._bars import default
from probekit._capture.answer_settings import ANSWER, ANSWER_TOKENS, PROMPT, PROMPT_TOKENS, AnswerSettings
from probekit._capture.job import CaptureJob, IfExists
from probekit._capture.plan import CaptureOptions, CapturePlan, StorageOptions
from probekit._capture.session import Session
from probekit._data.batches import Batch, Batches
from probekit._data.columns import Array
from probekit._data.prompts import Prompts, token_ids_of
from probekit._forward.forward_pass import ForwardPass
from probekit._forward.generation_pass import GenerationPass, StepRecorder
from probekit._forward.options import RunOptions, SiteOptions
from probekit._forward.recorder import Recorder, Sink
from probekit._probe.hooks import probing
from probekit._probe.model_run import running
from probekit._probe.pooling import Reduced
from probekit._probe.reductions import Reduction
from probekit._probe.selectors import Selector, module_names
from probekit._probe.site_name import ROOT
from probekit._provenance import call_of, origin
from probekit._store.backend import backend_of
from probekit._store.layout import Json
from probekit._store.store import open_store
from probekit._tokens import Tokens
from probekit._write.transfer import transfer_for
from probekit.errors import DataError, SiteError, check_kind
from probekit.progress import Progress

__all__ = ["generate"]

COMMITTED_BATCHES = 8  # at once


def generate(
    model: nn.Module,
    prompts: Any,
    out: str | Path,
    *,
    max_new_tokens: int,
    tokenizer: Any = None,
    sites: Selector = "**",
    exclude: Selector | None = None,
    reduce: Reduction | None = None,
    dtype: str | None = None,
    compression: str | None = None,
    batch_size: int = 8,
    labels: Any = None,
    columns: Mapping[str, Any] | None = None,
    ids: Any = None,
    class_names: Sequence[str] | None = None,
    memory: str | int = "256MiB",
    resume: bool = False,
    overwrite: bool = False,
    durable: bool = False,
    progress: Progress | None = None,
    **generation: Any,
) -> xr.DataTree:
    """Stream what `model` does at each token of prompts and of its answers into a store at `out`; returns it opened.

    The model's own ``generate`` runs in eval mode on a batch of prompts at a time, with its cache on: over the prompts
    once, then over one new token after the other. Each site has a row for each token, sample after sample, prompts
    first: dims (row, node), with the columns ``sample_id``, ``position``, ``token_id``, ``generated`` (false for the
    prompt's tokens) and, with a tokenizer, ``token``. These rows equal, but for rounding, those of one forward pass
    over prompt and answer. The last token of an answer has no row, since the model is never given
    it. A batch's activations are held on the model's device until all its answers are complete.

    Samples have the columns ``prompt_tokens`` and ``answer_tokens``, the numbers of their tokens, and with a tokenizer
    the texts, ``prompt`` and ``answer``.

    Args:
        model: a causal language model of transformers, or one with such a ``generate``. It isn't moved.
        prompts: texts; a list of token ids for each prompt; a tensor (prompt, position) of token ids; or what a
            tokenizer returns for several texts, whose padding is left out. Shorter prompts of a batch are padded on
            the left.
        out: a path where nothing exists yet, or a URL.
        max_new_tokens: the most tokens of an answer.
        tokenizer: transformers' tokenizer of the model, for texts.
        sites, exclude: which sites to keep, as `probekit.Probe` selects them; each gives (sample, position, node).
            ``"lm_head"`` and ``"(root)"`` are computed for every token of the prompt then, and not for the last alone.
        reduce: what to keep of each token: unit indices, a `probekit.Projection`, a callable (row, node) → tensor, or
            a list of these to apply in turn.
        dtype, compression, labels, columns, ids, class_names, memory: as for `probekit.capture`.
        overwrite, durable, progress: as for `probekit.capture`.
        batch_size: prompts that are answered together.
        resume: continue the store at `out`, if there is one, from its last committed sample; its results are
            bit-identical to those of a run that was never stopped.
        generation: arguments of the model's ``generate``, such as ``do_sample=True, temperature=0.7``. Others are as
            the model's ``generation_config`` says. What is drawn is seeded by the number of the batch's first sample.

    Raises:
        ModelError: the model doesn't generate, fails, or is to try several continuations of a prompt.
        DataError: the prompts are no texts and no token ids, or one is empty.
        SiteError: a site is a gradient, or doesn't give a row for each token.
        StoreError: as for `probekit.capture`.

    Example:
        >>> import transformers, probekit as pk
        >>> config = transformers.GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=50, eos_token_id=0)
        >>> model = transformers.GPT2LMHeadModel(config)
        >>> tree = pk.generate(model, [[1, 2, 3], [4, 5]], "gen.zarr", max_new_tokens=4)  # doctest: +SKIP
        >>> site = tree["transformer.h.1"].to_dataset()  # doctest: +SKIP
        >>> answers = site.isel(row=site.generated)  # doctest: +SKIP
    """
    call = call_of(generate, {**locals(), "generation": generation})
    check_kind("batch_size", batch_size, Integral, "a number of prompts")
    check_kind("columns", columns, (Mapping, NoneType), "columns by name, {name: where its values are}")
    how = AnswerSettings.of(model, tokenizer, max_new_tokens, batch_size, generation)
    token_ids = token_ids_of(prompts, tokenizer)
    _check_vocabulary(model, token_ids)
    backend = backend_of(out, durable=durable)
    options = CaptureOptions(
        SiteOptions(sites, exclude, _by_token(reduce), None, mask="attention_mask", dtype=dtype),
        RunOptions("eval"),
        StorageOptions.of(compression, memory),
    )
    if_exists = IfExists(resume, None, overwrite)
    if_exists.check(backend)
    batches = Batches(
        Prompts(token_ids, batch_size, how.padding),
        labels=labels,
        columns=_columns(columns or {}, prompts, token_ids, tokenizer),
        ids=ids,
        class_names=class_names,
    )
    transfer, whence = transfer_for(model), origin(model, None, call)
    _GenerationJob(model, options, batches, backend, if_exists, transfer, default(progress), whence, how=how).run()
    return open_store(out)


def _by_token(reduce: Reduction | None) -> Any:
    """The reduction that makes tokens rows first."""
    if reduce is None:
        return "tokens"
    if isinstance(reduce, Mapping):
        raise SiteError(
            "reduce is a dict. Give one reduction of each token for all sites, such as indices of nodes, a Projection "
            "or a callable.",
            arguments=("reduce",),
        )
    several = isinstance(reduce, Sequence) and not isinstance(reduce, str) and not all(map(_is_whole, reduce))
    return ["tokens", *(reduce if several else [reduce])]  # type: ignore[misc]


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral)


def _check_vocabulary(model: Any, token_ids: Sequence[Array]) -> None:
    """Raise DataError for a token id that the model doesn't know, where it says which it knows."""
    known = getattr(model.get_input_embeddings(), "num_embeddings", None)
    for number, prompt in enumerate(token_ids):
        if known is not None and int(prompt.max()) >= known:
            raise DataError(
                f"Prompt {number} has the token id {int(prompt.max())}, and {type(model).__name__} knows those up to "
                f"{known - 1}. Give the model's own tokenizer.",
                arguments=("prompts", "tokenizer"),
            )


def _columns(given: Mapping[str, Any], prompts: Any, token_ids: Sequence[Array], tokenizer: Any) -> dict[str, Any]:
    """The columns of the samples that are known before the model runs."""
    ours = {PROMPT, ANSWER, PROMPT_TOKENS, ANSWER_TOKENS} & given.keys()
    if ours:
        raise DataError(
            f"columns= has {', '.join(map(repr, sorted(ours)))}, by which the prompts and the answers are kept. Give "
            "that column another name.",
            arguments=("columns",),
        )
    columns: dict[str, Any] = {PROMPT_TOKENS: np.array([len(each) for each in token_ids]), **given}
    if tokenizer is None:
        return columns
    texts = isinstance(prompts, Sequence) and isinstance(prompts[0], str)
    return {PROMPT: list(prompts) if texts else [tokenizer.decode(each.tolist()) for each in token_ids], **columns}


@dataclass(frozen=True, kw_only=True)
class _GenerationSession(Session):
    """A capture of what a model does while it generates."""

    how: AnswerSettings

    def rehearse(self) -> None:
        """Answer the first prompt with a few tokens, so that what doesn't work shows before anything is written."""
        recorder = StepRecorder(self.plan.site_plan, _nowhere)
        inputs = {name: given[:1] for name, given in self.first.inputs.items()}
        batch = Batch(inputs, 1, {})
        forward = self._pass(recorder, max_new_tokens=min(2, self.how.config.max_new_tokens), min_new_tokens=None)
        with running(self.model), probing(self.model, self.plan.site_plan.names, recorder) as probe:
            recorder.begin(batch, 0)
            forward.run(batch, probe)
            recorder.end()

    def _recorder(self, sink: Sink) -> StepRecorder:
        return StepRecorder(self.plan.site_plan, sink)

    def _passes(self, recorder: Recorder) -> ForwardPass:
        assert isinstance(recorder, StepRecorder)  # that `_recorder` gives
        return self._pass(recorder)

    def _pass(self, recorder: StepRecorder, **other: Any) -> GenerationPass:
        arguments = self.how.arguments(**other) | self._all_logits
        return GenerationPass(self.model, self.options.run, False, True, arguments, self.how.ends, recorder)

    @property
    def _all_logits(self) -> dict[str, int]:
        """What has the model compute the logits of all tokens of the prompt, where a site is made of them."""
        model: Any = self.model
        head = next((name for name, each in module_names(model).items() if each is model.get_output_embeddings()), ROOT)
        wanted = any(each.site.module in (ROOT, head) for each in self.plan.sites)
        return {"logits_to_keep": 0} if wanted and "logits_to_keep" in signature(model.forward).parameters else {}

    @property
    def _unknown(self) -> dict[str, np.dtype[Any]]:
        return self.how.found_dtypes

    def _found(self, output: Any, batch: Batch) -> dict[str, Array]:
        return self.how.found(output)

    def _tokens(self, output: Any, batch: Batch) -> Tokens:
        return self.how.tokens(output)

    def _attrs(self, start: int) -> Json:
        return {**super()._attrs(start), "generation": self.how.described}


@dataclass(frozen=True, kw_only=True)
class _GenerationJob(CaptureJob):
    """One call of `generate`."""

    how: AnswerSettings

    def _session(self, first: Batch) -> Session:
        found = super()._session(first)
        # A batch takes long, so fewer are lost when the process is killed.
        rows = min(found.plan.rows_per_chunk, COMMITTED_BATCHES * first.rows)
        plan = _with_tokens(found.plan, self.how.token_columns)
        parts = vars(found) | {"plan": replace(plan, rows_per_chunk=rows)}
        session = _GenerationSession(**parts, how=self.how)
        gradient = next((each.name for each in session.plan.sites if each.site.side == "grad"), None)
        if gradient is not None:
            raise SiteError(f"{gradient} is a gradient, and nothing is learned here. Select other sites (sites=).")
        session.rehearse()
        return session


def _with_tokens(plan: CapturePlan, columns: tuple[str, ...]) -> CapturePlan:
    """The plan with what is known of each token of prompts and answers."""
    sites = [replace(site, spec=replace(site.spec, token_columns=columns)) for site in plan.sites]
    return replace(plan, site_plan=replace(plan.site_plan, sites=tuple(sites)))


def _nowhere(name: str, reduced: Reduced) -> None:
    """A sink that keeps nothing."""
