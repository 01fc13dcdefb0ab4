"""What a pass draws at random, and what the model keeps from one pass to the next, don't depend on a resume."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import probekit as pk
from probekit.errors import ModelError
from tests.stores import opened

X = torch.arange(100.0).reshape(50, 2)


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        self.steps += 1
        return x * self.steps


class Remembering(nn.Module):
    last = None

    def forward(self, x):
        self.last = x.mean() if self.last is None else (self.last + x.mean()) / 2
        return x + self.last


def spectral():
    torch.manual_seed(0)
    return nn.utils.spectral_norm(nn.Linear(2, 3))


@pytest.mark.parametrize(
    ("make", "mode"),
    [(Noisy, "eval"), (Counting, "eval"), (Remembering, "eval"), (spectral, "train"), (spectral, "eval")],
)
def test_a_resumed_capture_has_the_same_bits(tmp_path, make, mode):
    def batches(stop=None):
        for number, batch in enumerate(X.split(4)):
            if number == stop:
                raise KeyboardInterrupt
            yield batch

    options = {"labels": False, "mode": mode, "memory": 4 * 3 * 4 * 2 * 2}
    whole = pk.capture(make(), batches(), tmp_path / "a", **options)["(root)"]["activation"].values
    with pytest.raises(KeyboardInterrupt):
        pk.capture(make(), batches(7), tmp_path / "b", **options)
    assert opened(tmp_path / "b").sizes["sample"] > 0
    torch.manual_seed(99)
    resumed = pk.capture(make(), batches(), tmp_path / "b", resume=True, **options)["(root)"]["activation"].values
    np.testing.assert_array_equal(resumed, whole)


def test_draws_of_the_data_are_as_without_the_models(tmp_path):
    """Transforms draw from the same generator, and see none of the model's draws."""

    class Augmented(Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            return torch.randn(2)

    torch.manual_seed(3)
    plain = pk.capture(nn.Sequential(nn.Identity()), Augmented(), tmp_path / "a", sites="0", batch_size=4, labels=False)
    torch.manual_seed(3)
    net = nn.Sequential(nn.Identity(), Noisy())
    noisy = pk.capture(net, Augmented(), tmp_path / "b", sites="0", batch_size=4, labels=False)
    np.testing.assert_array_equal(noisy["0"]["activation"], plain["0"]["activation"])


def test_a_state_is_refused_for_several_processes(tmp_path):
    loader = DataLoader(TensorDataset(X), 10, sampler=pk.ChunkSampler(50, chunk_rows=20))
    with pytest.raises(ModelError, match=r"Each forward pass of Counting changes steps, .*reset="):
        pk.capture(Counting(), loader, tmp_path / "a", labels=False)
    pk.capture(nn.BatchNorm1d(2), loader, tmp_path / "b", labels=False, mode="train")  # no output depends on its state
