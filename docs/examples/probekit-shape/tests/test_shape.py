from __future__ import annotations

from statistics import NormalDist

import numpy as np
import scipy.stats
import torch
from probekit_shape import Bimodality, moors

import probekit as pk
from probekit.testing import conformance


@conformance(Bimodality(), Bimodality(corrected=False), moors)
def test_the_metrics_keep_to_the_protocol(check):
    check()


def measured(metric, x, y, tmp_path):
    pk.capture(torch.nn.Identity(), (torch.tensor(x), torch.tensor(y)), tmp_path / "acts.zarr")
    return pk.measure(tmp_path / "acts.zarr", metric)["(root)"]


def test_bimodality_is_made_of_the_skewness_and_the_kurtosis_of_scipy(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.exponential(size=(900, 5)) + 1000, rng.integers(0, 3, 900)
    ours = measured("bimodality", x, y, tmp_path)["bimodality"]
    of_classes = [x[y == code] for code in range(3)]
    g1 = [scipy.stats.skew(each, bias=False) for each in of_classes]
    g2 = [scipy.stats.kurtosis(each, bias=False) for each in of_classes]
    n = np.array([[len(each)] for each in of_classes])
    np.testing.assert_allclose(ours, (np.square(g1) + 1) / (g2 + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3))), rtol=1e-9)


def test_bimodality_of_known_distributions(tmp_path):
    shares = (np.arange(20_000) + 0.5) / 20_000
    x = np.stack([shares, shares > 0.5], axis=1)
    found = measured("bimodality", x, np.zeros(len(x), np.int64), tmp_path)["bimodality"]
    np.testing.assert_allclose(found, [[5 / 9, 1]], atol=1e-3)


def test_a_constant_node_has_no_bimodality(tmp_path):
    x = np.full((900, 2), 1 / 3)
    assert np.isnan(measured("bimodality", x, np.arange(900) % 2, tmp_path)["bimodality"]).all()


def test_moors_kurtosis_of_known_distributions(tmp_path):
    shares = (np.arange(80_000) + 0.5) / 80_000
    normal = np.array([NormalDist().inv_cdf(share) for share in shares])
    x = np.stack([shares, normal, np.zeros(len(shares))], axis=1)
    found = measured("moors", x, np.zeros(len(shares), np.int64), tmp_path)["moors"]
    np.testing.assert_allclose(found, [[1, 1.2331, np.nan]], atol=1e-4)
