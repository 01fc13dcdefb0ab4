"""Real architectures with random weights: a few sites of each, compared bit for bit with hooks written by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

import probekit as pk
from probekit import load
from probekit.errors import SiteError

pytestmark = pytest.mark.slow

ROWS, BATCH = 3, 2  # the last batch is a partial one


def images(side: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"x": torch.rand(ROWS, 3, side, side)}


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)


def convnext() -> nn.Module:
    blocks = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt([blocks(8, 16, 2), blocks(16, None, 2)], stochastic_depth_prob=0.1)


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer([2, 2], 12, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.1)


def torchvision_model(name: str) -> Callable[[], nn.Module]:
    return lambda: getattr(torchvision.models, name)(weights=None)


def timm_model(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: pytest.importorskip("timm").create_model(name, pretrained=False, **options)


def hugging_face(name: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        return getattr(transformers, name)(getattr(transformers, config)(**options))

    return make


def text(*names: str) -> Callable[[], dict[str, Tensor]]:
    return lambda: {name: torch.randint(1, 50, (ROWS, 7)) for name in names} | {"attention_mask": padding()}


def padding() -> Tensor:
    return (torch.arange(7) < torch.tensor([[7], [4], [5]])).long()


TOKENS = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}

# name: what makes it, its inputs, and sites to look at, each with the shape of a sample there
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], dict[str, tuple[int, ...]]]] = {
    "resnet18": (
        torchvision_model("resnet18"),
        images(64),
        {"relu": (64, 32, 32), "layer1.0.relu@1": (64, 16, 16), "layer4.1": (512, 2, 2), "avgpool": (512, 1, 1)},
    ),
    "vit": (
        vit,
        images(32),
        {
            "conv_proj": (16, 2, 2),
            "encoder.layers.encoder_layer_1.mlp.1": (5, 32),
            "encoder.layers.encoder_layer_0.self_attention[0]": (5, 16),
            "heads": (1000,),
        },
    ),
    "swin": (swin, images(32), {"features.1.0.attn": (16, 16, 12), "features.3.1.mlp": (8, 8, 24), "norm": (8, 8, 24)}),
    "convnext": (
        convnext,
        images(32),
        {"features.1.0.block.0": (8, 8, 8), "features.3": (16, 4, 4), "classifier": (1000,)},
    ),
    "timm resnet": (timm_model("resnet10t"), images(64), {"layer1.0.act1": (64, 16, 16), "global_pool": (512,)}),
    "timm vit": (
        timm_model("vit_tiny_patch16_224", img_size=32, depth=2),
        images(32),
        {"blocks.0.attn": (5, 192), "blocks.1.mlp.act": (5, 768), "head": (1000,)},
    ),
    "bert": (
        hugging_face("BertModel", "BertConfig", intermediate_size=32, **TOKENS),
        text("input_ids"),
        {"encoder.layer.0.intermediate": (7, 32), "(root)[last_hidden_state]": (7, 16), "(root)[pooler_output]": (16,)},
    ),
    "gpt2": (
        hugging_face("GPT2LMHeadModel", "GPT2Config", vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=8),
        text("input_ids"),
        {"transformer.h.0.attn[0]": (7, 16), "transformer.h.1.mlp.act": (7, 64), "(root)[logits]": (7, 50)},
    ),
    "t5": (
        hugging_face("T5Model", "T5Config", vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2),
        text("input_ids", "decoder_input_ids"),
        {"encoder.block.0.layer.1": (7, 16), "decoder.block.1.layer.2.DenseReluDense.act": (7, 32)},
    ),
    "clip": (
        hugging_face(
            "CLIPModel",
            "CLIPConfig",
            text_config={**WIDE, "vocab_size": 50},
            vision_config={**WIDE, "image_size": 32, "patch_size": 16},
            projection_dim=8,
        ),
        lambda: {**text("input_ids")(), "pixel_values": torch.rand(ROWS, 3, 32, 32)},
        {"vision_model.encoder.layers.0.mlp": (5, 16), "text_projection": (8,), "(root)[image_embeds]": (8,)},
    ),
    "llama": (
        hugging_face("LlamaForCausalLM", "LlamaConfig", intermediate_size=32, num_key_value_heads=1, **TOKENS),
        text("input_ids"),
        {"model.layers.0.self_attn[0]": (7, 16), "model.layers.1.mlp.act_fn": (7, 32), "(root)[logits]": (7, 50)},
    ),
}


def built(name: str) -> tuple[nn.Module, Any]:
    make, inputs, _ = MODELS[name]
    torch.manual_seed(0)
    return make().eval(), inputs()


def by_hand(model: nn.Module, batches: list[dict[str, Tensor]], sites: list[str]) -> dict[str, np.ndarray]:
    """A copy of what each site gave, by hooks on the modules that the names of the sites begin with."""
    given: dict[str, list[list[Any]]] = {site: [] for site in sites}
    with ExitStack() as hooks, torch.no_grad():
        for site in sites:
            path = site.split("[")[0].split("@")[0]

            def hook(module: nn.Module, args: Any, output: Any, site: str = site) -> None:
                for leaf in site.split("[")[1:]:
                    key = leaf.removesuffix("]")
                    output = output[int(key) if key.isdigit() else key]
                given[site][-1].append(output.clone())

            module = model if path == "(root)" else model.get_submodule(path)
            hooks.callback(module.register_forward_hook(hook).remove)
        for batch in batches:
            for calls in given.values():
                calls.append([])
            forward(model, batch)
    call = {site: int(site.split("@")[1]) if "@" in site else 0 for site in sites}
    return {site: torch.cat([calls[call[site]] for calls in given[site]]).numpy() for site in sites}


def forward(model: nn.Module, batch: dict[str, Tensor]) -> Any:
    return model(batch["x"]) if "x" in batch else model(**batch)


def cut(inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    starts = range(0, ROWS, BATCH)
    return [{key: tensor[start : start + BATCH] for key, tensor in inputs.items()} for start in starts]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the libraries themselves
@pytest.mark.parametrize("name", MODELS)
def test_a_capture_holds_what_hooks_written_by_hand_record(name: str, tmp_path: Path) -> None:
    model, inputs = built(name)
    shapes = MODELS[name][2]
    batches = cut(inputs)
    expected = by_hand(model, batches, list(shapes))
    data = [(batch["x"],) if "x" in batch else batch for batch in batches]
    tree = pk.capture(model, data, tmp_path / "acts.zarr", sites=list(shapes))
    assert set(tree.children) == set(shapes)
    for site, values in expected.items():
        assert values.shape == (ROWS, *shapes[site])
        np.testing.assert_array_equal(tree[site]["activation"].values, values)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_without_a_probe_and_the_dry_run_lists_every_site(name: str) -> None:
    model, inputs = built(name)
    with torch.no_grad():
        plain = forward(model, inputs)
        with pk.Probe(model) as probe:
            watched = forward(model, inputs)
            found = probe.take()
    first = (lambda output: output) if isinstance(plain, Tensor) else (lambda output: output[0])
    assert torch.equal(first(watched), first(plain))
    table = pk.sites(model, inputs.get("x", inputs))
    assert [(site.name, site.shape) for site in table] == [(name, tuple(t.shape)) for name, t in found.items()]
    assert found.keys() >= MODELS[name][2].keys()


# name: the model as it is in papers, by its name, and sites to find in the table with the shape of a sample there
BY_NAME: dict[str, dict[str, tuple[int, ...]]] = {
    "torchvision:resnet18": {"layer4.1.relu@1": (512, 7, 7), "(root)": (1000,)},
    "torchvision:vit_b_16": {"encoder.layers.encoder_layer_11.mlp.1": (197, 3072), "heads": (1000,)},
    "torchvision:swin_t": {"features.5.5.mlp": (14, 14, 384), "norm": (7, 7, 768)},
    "torchvision:convnext_tiny": {"features.5.8": (384, 14, 14), "avgpool": (768, 1, 1)},
    "timm:vit_tiny_patch16_224": {"blocks.11.mlp.act": (197, 768), "head": (1000,)},
    "timm:convnext_atto": {"stages.2.blocks.5": (160, 14, 14), "head.fc": (1000,)},
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", BY_NAME)
def test_a_model_by_name_brings_an_example_that_its_sites_are_found_with(name: str) -> None:
    library = name.partition(":")[0]
    pytest.importorskip(library)
    model = load.model(name)
    found = {site.name: site.shape for site in pk.sites(model, load.example(model, samples=1))}
    assert found.items() >= {site: (1, *shape) for site, shape in BY_NAME[name].items()}.items()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "clip", "llama"])
def test_a_saved_model_by_folder_gives_what_it_gave_when_it_was_saved(name: str, tmp_path: Path) -> None:
    saved, inputs = built(name)
    saved.save_pretrained(tmp_path / name)  # type: ignore[operator]
    model = load.model(f"hf:{tmp_path / name}").eval()
    sites = [site for site in MODELS[name][2] if not site.startswith("(root)")]
    expected, found = by_hand(saved, [inputs], sites), by_hand(model, [inputs], sites)
    for site in sites:
        np.testing.assert_array_equal(found[site], expected[site])
    example = load.example(model)
    assert isinstance(example, dict)
    assert example.keys() == inputs.keys() | {"attention_mask"}
    assert {site.name for site in pk.sites(model, example)} >= set(MODELS[name][2])


def window_attention() -> nn.Module:
    """Swin's windows, written by hand: a feature map is cut into windows, which go through attention like a batch."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.attn = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.embed(x)  # (batch, channel, 8, 8)
            windows = maps.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(-1, 16, 8)
            return self.attn(windows).reshape(len(x), -1)

    return Windows()


swin_of_timm = timm_model(
    "swin_tiny_patch4_window7_224", img_size=32, window_size=4, depths=(2, 2), embed_dim=24, num_heads=(2, 2)
)


@pytest.mark.parametrize(
    ("make", "site"),
    [
        (window_attention, "attn"),
        (swin_of_timm, "layers.0.blocks.1.attn"),
        (swin_of_timm, "layers.0.blocks.0.attn.qkv"),
    ],
    ids=["by hand", "timm, attention", "timm, queries"],
)
def test_windows_are_no_batch_and_are_refused_by_name(make: Callable[[], nn.Module], site: str, tmp_path: Path) -> None:
    model, x = make().eval(), torch.rand(ROWS, 3, 32, 32)
    with pytest.raises(SiteError, match=rf"Axis 0 of {re.escape(site)} .* is not the batch.* for {ROWS} samples"):
        pk.capture(model, x, tmp_path / "acts.zarr", sites=site)
    assert not (tmp_path / "acts.zarr").exists()
    assert pk.sites(model, x, select=site)[0].shape[0] == 4 * ROWS
