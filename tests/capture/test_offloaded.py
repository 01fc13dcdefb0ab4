"""Models whose weights accelerate keeps in memory or on a disk, and loads when they are needed."""

import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk
from probekit.errors import ModelError

accelerate = pytest.importorskip("accelerate")
X = torch.randn(20, 4)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()


def in_memory(model, folder):
    return accelerate.cpu_offload(model, execution_device="cpu")


def on_disk(model, folder):
    return accelerate.disk_offload(model, folder / "weights", execution_device="cpu")


@pytest.mark.parametrize("offload", [in_memory, on_disk])
def test_offloaded_weights_are_loaded_and_counted(tmp_path, offload):
    expected = pk.capture(net(), X, tmp_path / "a", sites=["0", "3"])
    model = net()
    offload(model, tmp_path)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert pk.sites(model, X).names == ["0", "1", "2", "3", "(root)"]
    tree = pk.capture(model, X, tmp_path / "b", sites=["0", "3"])
    for site in ("0", "3"):
        np.testing.assert_allclose(tree[site]["activation"], expected[site]["activation"], atol=1e-6)
    assert tree.attrs["weights"] == expected.attrs["weights"]


def test_weights_that_are_nowhere_are_refused(tmp_path):
    with pytest.raises(ModelError, match="hold no numbers"):
        pk.capture(net().to("meta"), X, tmp_path / "a")
