import pytest
import torch
import torch.nn.functional as F
from torch import nn

import probekit as pk
from probekit.errors import SiteError
from tests.models import Output, Pair, gradients, two_blocks


class Net(nn.Module):
    """A shared activation, an in-place one, a nested output."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.act = nn.ReLU(inplace=True)
        self.cell = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x):
        x = self.act(self.first(x))
        x = self.act(self.second(x))
        out, (h, _) = self.cell(x[:, None])
        return {"out": out, "h": h}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net()


def footprint(model):
    """Everything that a probe could leave behind."""
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._forward_hooks_always_called))
        for m in model.modules()
    ]
    flags = [m.training for m in model.modules()]
    return hooks, flags, torch.is_grad_enabled(), torch.get_rng_state().tolist()


def test_values_are_those_at_the_moment_of_the_call(model):
    x = torch.randn(5, 4)
    with pk.Probe(model) as probe:
        model(x)
        found = probe.take()
    before = model.first(x)  # the in-place ReLU then overwrites what this module returned
    assert torch.equal(found["first"], before)
    assert (found["first"] < 0).any()
    assert torch.equal(found["act@0"], before.relu())
    assert torch.equal(found["act@1"], model.second(before.relu()).relu())
    assert list(found) == [
        "first", "act@0", "second", "act@1", "cell[0]", "cell[1][0]", "cell[1][1]", "(root)[out]", "(root)[h]",
    ]  # fmt: skip


def test_batches_are_joined_and_taken_once(model):
    x = torch.randn(5, 4)
    with pk.Probe(model, "second") as probe:
        model(x[:3])
        model(x[3:])
        parts = probe.take()["second"]
        model(x)
        assert torch.allclose(probe.take()["second"], parts)
        with pytest.raises(SiteError, match="No module of Net has run"):
            probe.take()


def test_outputs_and_gradients_are_bit_equal_with_and_without_a_probe(model):
    x = torch.randn(5, 4)

    def gradients():
        model.zero_grad()
        out = model(x)["out"]
        out.square().sum().backward()
        return out, [parameter.grad.clone() for parameter in model.parameters()]

    out, plain = gradients()
    with pk.Probe(model):
        probed_out, probed = gradients()
    assert torch.equal(out, probed_out)
    assert all(map(torch.equal, plain, probed))


def test_what_is_recorded_carries_no_graph(model):
    with pk.Probe(model) as probe:
        model(torch.randn(2, 4))
        assert not any(tensor.requires_grad for tensor in probe.take().values())


class Boom(nn.Module):
    def forward(self, x):
        raise KeyboardInterrupt if x.sum() > 0 else RuntimeError("boom")


@pytest.mark.parametrize(("value", "error"), [(1.0, KeyboardInterrupt), (-1.0, RuntimeError)])
def test_nothing_is_left_behind_when_forward_raises(value, error):
    model = nn.Sequential(nn.Identity(), Boom())
    model[0].register_forward_hook(lambda *_: None)  # the user's own stays
    before = footprint(model)
    with pytest.raises(error), pk.Probe(model):
        model(torch.full((2, 2), value))
    assert footprint(model) == before


def test_nothing_is_left_behind_by_nested_probes_and_bad_names(model):
    before = footprint(model)
    with pk.Probe(model, "first") as outer:
        with pk.Probe(model, "act") as inner:
            model(torch.randn(2, 4))
            assert list(inner.take()) == ["act@0", "act@1"]
        assert list(outer.take()) == ["first"]
        with pytest.raises(SiteError, match="Near: 'first'"):
            pk.Probe(model, ["second", "frist"])
    now = footprint(model)
    assert now[:3] == before[:3]


def test_hooks_already_on_are_removed_when_attaching_fails(model, monkeypatch):
    before = footprint(model)
    monkeypatch.setattr(model.act, "register_forward_hook", lambda hook: 1 / 0)
    with pytest.raises(ZeroDivisionError), pk.Probe(model):
        pass
    assert footprint(model) == before


def test_a_pass_that_raised_leaves_nothing_to_take(model):
    with pk.Probe(model, "act") as probe:
        with pytest.raises(RuntimeError):
            model(torch.randn(2, 3))
        model(torch.randn(2, 4))
        assert list(probe.take()) == ["act@0", "act@1"]


def test_a_submodule_called_by_itself_is_a_pass_of_its_own(model):
    with pk.Probe(model, "first") as probe:
        model.first(torch.randn(2, 4))
        model.first(torch.randn(3, 4))
        assert probe.take()["first"].shape == (5, 4)


class Nested(nn.Module):
    def forward(self, x):
        return Pair(x, Output(x + 1, [None, x + 2]))


def test_leaves_of_named_tuples_and_dataclasses_have_their_names():
    model = nn.Sequential(Nested(), nn.Identity())
    with pk.Probe(model, "0") as probe:
        model(torch.zeros(2, 1))
        found = probe.take()
    assert {name: tensor[0].item() for name, tensor in found.items()} == {
        "0[left]": 0.0, "0[right][hidden]": 1.0, "0[right][rest][1]": 2.0,
    }  # fmt: skip


def test_a_site_that_ran_in_some_passes_only_is_named():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(x) if x.sum() > 0 else x

    model = Sometimes()
    with pk.Probe(model, ["act", "(root)"]) as probe:
        model(torch.ones(1, 1))
        model(-torch.ones(1, 1))
        with pytest.raises(SiteError, match="act of Sometimes ran in 1 of 2 forward passes"):
            probe.take()


def test_a_site_that_never_ran_is_an_error_and_not_an_empty_result():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.ReLU(), nn.ReLU()

        def forward(self, x):
            return self.used(x)

    model = Unused()
    with pk.Probe(model, "*used") as probe:
        model(torch.ones(1, 1))
        assert list(probe.take()) == ["used"]
    with pk.Probe(model, "unused") as probe:
        model(torch.ones(1, 1))
        with pytest.raises(SiteError, match="No site matches 'unused' in the forward pass of Unused"):
            probe.take()


def test_record_receives_the_tensors_in_place_of_take():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    seen = []
    with pk.Probe(model, nn.ReLU, record=lambda site, tensor: seen.append((str(site), tensor))):
        out = model(torch.randn(3, 2))
    [(name, tensor)] = seen
    assert name == "1@0"
    assert tensor.data_ptr() == out.data_ptr()  # no copy was made


# Inputs and gradients


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net():
    return two_blocks()


def test_inputs_are_what_the_module_was_given(net):
    with pk.Probe(net, ["block:input", "head:input"]) as probe:
        net(X)
        found = probe.take()
    assert list(found) == ["block@0:input", "block@1:input[0]", "block@1:input[scale]", "head:input"]
    assert torch.equal(found["block@0:input"], X)
    assert torch.equal(found["block@1:input[scale]"], net.block(X))


def test_outputs_alone_are_picked_unless_another_side_is_asked_for(net):
    with pk.Probe(net, ["**", "head:input"]) as probe:
        net(X)
        names = list(probe.take())
    assert [name for name in names if "~" in name or ":" in name] == ["head:input"]


def test_excluded_sites_are_left_out(net):
    with pk.Probe(net, ["**", "head:input"], exclude=["block**", "head:input"]) as probe:
        net(X)
        assert list(probe.take()) == ["head", "(root)"]


def test_gradients_are_those_of_autograd_and_nothing_else_changes(net):
    y = torch.arange(6) % 3
    expected = gradients(net, X, y)
    with pk.Probe(net, ["block.second:grad", "head:grad"]) as probe:
        probe.backward(F.cross_entropy(net(X), y, reduction="sum"))
        found = probe.take()
    for name, gradient in zip(["block.second@0:grad", "block.second@1:grad", "head:grad"], expected, strict=True):
        torch.testing.assert_close(found[name], gradient)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_users_own_backward_gives_them_too(net):
    y = torch.arange(6) % 3
    with pk.Probe(net, "head:grad") as probe:
        F.cross_entropy(net(X), y, reduction="sum").backward()
        torch.testing.assert_close(probe.take()["head:grad"], gradients(net, X, y)[-1])


def test_gradients_under_no_grad_are_refused(net):
    with torch.no_grad(), pk.Probe(net, "head:grad"), pytest.raises(SiteError, match="needs gradients, which are off"):
        net(X)
