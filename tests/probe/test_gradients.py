"""Gradients at sites of frozen models, of models that change what they are given in place, and where none arrives."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import probekit as pk
from probekit.errors import SiteError
from tests.models import Output, Pair

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 3


def deep(*between):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), *between, nn.ReLU(inplace=True), nn.Linear(4, 3))


MODELS = {
    "in place": deep,
    "norm": lambda: deep(nn.BatchNorm1d(4)).eval(),
    "identity": lambda: deep(nn.Identity(), nn.Dropout(0.0, inplace=True)),
}


def by_hand(model, x, y):
    """The gradient at each module's output: of a fresh leaf that the modules after it, none in place, are run on."""
    plain = [F.relu if isinstance(module, nn.ReLU) else module for module in model]
    found = []
    for number in range(len(plain)):
        value = x
        for module in plain[: number + 1]:
            value = module(value).detach()
        leaf = value.clone().requires_grad_()
        h = leaf * 1
        for module in plain[number + 1 :]:
            h = module(h)
        (gradient,) = torch.autograd.grad(F.cross_entropy(h, y, reduction="sum"), leaf)
        found.append(gradient)
    return found


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_right_whatever_is_frozen_or_changed_in_place(name, frozen, tmp_path):
    model = MODELS[name]().requires_grad_(not frozen)
    expected = by_hand(model, X, Y)
    with pk.Probe(model, "*:grad") as probe:
        probe.backward(F.cross_entropy(model(X), Y, reduction="sum"))
        found = probe.take()
    for number, gradient in enumerate(expected):
        torch.testing.assert_close(found[f"{number}:grad"], gradient)
    tree = pk.capture(model, (X, Y), tmp_path / "a", sites="*:grad", batch_size=4)
    for number, gradient in enumerate(expected):
        np.testing.assert_allclose(tree[f"{number}:grad"]["activation"], gradient, rtol=1e-5, atol=1e-7)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_view_that_is_overwritten_is_refused_and_what_is_frozen_is_no_view(tmp_path):
    def model():
        return deep(nn.Unflatten(1, (2, 2)), nn.Flatten())

    expected = by_hand(model(), X, Y)
    found = pk.capture(model().requires_grad_(False), (X, Y), tmp_path / "a", sites="2:grad")
    np.testing.assert_allclose(found["2:grad"]["activation"], expected[2], rtol=1e-5, atol=1e-7)
    for site in ("1:grad", "2:grad"):
        for backward in (lambda probe, loss: probe.backward(loss), lambda probe, loss: loss.backward()):
            net, message = model(), f"{site} is the gradient of a view.*changes in place afterwards"
            for sites in (site, ["0:grad", site]):
                with pk.Probe(net, sites) as probe, pytest.raises(SiteError, match=message):
                    (backward(probe, F.cross_entropy(net(X), Y)), probe.take())
            net[3].inplace = False
            with pk.Probe(net, ["0:grad", site]) as probe:
                backward(probe, F.cross_entropy(net(X), Y, reduction="sum"))
                torch.testing.assert_close(probe.take()[site], expected[int(site[0])])


def test_outputs_of_a_frozen_model_are_bit_equal_with_gradients_on():
    model = deep().requires_grad_(False)
    plain = model(X)
    with pk.Probe(model, ["**:grad", "**"]):
        assert torch.equal(model(X), plain)


class Hands(nn.Module):
    """Hands on what it is given and what it holds."""

    def __init__(self):
        super().__init__()
        self.weight, self.inner = nn.Parameter(torch.ones(5), requires_grad=False), nn.Identity()
        self.constant = nn.Identity()

    def forward(self, x):
        return self.inner(x) * self.constant(self.weight)


def test_inputs_and_weights_that_a_module_hands_on_require_no_gradient_afterwards():
    model, x = Hands(), X.clone()
    with pk.Probe(model, ["inner:grad", "constant:grad"]) as probe:
        probe.backward(model(x).square().sum())
        found = probe.take()
    torch.testing.assert_close(found["inner:grad"], 2 * X)
    torch.testing.assert_close(found["constant:grad"], 2 * X.square().sum(0))
    for tensor in (x, model.weight):
        assert tensor.is_leaf
        assert not tensor.requires_grad
        assert tensor.grad is None
        assert tensor._version == 0


def test_a_weight_that_a_module_hands_on_keeps_its_own_gradient_and_gets_no_hook():
    model = Hands()
    model.weight.requires_grad_()
    with pk.Probe(model, "constant:grad") as probe:
        model(X).square().sum().backward()
        torch.testing.assert_close(probe.take()["constant:grad"], model.weight.grad)
    assert not model.weight._backward_hooks


class Nested(nn.Module):
    def forward(self, x):
        return {"pair": Pair(x + 1, None), "output": Output(x + 2, [x + 3, "text"]), "ids": torch.arange(len(x))}


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.nested = Nested()

    def forward(self, x):
        given = self.nested(x)
        assert isinstance(given["pair"], Pair)
        assert isinstance(given["output"], Output)
        return given["pair"].left.mul_(2) + given["output"].rest[0].mul_(3) * given["output"].hidden


def test_gradients_of_leaves_of_nested_outputs():
    with pk.Probe(model := Reads(), "nested:grad") as probe:
        probe.backward(model(X).sum())
        found = probe.take()
    assert len(found) == 3
    torch.testing.assert_close(found["nested:grad[pair][left]"], torch.full_like(X, 2))
    torch.testing.assert_close(found["nested:grad[output][hidden]"], 3 * (X + 3))
    torch.testing.assert_close(found["nested:grad[output][rest][0]"], 3 * (X + 2))


# Sites that the loss doesn't depend on


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.main, self.side = nn.Linear(5, 3), nn.Linear(5, 2)

    def forward(self, x):
        self.side(x)
        return self.main(x)


@pytest.mark.parametrize("own", [True, False])
def test_a_gradient_that_the_loss_sends_nothing_to_is_zero(own):
    model = Heads()
    with pk.Probe(model, ["main:grad", "side:grad"]) as probe:
        loss = model(X).sum()
        loss.backward() if own else probe.backward(loss)
        found = probe.take()
    assert torch.equal(found["main:grad"], torch.ones(6, 3))
    assert torch.equal(found["side:grad"], torch.zeros(6, 2))


def test_a_store_and_a_live_measurement_have_the_zeros_too(tmp_path):
    model = Heads()
    tree = pk.capture(model, (X, Y), tmp_path / "a", sites="*:grad", batch_size=4)
    assert not tree["side:grad"]["activation"].values.any()
    assert tree["main:grad"]["activation"].values.any()
    live = pk.measure_live(model, (X, Y), "mean", sites="*:grad", batch_size=4)
    assert not live["side:grad"]["mean"].values.any()


@pytest.mark.parametrize("loss", [lambda output: output.sum(), lambda output: torch.ones(())])
def test_a_loss_that_depends_on_no_site_is_refused(loss):
    model = Heads()
    with pk.Probe(model, "side:grad") as probe:
        value = loss(model(X))
        with pytest.raises(SiteError, match="depends on none of the 1 ':grad' sites of Heads that ran, such as side"):
            probe.backward(value)


def test_gradients_that_are_taken_before_a_backward_pass_say_so():
    with pk.Probe(model := Heads(), "main:grad") as probe:
        model(X)
        with pytest.raises(SiteError, match=r"'main:grad' of Heads aren't known yet. Call probe.backward\(loss\)"):
            probe.take()


# Where gradients are off


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.body, self.reentrant = nn.Linear(5, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh()), reentrant

    def forward(self, x):
        return checkpoint(self.body, self.first(x), use_reentrant=self.reentrant)


def test_checkpointed_modules_have_their_gradients_once():
    model = Checkpointed(False)
    with pk.Probe(model, ["body.0:grad", "body.0"]) as probe:
        probe.backward(model(X).sum())
        found = probe.take()
    h = model.body[0](model.first(X)).detach().requires_grad_()
    (expected,) = torch.autograd.grad(torch.tanh(h).sum(), h)
    torch.testing.assert_close(found["body.0:grad"], expected)
    assert torch.equal(found["body.0"], h)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_model_that_is_checkpointed_as_a_whole_makes_one_pass(reentrant):
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh())
    with pk.Probe(model, "**") as probe:
        checkpoint(model, X.clone().requires_grad_(), use_reentrant=reentrant).sum().backward()
        found = probe.take()
        model(X)
        assert torch.equal(probe.take()["1"], found["1"])
    assert torch.equal(found["1"], model(X))


def test_a_reentrant_checkpoint_is_refused_with_what_to_do():
    with (
        pk.Probe(model := Checkpointed(True), "body.0:grad"),
        pytest.raises(SiteError, match=r"body.0:grad of Checkpointed needs gradients, .*use_reentrant=False"),
    ):
        model(X)


def test_inference_mode_is_refused_by_a_probe_and_left_by_a_capture(tmp_path):
    model = deep().requires_grad_(False)
    with torch.inference_mode():
        with pk.Probe(model, "0:grad"), pytest.raises(SiteError, match="needs gradients, which are off here"):
            model(X)
        tree = pk.capture(model, (X, Y), tmp_path / "a", sites="0:grad")
    np.testing.assert_allclose(tree["0:grad"]["activation"], by_hand(model, X, Y)[0], rtol=1e-5, atol=1e-7)


# torch.func


class Forces(nn.Module):
    """The gradient of an energy, computed in the forward pass."""

    def __init__(self):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(5, 4), nn.Tanh())

    def forward(self, x):
        return torch.func.grad(lambda x: self.energy(x).sum())(x)


class Mapped(Forces):
    def forward(self, x):
        return torch.func.vmap(self.energy)(x)


def test_sites_inside_torch_func_grad_have_their_values(tmp_path):
    model = Forces()
    tree = pk.capture(model, X, tmp_path / "a", sites=["energy.*", "(root)"], batch_size=4)
    with torch.no_grad():
        expected = model.energy(X)
    np.testing.assert_allclose(tree["energy.1"]["activation"], expected, rtol=1e-6)
    np.testing.assert_allclose(
        tree["(root)"]["activation"], (1 - expected**2) @ model.energy[0].weight.detach(), rtol=1e-5
    )
    with pk.Probe(model, "energy.1") as probe:
        model(X)
        torch.testing.assert_close(probe.take()["energy.1"], expected)


def test_sites_inside_vmap_and_gradients_inside_transforms_are_refused():
    with (
        pk.Probe(model := Mapped(), "energy.0"),
        pytest.raises(SiteError, match=r"energy.0 of Mapped runs inside torch.func.vmap"),
    ):
        model(X)
    with (
        pk.Probe(model := Forces(), "energy.0:grad"),
        pytest.raises(SiteError, match=r"energy.0:grad of Forces runs inside torch.func.grad"),
    ):
        model(X)
    with pk.Probe(model := Mapped(), "(root)") as probe:
        torch.testing.assert_close(model(X), probe.take()["(root)"])


def test_gradients_of_integers_are_no_sites():
    class Codes(nn.Module):
        def forward(self, x):
            return x.argmax(1)

    model = nn.Sequential(nn.Linear(5, 3), Codes())
    assert pk.sites(model, X, select="*:grad").names == ["0:grad"]
    with pytest.raises(SiteError, match="No site matches '1:grad'"):
        pk.sites(model, X, select="1:grad")


def test_complex_gradients_are_autograds():
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x)

    model = nn.Sequential(nn.Linear(5, 5), Spectrum())
    with pk.Probe(model, "1:grad") as probe:
        probe.backward(model(X).abs().square().sum())
        found = probe.take()["1:grad"]
    torch.testing.assert_close(found, 2 * torch.fft.fft(model[0](X)))
