"""Which reduction goes to which site."""

import numpy as np
import torch
from torch import nn

import probekit as pk


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


X = torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_reductions_go_to_the_sites_that_their_selectors_pick(tmp_path):
    net = model()
    reduce = {"1": "mean", nn.Conv2d: [lambda t: t[:, :2], "max"], "**": slice(0, 2)}
    tree = pk.capture(net, X, tmp_path / "a", sites=["0", "1", "3"], reduce=reduce)
    maps = net[0](X)
    expected = {"0": maps[:, :2].amax((2, 3)), "1": maps.relu().mean((2, 3)), "3": net(X)[:, :2]}
    for site, values in expected.items():
        assert tree[site]["activation"].dims == ("sample", "node")
        np.testing.assert_allclose(tree[site]["activation"].values, values.detach(), rtol=1e-6, atol=1e-7)
    assert tree["1"].attrs["reduce"] == '["mean"]'
    assert tree["1"].attrs["original_shape"] == [50, 4, 2, 2]


def test_a_projection_is_the_same_in_every_store(tmp_path):
    kept = [pk.capture(model(), X, tmp_path / n, sites="3", reduce=pk.Projection(2, seed=5)) for n in "ab"]
    assert kept[0]["3"]["activation"].shape == (50, 2)
    np.testing.assert_array_equal(kept[0]["3"]["activation"], kept[1]["3"]["activation"])
