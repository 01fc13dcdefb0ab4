"""Examples that models are run on, without a network: what a model's config tells is what its forward takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import probekit as pk
from probekit import load
from probekit.errors import ModelError

TEXT = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VISION = {**{key: value for key, value in TEXT.items() if key != "vocab_size"}, "image_size": 32, "patch_size": 16}
BART = {
    "vocab_size": 50,
    "d_model": 16,
    **{f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads", "ffn_dim")},
}
WHISPER = {**BART, "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 10}
WAVES = {**TEXT, "conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (5, 8), "num_conv_pos_embeddings": 8}
IDS, MASK, PIXELS = {"input_ids": (2, 8)}, {"attention_mask": (2, 8)}, {"pixel_values": (2, 3, 32, 32)}
DECODER = {"decoder_input_ids": (2, 8)}

# class, its config, and the shapes of the inputs that it takes
MODELS: list[tuple[str, str, dict[str, Any], dict[str, tuple[int, ...]]]] = [
    ("BertForSequenceClassification", "BertConfig", TEXT, IDS | MASK),
    ("LlamaForCausalLM", "LlamaConfig", TEXT, IDS | MASK),
    (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 50, "d_model": 16, "num_layers": 1},
        IDS | MASK | DECODER,
    ),
    ("BartForSequenceClassification", "BartConfig", {**BART, "eos_token_id": 2}, IDS | MASK | DECODER),
    ("ViTForImageClassification", "ViTConfig", VISION, PIXELS),
    ("VideoMAEModel", "VideoMAEConfig", {**VISION, "num_frames": 4}, {"pixel_values": (2, 4, 3, 32, 32)}),
    ("CLIPModel", "CLIPConfig", {"text_config": TEXT, "vision_config": VISION}, IDS | MASK | PIXELS),
    ("CLIPVisionModel", "CLIPVisionConfig", VISION, PIXELS),
    ("Wav2Vec2Model", "Wav2Vec2Config", WAVES, {"input_values": (2, 16000)}),
    ("WhisperModel", "WhisperConfig", {**WHISPER, "pad_token_id": 0}, {"input_features": (2, 8, 20), **DECODER}),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the library itself
@pytest.mark.parametrize(("name", "config", "options", "shapes"), MODELS, ids=[each[0] for each in MODELS])
def test_a_model_of_transformers_runs_on_its_example(
    name: str, config: str, options: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> None:
    transformers = pytest.importorskip("transformers")
    model = getattr(transformers, name)(getattr(transformers, config)(**options))
    example = load.example(model)
    assert isinstance(example, dict)
    assert {key: tuple(tensor.shape) for key, tensor in example.items()} == shapes
    assert len(pk.sites(model, example)) > 5


def test_an_example_has_the_dtype_of_the_model() -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.ViTModel(transformers.ViTConfig(**VISION)).to(torch.bfloat16)
    example = load.example(model, samples=1)
    assert isinstance(example, dict)
    assert (example["pixel_values"].dtype, len(example["pixel_values"])) == (torch.bfloat16, 1)
    assert len(pk.sites(model, example)) > 5


def test_a_model_of_transformers_that_takes_something_else_is_refused() -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.PatchTSTModel(transformers.PatchTSTConfig(num_hidden_layers=1))
    with pytest.raises(ModelError, match="PatchTSTModel takes past_values"):
        load.example(model)


def test_a_model_of_timm_tells_its_own_size() -> None:
    timm = pytest.importorskip("timm")
    assert load.example(timm.create_model("resnet10t", pretrained=False)).shape == (2, 3, 176, 176)


def test_a_model_of_torchvision_takes_images_of_its_size() -> None:
    vit = torchvision.models.VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32)
    for model, side in ((vit, 32), (torchvision.models.squeezenet1_1(), 224)):
        example = load.example(model, samples=1)
        assert isinstance(example, torch.Tensor)
        assert example.shape == (1, 3, side, side)


def test_a_model_that_tells_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear doesn't say which inputs it takes"):
        load.example(nn.Linear(3, 2))
