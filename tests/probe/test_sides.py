"""Sites that are no module's output: inputs, gradients, operations; in the probe and in a capture."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import probekit as pk
from probekit.errors import DataError, SiteError


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, *, scale=None):
        h = F.relu(self.first(x if scale is None else x * scale))
        h = F.relu(self.second(h), inplace=True)
        return h + x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.head = Residual(), nn.Linear(4, 3)

    def forward(self, x):
        x = self.block(x)
        return self.head(self.block(x, scale=x))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def test_inputs_are_what_the_module_was_given(net):
    with pk.Probe(net, ["block:input", "head:input"]) as probe:
        net(X)
        found = probe.take()
    assert list(found) == ["block@0:input", "block@1:input[0]", "block@1:input[scale]", "head:input"]
    assert torch.equal(found["block@0:input"], X)
    assert torch.equal(found["block@1:input[scale]"], net.block(X))


def test_operations_are_named_by_the_module_that_was_running(net):
    with pk.Probe(net, "block~*") as probe:
        net(X)
        found = probe.take()
    first = ["block@0~relu_0", "block@0~relu_1", "block@0~add_0"]
    assert list(found) == [*first, "block@1~mul_0", *(name.replace("@0", "@1") for name in first)]
    block = net.block
    one = F.relu(block.first(X))
    assert torch.equal(found["block@0~relu_0"], one)
    assert torch.equal(found["block@0~add_0"], F.relu(block.second(one)) + X)


def test_outputs_alone_are_picked_unless_another_side_is_asked_for(net):
    with pk.Probe(net, ["**", "head:input"]) as probe:
        net(X)
        names = list(probe.take())
    assert [name for name in names if "~" in name or ":" in name] == ["head:input"]


def test_excluded_sites_are_left_out(net):
    with pk.Probe(net, ["**", "head:input"], exclude=["block**", "head:input"]) as probe:
        net(X)
        assert list(probe.take()) == ["head", "(root)"]


def by_hand(net, x, y):
    """Gradients at net.block.second and net.head, by autograd on a forward pass that is written out."""
    block, found = net.block, []

    def run(x, scale):
        h = F.relu(block.first(x if scale is None else x * scale))
        z = block.second(h)
        found.append(z)
        return F.relu(z) + x

    h = run(x, None)
    logits = net.head(run(h, h))
    return torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), [*found, logits])


def test_gradients_are_those_of_autograd_and_nothing_else_changes(net):
    y = torch.arange(6) % 3
    expected = by_hand(net, X, y)
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
        torch.testing.assert_close(probe.take()["head:grad"], by_hand(net, X, y)[-1])


@pytest.mark.parametrize("batch_size", [2, 4, 6])
def test_a_capture_keeps_gradients_in_the_order_of_the_samples(net, tmp_path, batch_size):
    y = torch.arange(6) % 3
    sites = ["block.second@1:grad", "head:grad", "block@1:input[scale]", "block~relu_0"]
    tree = pk.capture(net, (X, y), tmp_path / "a", sites=sites, batch_size=batch_size)
    _, second, head = by_hand(net, X, y)
    np.testing.assert_allclose(tree["head:grad"]["activation"], head, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(tree["block.second@1:grad"]["activation"], second, rtol=1e-5, atol=1e-7)
    assert set(tree.children) == {*sites[:3], "block@0~relu_0", "block@1~relu_0"}
    assert tree["head:grad"].attrs["kind"] == "gradient"
    assert all(parameter.grad is None for parameter in net.parameters())


def test_gradients_need_no_parameter_that_requires_them(net, tmp_path):
    y = torch.arange(6) % 3
    expected = by_hand(net, X, y)[-1]
    net.requires_grad_(False)
    tree = pk.capture(net, (X, y), tmp_path / "a", sites="head:grad")
    np.testing.assert_allclose(tree["head:grad"]["activation"], expected, rtol=1e-5, atol=1e-7)


def test_a_loss_of_ones_own(net, tmp_path):
    tree = pk.capture(net, X, tmp_path / "a", sites="head:grad", loss=lambda output, labels: 2 * output.sum())
    np.testing.assert_array_equal(tree["head:grad"]["activation"], np.full((6, 3), 2.0))


def test_gradients_without_labels_or_loss_are_refused(net, tmp_path):
    with pytest.raises(DataError, match="pass loss="):
        pk.capture(net, X, tmp_path / "a", sites="head:grad")


def test_gradients_under_no_grad_are_refused(net):
    with torch.no_grad(), pk.Probe(net, "head:grad"), pytest.raises(SiteError, match="needs gradients, which are off"):
        net(X)


def test_no_hook_and_no_mode_is_left_on(net):
    with pk.Probe(net, ["**~*", "**:input", "**:grad", "**"]), pytest.raises(RuntimeError):
        net(X[:, :2])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert not torch.overrides._get_current_function_mode_stack()


def test_outputs_are_bit_equal_with_operations_on(net):
    plain = net(X)
    with pk.Probe(net, ["**~*", "**:input", "**:grad", "**"]):
        assert torch.equal(net(X), plain)
