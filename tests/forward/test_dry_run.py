"""The dry run finds the axis of the batch, or refuses by name what has none."""

import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk
from probekit.errors import SiteError


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


def test_axis_0_that_is_not_the_batch_is_refused_by_name(tmp_path):
    with pytest.raises(SiteError, match=r"Axis 0 of \(root\)\[1\]\[0\] \(LSTM\) is not the batch"):
        pk.capture(nn.LSTM(6, 3), torch.randn(2, 4, 6), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()
