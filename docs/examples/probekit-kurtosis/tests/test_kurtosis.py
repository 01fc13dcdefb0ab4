from __future__ import annotations

from statistics import NormalDist

import numpy as np
import scipy.stats
import torch
from probekit_kurtosis import Kurtosis, moors

import probekit as pk
from probekit.testing import conformance


@conformance(Kurtosis(), Kurtosis(excess=False), moors)
def test_the_metrics_keep_to_the_protocol(check):
    check()


def measured(metric, x, y, tmp_path):
    pk.capture(torch.nn.Identity(), (torch.tensor(x), torch.tensor(y)), tmp_path / "acts.zarr")
    return pk.measure(tmp_path / "acts.zarr", metric)["(root)"]


def test_kurtosis_is_that_of_scipy(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.exponential(size=(2000, 5)) + 1000, rng.integers(0, 3, 2000)
    ours = measured("kurtosis", x, y, tmp_path)["kurtosis"]
    theirs = [scipy.stats.kurtosis(x[y == code]) for code in range(3)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_a_constant_node_has_no_kurtosis(tmp_path):
    x = np.full((900, 2), 1 / 3)
    assert np.isnan(measured("kurtosis", x, np.arange(900) % 2, tmp_path)["kurtosis"]).all()


def test_moors_kurtosis_of_known_distributions(tmp_path):
    shares = (np.arange(80_000) + 0.5) / 80_000
    normal = np.array([NormalDist().inv_cdf(share) for share in shares])
    x = np.stack([shares, normal, np.zeros(len(shares))], axis=1)
    found = measured("moors", x, np.zeros(len(shares), np.int64), tmp_path)["moors"]
    np.testing.assert_allclose(found, [[1, 1.2331, np.nan]], atol=1e-4)
