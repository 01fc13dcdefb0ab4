"""Pairs of nodes: on together, and correlated within and between classes; beside scikit-learn and numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

import probekit as pk
from probekit.metrics import Coactivation, NodeCorrelation, State

Stream = Callable[..., State]


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 200)
    shared = rng.normal(size=(200, 1))
    x = rng.normal(size=(200, 6)) + shared * [1, 1, -1, 0, 0, 0] + np.eye(3, 6)[y] * 2 + 1e3
    return x, y


def test_coactivation_is_the_jaccard_index(stream: Stream) -> None:
    x = data()[0].astype(np.float32)
    metric = Coactivation(threshold=1000.5)
    found = metric.finalize(stream(metric, x, np.zeros(200), 1, (3, 90)))
    on = x > 1000.5
    expected = [[jaccard_score(on[:, a], on[:, b]) for b in range(6)] for a in range(6)]
    np.testing.assert_allclose(found["coactivation"][1], expected, rtol=1e-12)
    apart = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(found["coactivation_site"][1], np.array(expected)[apart].mean())


def test_independent_nodes_are_on_together_as_often_as_by_chance(stream: Stream) -> None:
    x = np.random.default_rng(0).random((20_000, 5)) - [0.1, 0.3, 0.5, 0.7, 0.9]
    found = Coactivation().finalize(stream(Coactivation(), x, np.zeros(len(x)), 1))
    np.testing.assert_allclose(found["coactivation_site"][1], found["coactivation_chance"][1], atol=0.005)


def test_correlation_within_classes_is_that_of_what_the_classes_leave(stream: Stream) -> None:
    x, y = data()
    found = NodeCorrelation().finalize(stream(NodeCorrelation(), x, y, 4, (1, 2, 50, 180)))
    means = np.stack([x[y == code].mean(0) for code in range(3)])
    np.testing.assert_allclose(found["node_correlation"][1], np.corrcoef((x - means[y]).T), atol=1e-9)
    np.testing.assert_allclose(found["node_correlation_signal"][1], np.corrcoef(means.T), atol=1e-9)
    one = NodeCorrelation().finalize(stream(NodeCorrelation(), x, np.zeros(200), 1, (70,)))
    np.testing.assert_allclose(one["node_correlation"][1], np.corrcoef(x.T), atol=1e-9)
    assert np.isnan(one["node_correlation_signal"][1]).all()


def test_a_node_that_the_class_decides_has_no_correlation_within_classes(stream: Stream) -> None:
    x, y = data()
    x[:, 0] = np.array([0.1, 0.2, 0.3])[y]
    found = NodeCorrelation().finalize(stream(NodeCorrelation(), x, y, 3, (40, 41)))
    assert np.isnan(found["node_correlation"][1][0]).all()
    assert np.isfinite(found["node_correlation"][1][1:, 1:]).all()


@pytest.mark.parametrize("name", ["coactivation", "node_correlation"])
def test_a_site_with_too_many_nodes_is_refused_before_anything_runs(name: str, tmp_path: Path) -> None:
    model, samples = torch.nn.ReLU(), torch.ones(3, 40)
    pk.capture(model, samples, tmp_path / "acts.zarr")
    match = rf"can't be measured at site '.*40 nodes would take 12\.5 KiB, and max_nodes is 30\..*'{name}:max_nodes=40'"
    with pytest.raises(pk.errors.PluginError, match=match):
        pk.measure(tmp_path / "acts.zarr", f"{name}:max_nodes=30")
    with pytest.raises(pk.errors.PluginError, match=match):
        pk.measure_live(model, samples, f"{name}:max_nodes=30")
