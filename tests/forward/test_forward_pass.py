"""A model that runs over batches with a probe on it: the loss, its gradients, and an error of the model."""

import numpy as np
import pytest
import torch

import probekit as pk
from probekit.errors import DataError, ModelError
from tests.models import gradients, mlp, two_blocks

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net():
    return two_blocks()


@pytest.mark.parametrize("batch_size", [2, 4, 6])
def test_a_capture_keeps_gradients_in_the_order_of_the_samples(net, tmp_path, batch_size):
    y = torch.arange(6) % 3
    sites = ["block.second@1:grad", "head:grad", "block@1:input[scale]", "block~relu_0"]
    tree = pk.capture(net, (X, y), tmp_path / "a", sites=sites, batch_size=batch_size)
    _, second, head = gradients(net, X, y)
    np.testing.assert_allclose(tree["head:grad"]["activation"], head, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(tree["block.second@1:grad"]["activation"], second, rtol=1e-5, atol=1e-7)
    assert set(tree.children) == {*sites[:3], "block@0~relu_0", "block@1~relu_0"}
    assert tree["head:grad"].attrs["kind"] == "gradient"
    assert all(parameter.grad is None for parameter in net.parameters())


def test_gradients_need_no_parameter_that_requires_them(net, tmp_path):
    y = torch.arange(6) % 3
    expected = gradients(net, X, y)[-1]
    net.requires_grad_(False)
    tree = pk.capture(net, (X, y), tmp_path / "a", sites="head:grad")
    np.testing.assert_allclose(tree["head:grad"]["activation"], expected, rtol=1e-5, atol=1e-7)


def test_a_loss_of_ones_own(net, tmp_path):
    tree = pk.capture(net, X, tmp_path / "a", sites="head:grad", loss=lambda output, labels: 2 * output.sum())
    np.testing.assert_array_equal(tree["head:grad"]["activation"], np.full((6, 3), 2.0))


def test_gradients_without_labels_or_loss_are_refused(net, tmp_path):
    with pytest.raises(DataError, match="pass loss="):
        pk.capture(net, X, tmp_path / "a", sites="head:grad")


def test_a_model_that_fails_names_the_batch_it_was_given(tmp_path):
    batches = [(torch.zeros(4, 6), torch.zeros(4, dtype=int)), (torch.zeros(4, 7), torch.zeros(4, dtype=int))]
    with pytest.raises(ModelError, match=r"Sequential failed on a batch of float32 \(4, 7\)"):
        pk.capture(mlp(), batches, tmp_path / "a.zarr")
