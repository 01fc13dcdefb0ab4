"""Sites whose axis 0 is sample × position, such as those of routers: recognised, unfolded, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import probekit as pk
from probekit.errors import SiteError

IDS = torch.randint(1, 50, (11, 7), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([7, 3, 5, 1, 7, 2, 6, 4, 7, 7, 5])
MASK = (torch.arange(7) < LENGTHS[:, None]).long()
TEXTS = {"input_ids": IDS, "attention_mask": MASK}


class Expert(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Mixture(nn.Module):
    """A layer in which each token goes to its best expert; `positions_first` puts tokens of one position together."""

    def __init__(self, *, positions_first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.gate = nn.Embedding(50, 6), nn.Linear(6, 4, bias=False)
        self.experts = nn.ModuleList(Expert(6, 6) for _ in range(4))
        self.positions_first = positions_first

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        x = x.transpose(0, 1) if self.positions_first else x
        tokens = x.reshape(-1, 6)
        chosen = self.gate(tokens).argmax(1)
        made = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            made[chosen == number] = expert(tokens[chosen == number])
        made = made.view(x.shape)
        return made.transpose(0, 1) if self.positions_first else made


def mixtral() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes, **heads, eos_token_id=None))


def qwen() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 6, "num_experts_per_tok": 2}
    more = {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}
    return transformers.Qwen2MoeForCausalLM(transformers.Qwen2MoeConfig(**sizes, **heads, **more))


def by_hand(model: nn.Module, module: str, inputs: dict[str, Tensor]) -> list[Tensor]:
    """What a module returns for each batch of five, with the position as axis 1."""
    found: list[list[Tensor]] = []

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        found.append([each.clone() for each in (output if isinstance(output, tuple) else (output,))])

    handle = model.eval().get_submodule(module).register_forward_hook(hook)
    with torch.no_grad():
        for start in range(0, 11, 5):
            model(**{name: values[start : start + 5] for name, values in inputs.items()})
    handle.remove()
    sizes = [(5, 7), (5, 7), (1, 7)]
    batches = [[each.unflatten(0, size) for each in outputs] for outputs, size in zip(found, sizes, strict=True)]
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


@pytest.mark.parametrize(
    ("make", "module", "leaves"),
    [
        (mixtral, "model.layers.1.mlp.gate", ["[0]", "[1]", "[2]"]),
        (qwen, "model.layers.0.mlp.gate", ["[0]", "[1]", "[2]"]),
        (Mixture, "gate", [""]),
    ],
)
def test_routers_are_unfolded_and_exact(tmp_path: Any, make: Any, module: str, leaves: list[str]) -> None:
    model, sites = make(), [f"{module}{leaf}" for leaf in leaves]
    whole = pk.capture(model, TEXTS, tmp_path / "whole", sites=sites, batch_size=5, mask=False)
    rows = pk.capture(model, TEXTS, tmp_path / "rows", sites=sites, batch_size=5, reduce="tokens")
    for site, expected in zip(sites, by_hand(model, module, TEXTS), strict=True):
        found = whole[site]["activation"]
        assert found.dims == ("sample", "position", "node")
        assert whole[site].attrs["unfolded"] == "sample × position"
        assert found.dtype == expected.numpy().dtype
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(rows[site]["activation"], expected[MASK.bool()])
        np.testing.assert_array_equal(rows[site]["sample_id"], MASK.nonzero()[:, 0])
        np.testing.assert_array_equal(rows[site]["position"], MASK.nonzero()[:, 1])


def test_routed_experts_are_integers(tmp_path: Any) -> None:
    tree = pk.capture(mixtral(), TEXTS, tmp_path / "a", sites="model.layers.*.mlp.gate[2]", batch_size=5)
    experts = tree["model.layers.0.mlp.gate[2]"]
    assert experts["activation"].dtype == np.int64
    assert set(np.unique(experts["activation"])) <= set(range(4))
    np.testing.assert_array_equal(experts["mask"], MASK.bool())


def test_batches_of_other_lengths(tmp_path: Any) -> None:
    model, data = Mixture(), [{"input_ids": IDS[:5]}, {"input_ids": IDS[5:8, :4]}, {"input_ids": IDS[8:9, :1]}]
    tree = pk.capture(model, data, tmp_path / "a", sites="gate", reduce="tokens", mask=False)
    with torch.no_grad():
        expected = torch.cat([model.gate(model.embed(each["input_ids"])).flatten(0, 1) for each in data])
    np.testing.assert_allclose(tree["gate"]["activation"], expected, rtol=1e-5)
    assert tree["gate"].sizes["row"] == 5 * 7 + 3 * 4 + 1


def test_a_live_measurement_means_over_positions() -> None:
    model = Mixture()
    live = pk.measure_live(model, TEXTS, "mean", sites="gate", batch_size=5)
    with torch.no_grad():
        scores = model.gate(model.embed(IDS))
    expected = ((scores * MASK[:, :, None]).sum(1) / MASK.sum(1)[:, None]).mean(0)
    np.testing.assert_allclose(live["gate"]["mean"].squeeze(), expected, rtol=1e-5)


def test_it_is_shown(tmp_path: Any) -> None:
    model = Mixture()
    [site] = pk.sites(model, {"input_ids": IDS[:2]}, select="gate")
    assert (site.folded, site.shown_shape, site.bytes_per_sample) == (7, "(2·7)×4", 7 * 4 * 4)
    assert "(2·7)×4" in str(pk.sites(model, {"input_ids": IDS[:2]}, select="gate"))
    assert "axis 0, unfolded" in str(pk.plan(model, TEXTS, sites="gate"))


@pytest.mark.parametrize("ids", [torch.zeros(3, 7, dtype=torch.long), IDS[:1], IDS[:2], IDS[:4]])
def test_it_is_told_from_any_example(ids: Tensor) -> None:
    assert [site.folded for site in pk.sites(Mixture(), ids, select="gate")] == [7]


@pytest.mark.parametrize("make", [Mixture, mixtral])
def test_the_model_is_left_as_it_was(make: Any) -> None:
    model = make().train()
    before, state = {name: each.clone() for name, each in model.state_dict().items()}, torch.get_rng_state()
    pk.sites(model, {"input_ids": IDS[:2]}, select="**.gate" if make is mixtral else "gate")
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert all(each.training for each in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_positions_first_is_refused() -> None:
    with pytest.raises(SiteError, match=r"Axis 0 of gate .* 3 samples × 7 positions, but whether it is that"):
        pk.plan(Mixture(positions_first=True), TEXTS, sites="gate")


class Chance(nn.Module):
    """Has seven heads, each with a row of its own beside the samples, by chance as many as there are positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(50, 14), nn.Linear(2, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.embed(input_ids).mean(1).reshape(-1, 2))


def test_another_axis_of_the_same_length_is_refused() -> None:
    assert pk.sites(Chance(), IDS[:3], select="head")[0].folded is None
    with pytest.raises(SiteError, match=r"Axis 0 of head .* whether it is that can't be told"):
        pk.plan(Chance(), {"input_ids": IDS}, sites="head")


def test_an_expert_that_gets_some_tokens_is_refused_with_its_router(tmp_path: Any) -> None:
    for call in (lambda: pk.plan(Mixture(), TEXTS, sites="experts.*"), lambda: pk.plan(Mixture(), TEXTS, sites="**")):
        with pytest.raises(SiteError, match=r"experts\.\d \(Expert\), .* Select its router, .* \(sites='gate'\)"):
            call()


def test_the_user_may_say_otherwise(tmp_path: Any) -> None:
    unfolds = {"gate": lambda t: t.unflatten(0, (-1, 7))}
    tree = pk.capture(Mixture(), TEXTS, tmp_path / "a", sites="gate", reduce=unfolds, mask=False)
    theirs = pk.capture(Mixture(), TEXTS, tmp_path / "b", sites="gate", mask=False)
    np.testing.assert_array_equal(tree["gate"]["activation"], theirs["gate"]["activation"])
    assert "unfolded" not in tree["gate"].attrs
    nodes = pk.capture(Mixture(), TEXTS, tmp_path / "c", sites="gate", node_dim=1, mask=False)
    np.testing.assert_array_equal(nodes["gate"]["activation"], theirs["gate"]["activation"])


def test_routers_while_generating(tmp_path: Any) -> None:
    model, site = mixtral(), "model.layers.1.mlp.gate[0]"
    prompts = [IDS[0, :4].tolist(), IDS[1, :2].tolist()]
    tree = pk.generate(model, prompts, tmp_path / "a", max_new_tokens=4, sites=site)
    found: list[Tensor] = []
    handle = model.model.layers[1].mlp.gate.register_forward_hook(lambda m, args, output: found.append(output[0]))
    with torch.no_grad():
        for prompt in prompts:
            sequence = model.generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False, pad_token_id=0)
            found.clear() if prompt is prompts[0] else found.__delitem__(slice(1, None))
            model(sequence[:, :-1])
    handle.remove()
    np.testing.assert_allclose(tree[site]["activation"], torch.cat(found), rtol=1e-3, atol=1e-6)
