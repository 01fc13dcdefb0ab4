"""How a model answers prompts: the arguments of its ``generate``, and what is known of complete answers."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from probekit._data.columns import Array, as_column
from probekit._forward.generated import Generated
from probekit._probe.selectors import module_names
from probekit._tokens import Tokens
from probekit.errors import ModelError, check_kind

__all__ = ["ANSWER", "ANSWER_TOKENS", "PROMPT", "PROMPT_TOKENS", "AnswerSettings"]

PROMPT, ANSWER, PROMPT_TOKENS, ANSWER_TOKENS = "prompt", "answer", "prompt_tokens", "answer_tokens"

# Arguments of generate by which it doesn't follow one answer a prompt, token by token; and values that are harmless.
_SEVERAL: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "use_cache": (None, True),
    "prompt_lookup_num_tokens": (None,),
    "assistant_model": (None,),
    "custom_generate": (None,),
    "inputs": (),
    "input_ids": (),
    "attention_mask": (),
    "inputs_embeds": (),
    "max_time": (None,),  # when that is over depends on the machine
}
_OWN_ENDS = ("stop_strings", "stopping_criteria")  # nothing says afterwards where they ended each answer of a batch


@dataclass(frozen=True)
class AnswerSettings:
    """How a model generates: its `config` and the further arguments of its ``generate``."""

    config: Any
    rest: Mapping[str, Any]
    tokenizer: Any

    @classmethod
    def of(
        cls, model: Any, tokenizer: Any, max_new_tokens: int, batch_size: int, given: Mapping[str, Any]
    ) -> AnswerSettings:
        name = type(model).__name__
        module_names(model)  # raises for what has no modules that run
        can = callable(getattr(model, "generate", None)) and hasattr(model, "generation_config")
        if not can or getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise ModelError(
                f"{name} isn't a causal language model of transformers, such as AutoModelForCausalLM loads: "
                f"{'it has an encoder of its own' if can else 'it has no generate() and generation_config'}."
            )
        check_kind("max_new_tokens", max_new_tokens, Integral, "a number of tokens", ModelError)
        if max_new_tokens < 1:
            raise ModelError(
                f"max_new_tokens is {max_new_tokens}; it must be at least 1.", arguments=("max_new_tokens",)
            )
        config = copy.deepcopy(model.generation_config)
        ours = {"max_new_tokens": int(max_new_tokens), "max_length": None, "return_dict_in_generate": False}
        rest = config.update(**{**given, **ours})
        made = cls(config, rest, tokenizer)
        made._check(name, batch_size)
        config.pad_token_id = made.padding
        return made

    def _check(self, model: str, batch_size: int) -> None:
        for name, harmless in _SEVERAL.items():
            value = self.rest.get(name, getattr(self.config, name, None))
            if name in self.rest or (value not in harmless and harmless):
                if value in harmless:
                    continue
                raise ModelError(
                    f"{name} of {model}.generate is {value!r}; probekit.generate follows one answer for each prompt, "
                    "token by token with the cache on, and gives the inputs itself. Leave it out."
                )
        own = [name for name in _OWN_ENDS if self.rest.get(name, getattr(self.config, name, None))]
        if own and batch_size > 1:
            raise ModelError(
                f"{own[0]} of {model}.generate ends answers in a way that can't be told afterwards where several are "
                "generated together. Give batch_size=1.",
                arguments=("batch_size",),
            )

    @property
    def ends(self) -> tuple[int, ...]:
        """The token ids that end an answer."""
        eos = self.config.eos_token_id
        return () if eos is None else tuple(eos) if isinstance(eos, Sequence) else (int(eos),)

    @property
    def padding(self) -> int:
        """The token id of padding, which a mask leaves out; any will do."""
        known = (self.config.pad_token_id, getattr(self.tokenizer, "pad_token_id", None), *self.ends, 0)
        return next(int(each) for each in known if each is not None)

    @property
    def described(self) -> str:
        """The settings, for a later capture into the same store to agree with."""
        settings = {key: value for key, value in self.config.to_diff_dict().items() if key != "transformers_version"}
        others = {name: _described(value) for name, value in self.rest.items()}
        return json.dumps(settings | others, sort_keys=True, default=str)

    def arguments(self, **other: Any) -> dict[str, Any]:
        """Those of the model's ``generate``, with some settings otherwise."""
        config = copy.deepcopy(self.config)
        config.update(**other)
        with_tokenizer = {"tokenizer": self.tokenizer} if self.config.stop_strings else {}
        return {"generation_config": config, **with_tokenizer, **self.rest}

    def found(self, generated: Generated) -> dict[str, Array]:
        """The columns of samples that are known when they have been answered."""
        answers = generated.answers
        columns = {ANSWER_TOKENS: np.array([len(each) for each in answers], np.int64)}
        if self.tokenizer is None:
            return columns
        texts = [self.tokenizer.decode(each, skip_special_tokens=True) for each in answers]
        return {ANSWER: as_column(texts, "The answers"), **columns}

    def tokens(self, generated: Generated) -> Tokens:
        """What is known of the tokens of prompts and answers."""
        known = generated.tokens
        if self.tokenizer is None:
            return known
        named = self.tokenizer.convert_ids_to_tokens(known.columns["token_id"].tolist())
        return Tokens(known.counts, {**known.columns, "token": np.array(list(map(str, named)), str)})

    @property
    def token_columns(self) -> tuple[str, ...]:
        return ("token_id", "generated") if self.tokenizer is None else ("token_id", "generated", "token")

    @property
    def found_dtypes(self) -> dict[str, np.dtype[Any]]:
        texts = {} if self.tokenizer is None else {ANSWER: np.dtype(np.str_)}
        return {**texts, ANSWER_TOKENS: np.dtype(np.int64)}


def _described(value: Any) -> Any:
    """A further argument as a setting: itself where it is plain, else its kind."""
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Sequence):
        return [_described(each) for each in value]
    return getattr(value, "__qualname__", type(value).__qualname__)
