"""Norms of gradients, against closed forms of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from scipy.special import softmax

import probekit as pk
from probekit.metrics import GradientNorm, State

Stream = Callable[..., State]


def test_it_is_that_of_the_gradient_that_autograd_sends_to_a_site(stream: Stream) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    x, y = torch.randn(40, 6), torch.randint(0, 3, (40,))
    with pk.Probe(model, "1:grad") as probe:
        logits = model(x)
        probe.backward(torch.nn.functional.cross_entropy(logits, y, reduction="sum"))
        gradient = probe.take()["1:grad"].numpy()
    found = GradientNorm().finalize(stream(GradientNorm(), gradient, y.numpy(), 3, (11, 12)))
    assert {name: dims for name, (dims, _) in found.items()} == {"gradient_norm": ("node",), "gradient_norm_site": ()}
    # The gradient of the cross-entropy with respect to the logits is p − 1[class], sample by sample.
    weights = model[2].weight.detach().double().numpy()
    exact = (softmax(logits.detach().double().numpy(), axis=1) - np.eye(3)[y]) @ weights
    np.testing.assert_allclose(found["gradient_norm"][1], np.abs(exact).mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["gradient_norm_site"][1], np.linalg.norm(exact, axis=1).mean(), rtol=1e-5)


def test_the_norm_of_one_node_is_its_size(stream: Stream) -> None:
    gradient = np.random.default_rng(0).normal(size=(70, 1)).astype(np.float32)
    found = GradientNorm().finalize(stream(GradientNorm(), gradient, np.arange(70) % 4, 5, (20,)))
    np.testing.assert_allclose(found["gradient_norm_site"][1], found["gradient_norm"][1][0], rtol=1e-14)
    np.testing.assert_allclose(found["gradient_norm_site"][1], np.abs(gradient.astype(np.float64)).mean(), rtol=1e-14)


def test_where_all_samples_have_one_norm_the_site_has_it(stream: Stream) -> None:
    angle = np.random.default_rng(0).random(50) * 7
    gradient = 3 * np.column_stack([np.cos(angle), np.sin(angle)])
    found = GradientNorm().finalize(stream(GradientNorm(), gradient, np.arange(50) % 4, 5, (20,)))
    np.testing.assert_allclose(found["gradient_norm_site"][1], 3, rtol=1e-14)


def test_gradients_that_vanish_are_0_and_exploding_ones_infinite(stream: Stream) -> None:
    gradient = np.array([[0.0, -np.inf, 1e200], [-0.0, 1.0, 1e200]])
    found = GradientNorm().finalize(stream(GradientNorm(), gradient, np.array([0, 2]), 3))
    np.testing.assert_array_equal(found["gradient_norm"][1], [0, np.inf, 1e200])
    assert found["gradient_norm_site"][1] == np.inf
    vanished = GradientNorm().finalize(stream(GradientNorm(), np.zeros((9, 2)), np.zeros(9), 1))
    assert vanished["gradient_norm_site"][1] == 0


def test_it_has_no_number_without_samples(stream: Stream) -> None:
    found = GradientNorm().finalize(stream(GradientNorm(), np.zeros((0, 2)), np.zeros(0), 3))
    assert np.isnan(found["gradient_norm"][1]).all()
    assert np.isnan(found["gradient_norm_site"][1])


def test_the_summary_says_that_other_sites_give_the_size_of_activations() -> None:
    relu = xr.Dataset({"activation": (("sample", "node"), np.eye(3))})
    found = pk.measure(xr.DataTree.from_dict({"/": xr.Dataset(), "relu": relu}), GradientNorm())
    assert "at any other, its activations are large" in " ".join(str(pk.summary(found)).split())
