"""Weights and activations, by plain loops over samples and units."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr

import probekit as pk
from probekit.errors import PluginError
from probekit.metrics import State, WeightAlignment

Stream = Callable[..., State]


def test_norms_alignments_and_cosines_are_those_of_a_loop(stream: Stream) -> None:
    rng = np.random.default_rng(0)
    x, y, weights = rng.normal(size=(90, 5)) + 1, rng.integers(0, 3, 90), rng.normal(size=(7, 5))
    metric = WeightAlignment(weights)
    found = metric.finalize(stream(metric, x.astype(np.float32), y, 3, (20, 31)))
    for node in range(5):
        assert found["weight_norm"][1][node] == pytest.approx(np.sqrt(sum(w**2 for w in weights[:, node])))
    for code in range(3):
        rows = x[y == code]
        read, given = sum(np.linalg.norm(weights @ row) ** 2 for row in rows), sum(row @ row for row in rows)
        expected = np.sqrt(read / given) / np.linalg.norm(weights, "fro")
        assert found["weight_alignment"][1][code] == pytest.approx(expected, rel=1e-6)
        mean = rows.mean(0)
        for unit, of_unit in enumerate(weights):
            cosine = mean @ of_unit / np.linalg.norm(mean) / np.linalg.norm(of_unit)
            assert found["weight_cosine"][1][code, unit] == pytest.approx(cosine, rel=1e-6)


def test_alignment_is_1_along_a_single_direction_and_chance_without_one(stream: Stream) -> None:
    rng = np.random.default_rng(1)
    direction = rng.normal(size=40)
    along = WeightAlignment(np.outer([2.0, -1], direction))
    found = along.finalize(stream(along, np.outer(rng.normal(size=30), direction), np.zeros(30), 1))
    assert found["weight_alignment"][1] == pytest.approx([1])
    assert np.abs(found["weight_cosine"][1]) == pytest.approx(np.ones((1, 2)))
    chance = WeightAlignment(rng.normal(size=(200, 40)))
    found = chance.finalize(stream(chance, rng.normal(size=(2000, 40)), np.zeros(2000), 1))
    assert found["weight_alignment_chance"][1] == 40**-0.5
    assert found["weight_alignment"][1] == pytest.approx([40**-0.5], rel=0.05)
    exponent = np.log(found["weight_alignment"][1]) / np.log(40) + 1  # that of Everett et al.
    assert exponent == pytest.approx([0.5], abs=0.02)


@pytest.mark.filterwarnings("error")
def test_what_there_is_nothing_of_is_nan(stream: Stream) -> None:
    metric = WeightAlignment([[1.0, 2], [0, 0]])
    x = np.array([[1.0, 1], [0, 0], [np.inf, 1]])
    found = metric.finalize(stream(metric, x, [0, 1, 3], 4))  # of class 2 there are no samples
    assert np.isnan(found["weight_alignment"][1]).tolist() == [False, True, True, True]
    assert np.isnan(found["weight_cosine"][1][:, 0]).tolist() == [False, True, True, True]
    assert np.isnan(found["weight_cosine"][1][:, 1]).all()
    assert found["weight_norm"][1].tolist() == [1, 2]


def test_a_layers_weights_live_and_stored() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    x, y = torch.randn(40, 6), torch.arange(40) % 2
    metric = WeightAlignment(model[2].weight)
    live = pk.measure_live(model, (x, y), metric, sites="1")["1"]
    hidden = model[1](model[0](x)).detach().numpy()
    columns = xr.Dataset(coords={"label": ("sample", y.numpy())})
    tree = xr.DataTree.from_dict({"/": columns, "1": xr.Dataset({"activation": (("sample", "node"), hidden)})})
    stored = pk.measure(tree, metric)["1"]
    for name in ("weight_norm", "weight_alignment", "weight_alignment_chance", "weight_cosine"):
        np.testing.assert_allclose(live[name].values, stored[name].values, rtol=1e-6)
    assert stored["weight_cosine"].attrs["parameters"].startswith('{"weights": "3 \\u00d7 8, sha256 ')


def test_weights_of_another_layer_are_refused() -> None:
    site = xr.Dataset({"activation": (("sample", "node"), np.ones((4, 3)))}, {"label": ("sample", [0, 0, 1, 1])})
    with pytest.raises(PluginError, match=r"weights of 5 units that read 2 nodes, and the site has 3.*sites="):
        pk.measure(site, WeightAlignment(np.ones((5, 2))))
    for wrong in (np.ones(3), np.zeros((2, 2)), [[np.inf, 1]]):
        with pytest.raises(PluginError, match=r"WeightAlignment\(weights=…\) of shape"):
            WeightAlignment(wrong)
