"""Networks stacked to one: their gradients are those of each network alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from probekit.recipes.relu_vs_sigmoid.training.networks import Config, build
from probekit.recipes.relu_vs_sigmoid.training.stack import StackedNetwork

FEATURES, CLASSES = 12, 3
RANDOM = np.random.default_rng(0)
X = torch.from_numpy(RANDOM.normal(size=(16, FEATURES)).astype(np.float32))
Y = torch.from_numpy(np.arange(16) % CLASSES)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_bfloat16_gives_the_gradients_that_autocast_gives(batch_norm: bool) -> None:
    configs = [Config(name, 3, 20, batch_norm) for name in ("relu", "sigmoid")]
    networks = [build(config, FEATURES, CLASSES, seed=1) for config in configs]
    stack = StackedNetwork(networks, configs, torch.bfloat16)
    stack.backward(X.expand(2, -1, -1), Y.expand(2, -1))
    for index, network in enumerate(networks):
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(X)
        F.cross_entropy(logits.float(), Y).backward()
        for name, parameter in network.named_parameters():
            found, expected = stack.gradients[name][index], parameter.grad
            assert found.dtype == torch.float32
            assert expected is not None
            expected = expected.T if expected.ndim == 2 else expected
            assert (found - expected).norm() <= 0.01 * expected.norm()


def test_gradients_too_small_to_move_a_weight_are_zero_and_not_subnormal() -> None:
    config = Config("sigmoid", 4, 20, False)
    network = build(config, FEATURES, CLASSES, seed=1)
    with torch.no_grad():
        for number in range(1, 5):
            network.get_parameter(f"linear{number}.bias").fill_(-23)  # slopes of 1e-10 in each of the layers
    stack = StackedNetwork([network], [config])
    stack.backward(X[None], Y[None])
    F.cross_entropy(network(X), Y).backward()
    tiny = torch.finfo(torch.float32).tiny
    expected = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert any(((grad != 0) & (grad.abs() < tiny)).any() for grad in expected.values())
    for name, grad in expected.items():
        found = stack.gradients[name][0]
        assert not ((found != 0) & (found.abs() < tiny)).any()
        torch.testing.assert_close(found.T if found.ndim == 2 else found, grad, rtol=1e-5, atol=1e-17)
