"""Every model of the zoo through a probe, compared bit for bit with hooks written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import fields
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import probekit as pk
from probekit.errors import ProbekitError, SiteError
from tests import zoo
from tests.zoo import ZOO, call

every_model = pytest.mark.parametrize("name", ZOO)

# --- the same, written by hand --------------------------------------------------------------------------------------


def by_hand(model: nn.Module, examples: list[Any]) -> dict[str, Tensor]:
    """What plain hooks see in the passes over `examples`, joined along axis 0, by site."""
    fired: list[list[tuple[str, dict[str, Tensor]]]] = []
    with ExitStack() as hooks:
        for path, module in model.named_modules():

            def hook(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
                fired[-1].append((path or "(root)", dict(copied(output))))

            hooks.callback(module.register_forward_hook(hook).remove)
        for example in examples:
            fired.append([])
            call(model, example)
    passes = [numbered(each) for each in fired]
    assert all(each.keys() == passes[0].keys() for each in passes)
    return {name: joined([each[name] for each in passes]) for name in passes[0]}


def numbered(fired: list[tuple[str, dict[str, Tensor]]]) -> dict[str, Tensor]:
    runs = [path for path, _ in fired]
    return {
        path + (f"@{runs[:index].count(path)}" if runs.count(path) > 1 else "") + leaf: tensor
        for index, (path, output) in enumerate(fired)
        for leaf, tensor in output.items()
    }


def copied(value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield "", value.detach().clone()
    elif hasattr(value, "items"):
        for key, item in value.items():
            yield from ((f"[{key}]{rest}", leaf) for rest, leaf in copied(item))
    elif hasattr(value, "__dataclass_fields__"):
        yield from copied({field.name: getattr(value, field.name) for field in fields(value)})
    elif hasattr(value, "_asdict"):
        yield from copied(value._asdict())
    elif isinstance(value, list | tuple):
        yield from copied(dict(enumerate(value)))


def joined(tensors: list[Tensor]) -> Tensor:
    if len(tensors) == 1:
        return tensors[0]
    return torch.cat(tensors) if tensors[0].ndim else torch.stack(tensors)


# --- what is compared -----------------------------------------------------------------------------------------------


def bits(tensor: Tensor) -> tuple[Any, ...]:
    """All that two tensors must have in common: NaN and the sign of zero count too."""
    plain = tensor.detach().resolve_conj().contiguous()
    return tensor.dtype, tuple(tensor.shape), plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    assert {name: bits(tensor) for name, tensor in found.items()} == {
        name: bits(tensor) for name, tensor in expected.items()
    }


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called", "_forward_hooks_with_kwargs",
         "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks")  # fmt: skip


def hooks_and_flags(model: nn.Module) -> Any:
    modules = [([list(getattr(module, hook)) for hook in HOOKS], module.training) for module in model.modules()]
    return modules, torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def state(model: nn.Module) -> dict[str, Any]:
    return {name: bits(tensor) for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}


def probed(model: nn.Module, examples: list[Any]) -> dict[str, Tensor]:
    with pk.Probe(model, "**") as probe:
        for example in examples:
            call(model, example)
        return probe.take()


def run_seeded(function: Any, *args: Any) -> tuple[Any, Any]:
    """The result, and the state of the generator afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return function(*args), bits(torch.get_rng_state())


# --- one pass, two passes, no trace ---------------------------------------------------------------------------------


def test_the_zoo_is_large() -> None:
    assert len(ZOO) >= 40


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@every_model
def test_one_pass(name: str, mode: Any) -> None:
    specimen = ZOO[name]
    with mode():
        expected, _ = run_seeded(by_hand, specimen.model(), [specimen.example()])
        found, _ = run_seeded(probed, specimen.model(), [specimen.example()])
    same(found, expected)
    assert not any(tensor.requires_grad for tensor in found.values())


@every_model
def test_two_passes_are_joined(name: str) -> None:
    specimen = ZOO[name]
    examples = [[specimen.example(seed) for seed in (1, 2)] for _ in "ab"]
    expected, _ = run_seeded(by_hand, specimen.model(), examples[0])
    found, _ = run_seeded(probed, specimen.model(), examples[1])
    same(found, expected)


@every_model
def test_the_name_of_a_site_selects_it_and_no_other(name: str) -> None:
    specimen = ZOO[name]
    names, _ = run_seeded(lambda: list(probed(specimen.model(), [specimen.example()])))
    for site in names:
        if "*" not in site:
            model = specimen.model()
            with pk.Probe(model, site) as probe:
                call(model, specimen.example())
                assert list(probe.take()) == [site]


@every_model
def test_outputs_in_eval_mode_are_those_without_a_probe(name: str) -> None:
    specimen = ZOO[name]
    model = specimen.model().eval()
    with torch.no_grad():
        plain = dict(copied(call(model, specimen.example())))
        with pk.Probe(model, "**"):
            same(dict(copied(call(model, specimen.example()))), plain)


@every_model
def test_outputs_gradients_and_random_numbers_are_those_without_a_probe(name: str) -> None:
    specimen = ZOO[name]

    def outcome(model: nn.Module) -> Any:
        output = call(model, specimen.example())
        found = {leaf: bits(tensor) for leaf, tensor in copied(output)}
        ends = [tensor.abs().sum() for tensor in tensors(output) if tensor.requires_grad]
        if ends:
            sum(ends).backward()
        gradients = [None if weight.grad is None else bits(weight.grad) for weight in model.parameters()]
        return found, gradients, state(model)

    def outcome_probed(model: nn.Module) -> Any:
        with pk.Probe(model, "**"):
            return outcome(model)

    plain, watched = specimen.model(), specimen.model()
    before = hooks_and_flags(watched)
    assert run_seeded(outcome_probed, watched) == run_seeded(outcome, plain)
    assert hooks_and_flags(watched) == before


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors themselves, in the outputs that plain containers hold."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif hasattr(value, "values"):
        yield from tensors(list(value.values()))


@every_model
def test_the_dry_run_lists_the_names_that_a_probe_gives_and_leaves_no_trace(name: str) -> None:
    specimen = ZOO[name]
    model = specimen.model()
    before = hooks_and_flags(model), state(model), bits(torch.get_rng_state())
    table = pk.sites(model, specimen.example())
    assert (hooks_and_flags(model), state(model), bits(torch.get_rng_state())) == before
    with torch.no_grad():
        found = probed(model.eval(), [specimen.example()])
    assert table.names == list(found)
    assert [(site.shape, site.dtype) for site in table] == [(tuple(t.shape), t.dtype) for t in found.values()]


# --- any selection, any split, any order ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["elementwise", "mlp", "cnn"])
@settings(max_examples=40)
@given(data=st.data())
def test_any_selection_any_split_and_any_order_of_selectors_give_the_same_rows(name: str, data: st.DataObject) -> None:
    model = ZOO[name].model()
    inputs = torch.cat([ZOO[name].example(seed) for seed in range(4)])
    whole = by_hand(model, [inputs])
    selection = data.draw(st.lists(st.sampled_from(list(whole)), min_size=1, unique=True))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(inputs) - 1))))
    with pk.Probe(model, selection) as probe:
        for start, stop in pairwise([0, *cuts, len(inputs)]):
            call(model, inputs[start:stop])
        found = probe.take()
    assert list(found) == [site for site in whole if site in selection]
    for site, tensor in found.items():
        if name == "elementwise":
            assert bits(tensor) == bits(whole[site])
        else:  # the last bits of a matrix product depend on the number of its rows
            torch.testing.assert_close(tensor, whole[site], rtol=1e-5, atol=1e-6)
    parts = data.draw(st.permutations(selection))
    with pk.Probe(model, parts) as probe:
        for start, stop in pairwise([0, *cuts, len(inputs)]):
            call(model, inputs[start:stop])
        same(probe.take(), found)


# --- what can't be joined is said by name ---------------------------------------------------------------------------


def test_a_loop_whose_count_changes_is_named() -> None:
    model = ZOO["loop of three"].model()
    with pk.Probe(model, "act") as probe:
        call(model, ZOO["loop of three"].example())
        call(model, ZOO["loop of one"].example())
        with pytest.raises(SiteError, match="act@1 of Body ran in 1 of 2 forward passes"):
            probe.take()


def test_a_shape_that_changes_is_named() -> None:
    model = ZOO["elementwise"].model()
    with pk.Probe(model, "1") as probe:
        model(torch.zeros(2, 4))
        model(torch.zeros(2, 5))
        with pytest.raises(SiteError, match="1 of Sequential"):
            probe.take()


def test_a_packed_sequence_given_as_an_input_reaches_the_model_as_it_is() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 4), torch.randn(2, 4)])
    table = pk.sites(nn.GRU(4, 3), (packed,))
    assert [(site.name, site.shape) for site in table] == [
        ("(root)[0][data]", (5, 3)),
        ("(root)[0][batch_sizes]", (3,)),
        ("(root)[1]", (1, 2, 3)),
    ]


def test_a_checkpoint_that_runs_again_in_the_backward_pass_adds_no_rows() -> None:
    specimen = ZOO["checkpoint"]
    expected = by_hand(specimen.model(), [specimen.example()])
    model = specimen.model()
    with pk.Probe(model) as probe:
        call(model, specimen.example()).sum().backward()
        same(probe.take(), expected)
    assert model.first[0].weight.grad is not None


def test_a_method_of_the_model_other_than_forward_is_one_pass() -> None:
    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def encode(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    model, x = Autoencoder(), torch.randn(3, 4)
    with pk.Probe(model, ["first", "second"]) as probe:
        model.encode(x)
        found = probe.take()
    assert torch.equal(found["second"], model.encode(x))
    assert torch.equal(found["first"], model.first(x))


def test_a_lazy_module_is_not_made_up_by_a_dry_run() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    with suppress(ProbekitError):
        pk.sites(model, torch.randn(2, 4))
    assert isinstance(model[0], nn.LazyLinear)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors_are_refused_by_name() -> None:
    """What an encoder with padding makes of its input in eval mode."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 1).eval()
    x, padding = torch.randn(3, 5, 8), torch.arange(5) > torch.tensor([[4], [2], [1]])

    def take() -> Any:
        with torch.no_grad(), pk.Probe(model, "layers.0.norm1") as probe:
            model(x, src_key_padding_mask=padding)
            return probe.take()

    with pytest.raises(SiteError, match=r"layers\.0\.norm1"):
        take()


def test_a_module_inside_vmap_is_refused_by_name() -> None:
    model = zoo.Body(lambda m, x: torch.func.vmap(m.first)(x), first=nn.Linear(4, 3))

    def take() -> Any:
        with pk.Probe(model, "first") as probe:
            model(torch.randn(2, 4))
            return probe.take()

    with pytest.raises(SiteError, match="first"):
        take()
