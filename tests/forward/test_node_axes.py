"""The node axis follows the operations that made an activation, is shown, and can be given."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import probekit as pk
from probekit.errors import SiteError

torch.manual_seed(0)


class Functional(nn.Module):
    """Axis moves, residual sums and copies in the body of a forward."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3), nn.LayerNorm(8), nn.Linear(8, 16)
        self.last, self.tokens, self.grid = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x):
        maps = torch.relu(self.conv(x)) + 1
        rows = self.last(maps.permute(0, 2, 3, 1).contiguous())
        tokens = self.tokens(self.linear(self.norm(rows.flatten(1, 2))) * 2)
        return self.grid(tokens.transpose(1, 2).reshape(len(x), 16, 6, 6))


MODELS = {
    "a time series": (lambda: nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU(), nn.MaxPool1d(2)), (9, 2, 20), {
        "0": 1, "1": 1, "2": 1, "(root)": 1}),
    "a volume": (lambda: nn.Sequential(nn.Conv3d(1, 4, 2), nn.GELU()), (4, 1, 5, 5, 5), {"0": 1, "1": 1}),
    "images": (lambda: nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.SiLU()), (4, 3, 5, 5), {"0": 1, "2": 1}),
    "tokens": (lambda: nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4), nn.Tanh()), (5, 7), {"0": 2, "1": 2, "2": 2}),
    "channels last": (lambda: nn.Sequential(nn.Linear(3, 6), nn.GELU()), (4, 5, 5, 3), {"0": 3, "1": 3, "(root)": 3}),
    "moves": (Functional, (4, 3, 8, 8), {"conv": 1, "last": 3, "norm": 2, "tokens": 2, "grid": 1, "(root)": 1}),
    "swin": (lambda: torchvision.models.swin_transformer.SwinTransformer(
        [4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=3), (4, 3, 32, 32), {
        "features.0.0": 1, "features.1": 3, "features.3": 3, "permute": 1, "(root)": 1}),
    "convnext": (lambda: torchvision.models.convnext.ConvNeXt(
        [torchvision.models.convnext.CNBlockConfig(8, 16, 1), torchvision.models.convnext.CNBlockConfig(16, None, 1)]),
        (3, 3, 32, 32), {"features.1.0.block.0": 1, "features.1.0.block.4": 3, "features.1": 1, "features.3": 1}),
}  # fmt: skip


def example(shape):
    return torch.randint(9, shape) if len(shape) == 2 else torch.randn(shape)


@pytest.mark.parametrize("name", MODELS)
def test_the_axis_is_found_and_measured(tmp_path, name):
    make, shape, axes = MODELS[name]
    net, x = make().eval(), example(shape)
    table = {site.name: site for site in pk.sites(net, x)}
    assert {site: table[site].nodes.axis for site in axes} == axes
    assert "shape" not in {table[site].nodes.known_by for site in axes}
    tree = pk.capture(net, x, tmp_path / "a", sites=list(axes), batch_size=3)
    stored = pk.measure(tree, "mean")
    live = pk.measure_live(net, x, "mean", sites=list(axes), labels=False, batch_size=3)
    reduced = pk.capture(net, x, tmp_path / "b", sites=list(axes), reduce="mean", mask=False)
    for site, axis in axes.items():
        values = tree[site]["activation"].values
        expected = np.moveaxis(values, axis, -1).reshape(len(x), -1, values.shape[axis]).mean(1)
        np.testing.assert_allclose(stored[site]["mean"].values, expected.mean(0), atol=1e-6)
        np.testing.assert_allclose(live[site]["mean"].values, expected.mean(0), atol=1e-6)
        np.testing.assert_allclose(reduced[site]["activation"].values, expected, atol=1e-6)
        assert tree[site].attrs["node_dim"] == axis


def test_hooks_see_the_same_numbers_as_without_probekit(tmp_path):
    net, x = Functional(), torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        expected = net(x)
    np.testing.assert_array_equal(pk.capture(net, x, tmp_path / "a", sites="(root)")["(root)"]["activation"], expected)


def test_a_guess_by_the_number_of_axes_is_shown_as_one(tmp_path):
    net, x = nn.Sequential(nn.Unflatten(1, (2, 3, 2))), torch.randn(4, 12)
    assert "axis 1?" in repr(pk.sites(net, x))
    tree = pk.capture(net, x, tmp_path / "a", sites="0")
    assert (tree["0"].attrs["node_dim"], tree["0"].attrs["node_dim_from"]) == (1, "shape")
    given = pk.capture(net, x, tmp_path / "b", sites="0", node_dim=-1)
    assert (given["0"].attrs["node_dim"], given["0"].attrs["node_dim_from"]) == (3, "node_dim")
    assert given["0"]["activation"].dims == ("sample", "y", "x", "channel")
    np.testing.assert_allclose(pk.measure(given, "mean")["0"]["mean"], x.reshape(-1, 2).mean(0), atol=1e-6)


@pytest.mark.parametrize("node_dim", [0, 4, {"0": -4}])
def test_an_axis_that_cannot_be_the_nodes_is_refused(tmp_path, node_dim):
    net = nn.Sequential(nn.Unflatten(1, (2, 3, 2)))
    with pytest.raises(SiteError, match=r"node_dim is .* for 0, whose shape is"):
        pk.capture(net, torch.randn(4, 12), tmp_path / "a", sites="0", node_dim=node_dim)


def test_a_given_axis_counts_with_the_batch_where_it_is(tmp_path):
    """node_dim and batch_dim are axes of the activation as the model gives it."""

    class Net(nn.Module):
        def forward(self, x):
            return x.permute(1, 2, 0)  # (node, position, batch)

    x = torch.randn(5, 3, 4)
    tree = pk.capture(Net(), x, tmp_path / "a", batch_dim=2, node_dim=0)
    assert tree["(root)"]["activation"].dims == ("sample", "channel", "position")
    np.testing.assert_array_equal(tree["(root)"]["activation"], x)
    assert tree["(root)"].attrs["node_dim"] == 0
    np.testing.assert_allclose(pk.measure(tree, "mean")["(root)"]["mean"], x.mean((0, 2)), atol=1e-6)
