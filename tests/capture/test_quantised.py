"""Quantised models give what a hook by hand sees. Where a library isn't installed, its models are skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import probekit as pk
from probekit.errors import SiteError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # each of these libraries warns of its own future

SITES = ("1", "3", "4")


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)).eval()


def torchao(config: str) -> nn.Module:
    ao = pytest.importorskip("torchao.quantization")
    model = plain()
    ao.quantize_(model, getattr(ao, config)())
    return model


def bitsandbytes(layer: str, **options: Any) -> nn.Module:
    bnb = pytest.importorskip("bitsandbytes")
    model = plain()
    for name, child in list(model.named_children()):
        if isinstance(child, nn.Linear):
            quantised = getattr(bnb.nn, layer)(child.in_features, child.out_features, **options)
            quantised.load_state_dict(child.state_dict())
            setattr(model, name, quantised)
    return model.to("cpu").eval()


def dynamic() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(plain(), {nn.Linear}, dtype=torch.qint8)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "torch dynamic": dynamic,
    "torchao int8 weights": lambda: torchao("Int8WeightOnlyConfig"),
    "torchao int8": lambda: torchao("Int8DynamicActivationInt8WeightConfig"),
    "torchao float8 weights": lambda: torchao("Float8WeightOnlyConfig"),
    "torchao intx weights": lambda: torchao("IntxWeightOnlyConfig"),
    "bitsandbytes 8 bits": lambda: bitsandbytes("Linear8bitLt", has_fp16_weights=False),
    "bitsandbytes nf4": lambda: bitsandbytes("Linear4bit", quant_type="nf4", compute_dtype=torch.float32),
    "bitsandbytes fp4": lambda: bitsandbytes("LinearFP4"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_quantised_model_gives_what_a_hook_sees(name: str, tmp_path: Path) -> None:
    model, x = MODELS[name](), torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    expected: dict[str, Tensor] = {}
    for site in SITES:
        model.get_submodule(site).register_forward_hook(
            lambda module, args, output, site=site: expected.__setitem__(site, output.detach().clone())
        )
    with torch.no_grad():
        model(x)
    expected = dict(expected)
    tree = pk.capture(model, (x, torch.arange(20) % 10), tmp_path / "a.zarr", sites=SITES)
    for site in SITES:
        np.testing.assert_array_equal(tree[site]["activation"].values, expected[site].numpy())
    assert not np.array_equal(tree["4"]["activation"].values, plain()(x).detach().numpy())


def test_ways_to_quantise_are_told_apart() -> None:
    digests = {pk.weights_digest(MODELS[name]()) for name in MODELS if name.startswith("torchao")}
    assert len(digests) == 4


def test_quantised_values_are_refused_with_the_way_out(tmp_path: Path) -> None:
    quantisation = torch.ao.quantization
    torch.manual_seed(0)
    parts = (quantisation.QuantStub(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10), quantisation.DeQuantStub())
    model, x = nn.Sequential(*parts).eval(), torch.randn(20, 64)
    model.qconfig = quantisation.default_qconfig
    quantisation.prepare(model, inplace=True)
    model(x)
    quantisation.convert(model, inplace=True)
    with pytest.raises(SiteError, match=r"quantised values .* reduce="):
        pk.capture(model, x, tmp_path / "a.zarr", sites="2")
    tree = pk.capture(model, x, tmp_path / "b.zarr", sites=["2", "4"], reduce={"2": lambda t: t.dequantize()})
    np.testing.assert_array_equal(tree["4"]["activation"].values, model(x).numpy())
