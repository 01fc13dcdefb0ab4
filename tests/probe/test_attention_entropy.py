"""Attention maps reduced to the entropy of each head: beside scipy's, without padding, live and stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

import probekit as pk
from probekit._probe.reductions import plan_reduction

REDUCE = {"**.attention": "attention_entropy"}


class Attention(nn.Module):
    """The attention map (batch, head, query, key) alone, which padded keys have no part in."""

    def forward(self, scores: Tensor, attention_mask: Tensor) -> Tensor:
        return scores.masked_fill(attention_mask[:, None, None] == 0, -torch.inf).softmax(3)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"attention": Attention()})

    def forward(self, scores: Tensor, attention_mask: Tensor) -> Tensor:
        return self.block["attention"](scores, attention_mask)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    mask = torch.ones(6, 7, dtype=torch.int64)
    mask[0, 4:] = mask[3, :5] = 0
    return {"scores": torch.randn(6, 3, 7, 7, generator=torch.Generator().manual_seed(0)), "attention_mask": mask}


def expected(batch: dict[str, Tensor]) -> np.ndarray:
    """By sample and head, from the formula."""
    maps = Model()(**batch).numpy()
    real = batch["attention_mask"].numpy().astype(bool)
    return np.stack([scipy.stats.entropy(one[:, there], base=2, axis=2).mean(1) for one, there in zip(maps, real)])  # noqa: B905


def test_each_head_has_the_entropy_of_its_real_queries(batch: dict[str, Tensor], tmp_path: Path) -> None:
    tree = pk.capture(Model(), [batch], tmp_path / "acts.zarr", sites="**.attention", reduce=REDUCE)
    site = tree["block.attention"]
    assert site["activation"].dims == ("sample", "node")
    assert site.attrs["mask"] == "attention_mask"
    np.testing.assert_allclose(site["activation"], expected(batch), rtol=1e-5)
    live = pk.measure_live(Model(), [batch], "mean", sites="**.attention", reduce=REDUCE)
    np.testing.assert_allclose(live["block.attention"]["mean"], expected(batch).mean(0), rtol=1e-5)


def kept(maps: Tensor, mask: Tensor | None = None) -> Tensor:
    return plan_reduction("attention_entropy", site="layer")(maps, mask).tensor


def test_even_attention_has_the_logarithm_of_the_keys_and_single_keys_have_none() -> None:
    even, single = torch.full((2, 5, 8, 8), 1 / 8), torch.eye(8).expand(2, 5, 8, 8)
    torch.testing.assert_close(kept(even), torch.full((2, 5), 3.0))
    torch.testing.assert_close(kept(single), torch.zeros(2, 5))
    torch.testing.assert_close(kept(even[:, 0]), torch.full((2, 1), 3.0))  # the mean of the heads
    torch.testing.assert_close(kept(even.half()), torch.full((2, 5), 3.0, dtype=torch.half))
    causal = torch.ones(1, 1, 4, 4).tril() / torch.arange(1, 5)[:, None]
    causal[0, 0, 0] = 0  # a query that may attend to nothing doesn't count
    torch.testing.assert_close(kept(causal), torch.tensor([[(1 + np.log2(3) + 2) / 3]], dtype=torch.float32))


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (torch.randn(2, 3, 4, 4), "these go from -"),
        (torch.rand(2, 3, 4, 4), "and add up to between"),
        (torch.rand(2, 3), "it is no attention map, which is of floats"),
    ],
)
def test_what_is_no_attention_map_is_refused(tensor: Tensor, fault: str) -> None:
    with pytest.raises(pk.errors.SiteError, match=f"reduce='attention_entropy' on layer.*{fault}"):
        kept(tensor)


@pytest.mark.slow
def test_a_real_model_gives_its_maps() -> None:
    transformers: Any = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 16}
    config = transformers.BertConfig(**sizes, num_hidden_layers=1, attn_implementation="eager", output_attentions=True)
    model, ids = transformers.BertModel(config).eval(), torch.randint(1, 50, (6, 7))
    site = "encoder.layer.0.attention.self[1]"
    found = pk.measure_live(model, [{"input_ids": ids}], "mean", sites=site, reduce="attention_entropy", mask=False)
    maps = model(input_ids=ids).attentions[0].detach().numpy()
    np.testing.assert_allclose(found[site]["mean"], scipy.stats.entropy(maps, base=2, axis=3).mean((0, 2)), rtol=1e-5)
