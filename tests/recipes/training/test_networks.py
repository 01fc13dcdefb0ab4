from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import probekit as pk
from probekit.recipes.relu_vs_sigmoid.training.networks import Config, build, calibrate_batch_norm


def test_names() -> None:
    assert Config("relu", 4, 200, True).name == "relu-4x200-bn"
    assert Config("sigmoid", 2, 800, False).name == "sigmoid-2x800"


@pytest.mark.parametrize("batch_norm", [False, True])
def test_modules_in_order_and_post_activations_by_selector(batch_norm: bool) -> None:
    network = build(Config("sigmoid", 2, 6, batch_norm), features=4, classes=3, seed=0)
    block = ["linear{}", "norm{}", "act{}"] if batch_norm else ["linear{}", "act{}"]
    expected = [name.format(number) for number in (1, 2) for name in block] + ["head"]
    assert [name for name, _ in network.named_children()] == expected
    with torch.no_grad(), pk.Probe(network, "act*") as probe:
        network(torch.randn(5, 4))
        found = probe.take()
    assert list(found) == ["act1", "act2"]
    assert all(((value > 0) & (value < 1)).all() for value in found.values())


def weights(activation: str, layer: str) -> Tensor:
    network = build(Config(activation, 2, 300, False), features=100, classes=50, seed=3)
    return network.get_submodule(layer).get_parameter("weight").detach()


@pytest.mark.parametrize(("layer", "fan_in"), [("linear1", 100), ("linear2", 300), ("head", 300)])
def test_relu_starts_he_normal(layer: str, fan_in: int) -> None:
    values = weights("relu", layer).flatten().numpy()
    assert stats.kstest(values, stats.norm(0, np.sqrt(2 / fan_in)).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("layer", "fans"), [("linear1", 400), ("linear2", 600), ("head", 350)])
def test_sigmoid_starts_xavier_uniform(layer: str, fans: int) -> None:
    bound = np.sqrt(6 / fans)
    values = weights("sigmoid", layer).flatten().numpy()
    assert stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


def test_biases_start_at_zero_and_batch_norm_takes_their_place() -> None:
    plain = build(Config("relu", 2, 5, False), 4, 3, seed=0)
    normed = build(Config("relu", 2, 5, True), 4, 3, seed=0)
    biases = [value for name, value in plain.named_parameters() if name.endswith("bias")]
    assert len(biases) == 3
    assert not any(bias.any() for bias in biases)
    assert normed.get_submodule("linear1").bias is None
    assert not normed.get_submodule("norm1").get_parameter("bias").any()
    assert not normed.get_submodule("head").get_parameter("bias").any()


def test_weights_depend_on_the_seed_alone() -> None:
    config = Config("relu", 2, 5, True)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build(config, 4, 3, seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = build(config, 4, 3, seed=7).state_dict(), build(config, 4, 3, seed=8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["linear1.weight"], other["linear1.weight"])


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_calibration_standardises_every_layer_in_eval_mode(activation: str) -> None:
    network = build(Config(activation, 3, 20, True), features=8, classes=3, seed=0).double().eval()
    x = torch.randn(200, 8, dtype=torch.float64) * 3 + 1
    calibrate_batch_norm(network, x)
    with torch.no_grad():
        for name, module in network.named_children():
            inputs, x = x.numpy(), module(x)
            if isinstance(module, nn.BatchNorm1d):
                np.testing.assert_allclose(module.running_mean, inputs.mean(0), rtol=1e-9, err_msg=name)
                np.testing.assert_allclose(module.running_var, inputs.var(0, ddof=1), rtol=1e-9, err_msg=name)
                np.testing.assert_allclose(x.mean(0), 0, atol=1e-9)
                # n / (n - 1) and epsilon keep it from exactly 1
                expected = inputs.var(0) / (inputs.var(0, ddof=1) + module.eps)
                np.testing.assert_allclose(x.numpy().var(0), expected, rtol=1e-9)


@pytest.mark.parametrize("training", [False, True])
def test_calibration_changes_running_statistics_only(training: bool) -> None:
    network = build(Config("relu", 2, 6, True), 4, 3, seed=0).train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    calibrate_batch_norm(network, torch.randn(30, 4))
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"norm{number}.{name}" for number in (1, 2) for name in ("running_mean", "running_var")}
    assert all(module.training is training for module in network.modules())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_unknown_activation() -> None:
    with pytest.raises(
        pk.errors.ModelError,
        match=r"No activation 'sigmiod'; there are: relu, sigmoid, tanh, gelu, silu\. Near: 'sigmoid'",
    ):
        Config("sigmiod", 2, 5, False)


@pytest.mark.parametrize(("depth", "width"), [(0, 5), (2, 0)])
def test_impossible_shape(depth: int, width: int) -> None:
    with pytest.raises(pk.errors.ModelError, match="at least 1"):
        Config("relu", depth, width, False)
