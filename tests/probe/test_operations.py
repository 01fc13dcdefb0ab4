"""Functional operations as sites, named by the module that was running."""

import pytest
import torch
import torch.nn.functional as F

import probekit as pk
from tests.models import two_blocks

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net():
    return two_blocks()


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


def test_no_hook_and_no_mode_is_left_on(net):
    with pk.Probe(net, ["**~*", "**:input", "**:grad", "**"]), pytest.raises(RuntimeError):
        net(X[:, :2])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert not torch.overrides._get_current_function_mode_stack()


def test_outputs_are_bit_equal_with_operations_on(net):
    plain = net(X)
    with pk.Probe(net, ["**~*", "**:input", "**:grad", "**"]):
        assert torch.equal(net(X), plain)
