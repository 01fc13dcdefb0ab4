import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk
from probekit.errors import SiteError, StoreError


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


X = torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_a_plan_foretells_what_the_capture_then_does(tmp_path):
    plan = pk.plan(model(), (X, torch.arange(50) % 3), sites=["1", "3"], batch_size=8, memory=8 * 3 * 2 * 80)
    tree = pk.capture(
        model(), (X, torch.arange(50) % 3), tmp_path / "a", sites=["1", "3"], batch_size=8, memory=8 * 480
    )
    assert plan.rows == tree.sizes["sample"]
    assert plan.bytes == sum(tree[site]["activation"].nbytes for site in ("1", "3"))
    assert plan.buffer == 2 * plan.rows_per_chunk * (4 * 2 * 2 + 3) * 4
    for spec in plan.specs:
        activation = tree[spec.name]["activation"]
        assert (activation.dims, activation.shape, activation.dtype) == (
            ("sample", *spec.dims),
            (50, *spec.shape),
            "f4",
        )
        assert activation.encoding["chunks"][0] == plan.rows_per_chunk


def test_a_plan_prints(tmp_path):
    plan = pk.plan(model(), X, sites="1", out=tmp_path / "a")
    assert "4×2×2" in repr(plan)
    assert "sample, channel, y, x" in plan._repr_html_()
    assert plan.to_dataframe()["bytes"].tolist() == [50 * 64]


def test_a_plan_of_data_without_a_length_has_no_total():
    plan = pk.plan(model(), iter([X[:5]]), sites="1")
    assert (plan.rows, plan.bytes) == (None, None)
    assert "unknown" in plan.summary()
    assert repr(plan).splitlines()[-1].split()[-2:] == ["64", "–"]


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


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 3)

    def forward(self, x):  # (batch, time, feature)
        return self.lstm(x.transpose(0, 1))[0].transpose(0, 1)


def test_an_axis_that_is_the_batch_can_be_named(tmp_path):
    net, x = TimeFirst(), torch.randn(10, 4, 2)
    with pytest.raises(SiteError, match="batch_dim="):
        pk.capture(net, x, tmp_path / "a", sites="lstm[0]")
    tree = pk.capture(net, x, tmp_path / "a", sites=["lstm[0]", "(root)"], batch_dim={"lstm": 1}, batch_size=3)
    np.testing.assert_array_equal(tree["lstm[0]"]["activation"], tree["(root)"]["activation"])


def test_an_axis_that_is_as_long_as_the_batch_by_chance_is_refused(tmp_path):
    with pytest.raises(SiteError, match=r"Axis 0 of lstm\[0\] \(LSTM\) is not the batch, although it is as long"):
        pk.capture(TimeFirst(), torch.randn(3, 3, 2), tmp_path / "a", sites="lstm[0]")
    tree = pk.capture(TimeFirst(), torch.randn(3, 3, 2), tmp_path / "a", sites="lstm[0]", batch_dim=1)
    assert tree["lstm[0]"]["activation"].shape == (3, 3, 3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reduce": {"9": "mean"}}, SiteError, "No site matches '9'"),
        ({"reduce": "meen"}, SiteError, "Near: 'mean'"),
        ({"reduce": "tokens"}, SiteError, "it has no tokens"),
        ({"compression": "tiny"}, StoreError, "it can be 'fast', 'small'"),
        ({"reduce": lambda t: t.sum()}, SiteError, "1"),
        ({"batch_dim": 7}, SiteError, "batch_dim is 7"),
        ({"memory": 100}, StoreError, r"or fewer sites \(sites=\), or reduce them \(reduce=\)"),
        ({"exclude": "nine"}, SiteError, "No site matches 'nine'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        pk.plan(model(), X, sites="1", **options)
