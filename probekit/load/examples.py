"""A batch that a model can run on, derived from the model's own configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from probekit.errors import ModelError, check_kind

__all__ = ["example"]

SIDE = 224  # pixels, for torchvision's models and for configs without a size
TOKENS = 8
SECOND = 16_000  # values in a second of sound, at the sampling rate of most speech models


def example(model: nn.Module, samples: int = 2) -> Tensor | dict[str, Tensor]:
    """A batch of made-up inputs that `model` can run on: token ids that count up, images and sounds of zeros.

    - A model of transformers gets keyword inputs in the sizes of its config: input_ids and attention_mask, with
      decoder_input_ids for an encoder and decoder; pixel_values; both, as for CLIP; input_values or input_features.
      A model that writes about images (image tokens in its config) gets text alone.
    - A model of timm gets images of its ``default_cfg["input_size"]``; a model of torchvision gets images of 3×224×224
      or of its own ``image_size``.

    Raises ModelError if the inputs of a model aren't known.

    >>> from probekit import load
    >>> example(load.model("torchvision:squeezenet1_1")).shape
    torch.Size([2, 3, 224, 224])
    """
    check_kind("model", model, nn.Module, "a torch module", ModelError)
    check_kind("samples", samples, Integral, "a number of samples", ModelError)
    if hasattr(getattr(model, "config", None), "model_type"):
        return _of_transformers(model, samples)
    dtype = next((tensor.dtype for tensor in model.parameters()), torch.float32)
    size = getattr(model, "default_cfg", {}).get("input_size")
    if size is None and type(model).__module__.startswith("torchvision.models."):
        size = (3, *_sides(getattr(model, "image_size", None)))
    if size is None:
        raise ModelError(f"{type(model).__name__} doesn't say which inputs it takes.")
    return torch.zeros(samples, *size, dtype=dtype)


def _of_transformers(model: nn.Module, samples: int) -> dict[str, Tensor]:
    try:
        return _KeywordInputs(model, samples).inputs()
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a config of a kind that isn't known here
        raise ModelError(f"The config of {type(model).__name__} doesn't say which inputs it takes: {error}.") from error


class _KeywordInputs:
    """The keyword inputs of a model of transformers, from its config and the signature of its forward."""

    def __init__(self, model: nn.Module, samples: int) -> None:
        self._name = type(model).__name__
        self._config: Any = model.config
        self._dtype: Any = model.dtype
        self._main = getattr(model, "main_input_name", "input_ids")
        self._taken = inspect.signature(model.forward).parameters
        self._samples = samples

    def inputs(self) -> dict[str, Tensor]:
        found = self._text() if "input_ids" in self._taken else {}
        writes_about_images = found and any(hasattr(self._config, f"image_token_{kind}") for kind in ("id", "index"))
        if "pixel_values" in self._taken and not writes_about_images:
            found["pixel_values"] = self._images()
        if self._main == "input_values":
            found["input_values"] = self._zeros(SECOND)
        if self._main == "input_features" and hasattr(self._config, "max_source_positions"):
            found |= self._spectrum()
        if lacking := self._needed() - found.keys():
            raise ModelError(f"{self._name} takes {', '.join(sorted(lacking))}, but its config doesn't give the sizes.")
        return found

    def _needed(self) -> set[str]:
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        asked = {key for key, each in self._taken.items() if each.default is each.empty and each.kind in named}
        return asked | ({self._main} if isinstance(self._main, str) else set(self._main))

    def _text(self) -> dict[str, Tensor]:
        ids = self._ids()
        found = {"input_ids": ids}
        if "attention_mask" in self._taken:
            found["attention_mask"] = torch.ones_like(ids)
        if self._config.is_encoder_decoder and "decoder_input_ids" in self._taken:
            found["decoder_input_ids"] = ids.clone()
        return found

    def _ids(self) -> Tensor:
        text = self._config.get_text_config()
        vocabulary: int = text.vocab_size
        ids = (torch.arange(self._samples * TOKENS) % (vocabulary - 1) + 1).reshape(self._samples, TOKENS)
        end = getattr(text, "eos_token_id", None)
        if isinstance(end, int) and 0 <= end < vocabulary:  # BART's classifier and CLIP's pooling need it
            ids[ids == end] = (end + 1) % vocabulary
            ids[:, -1] = end
        return ids

    def _images(self) -> Tensor:
        config = self._config
        seen = getattr(config, "vision_config", None) or getattr(config, "encoder", None) or config
        frames = [seen.num_frames] if isinstance(getattr(seen, "num_frames", None), int) else []
        return self._zeros(*frames, getattr(seen, "num_channels", 3), *_sides(getattr(seen, "image_size", None)))

    def _spectrum(self) -> dict[str, Tensor]:
        """The sound and the text of Whisper, whose first convolutions halve the length."""
        found = {"input_features": self._zeros(self._config.num_mel_bins, 2 * self._config.max_source_positions)}
        return found | ({"decoder_input_ids": self._ids()} if "decoder_input_ids" in self._taken else {})

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(self._samples, *shape, dtype=self._dtype)


def _sides(size: Any) -> tuple[int, int]:
    """Height and width from a config, which gives them as a number, as a pair, or by name."""
    if isinstance(size, Mapping):
        return size["height"], size["width"]
    height, width = size if isinstance(size, tuple | list) else (size or SIDE,) * 2
    return height, width
