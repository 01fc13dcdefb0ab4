"""A model runs once, and is afterwards as it was before."""

import pytest
import torch
from torch import nn

import probekit as pk
from probekit.errors import ModelError


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(16, 2))


def test_the_dry_run_leaves_the_model_as_it_was():
    model = net().train()
    model[1].eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rng = torch.get_rng_state()
    pk.sites(model, torch.randn(2, 3, 4, 4, generator=torch.Generator()))
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


class Counting(nn.Module):
    """Changes a buffer in eval mode too, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.act = nn.ReLU()

    def forward(self, x, *, scale):
        self.count += 1
        return self.act(self.act(x * scale + torch.randn_like(x)))


def test_buffers_and_random_state_are_put_back_and_calls_are_counted():
    model, rng = Counting(), torch.get_rng_state()
    table = pk.sites(model, {"x": torch.ones(2, 3), "scale": 2.0})
    assert table.names == ["act@0", "act@1", "(root)"]
    assert [site.calls for site in table] == [2, 2, 1]
    assert model.count.item() == 0
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_model_that_cannot_run_on_the_example_says_what_it_was_given():
    with pytest.raises(ModelError, match=r"Sequential failed on a batch of float32 \(2, 5\)"):
        pk.sites(net(), torch.zeros(2, 5))
