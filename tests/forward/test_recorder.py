"""What a site gives, batch by batch: a site that changes is named, values are kept in the dtype that was asked for."""

import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk
from probekit.errors import SiteError
from tests.models import samples


class Moody(nn.Module):
    """Behaves as it is told by the largest value of the batch."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x):
        mood = int(x.max())
        x = x[:, :1] if mood == 3 else x
        for _ in range((1, 0, 2, 1)[mood]):
            x = self.act(x)
        return x.sum()


@pytest.mark.parametrize(
    ("mood", "message"),
    [
        (1, "act of Moody didn't run at batch 1"),
        (2, "act@1 of Moody ran at batch 1 and not in the first"),
        (3, r"act of Moody gave shape \(4, 1\) at batch 1"),
    ],
)
def test_a_site_that_changes_over_batches_is_named_with_the_batch(tmp_path, mood, message):
    with pytest.raises(SiteError, match=message):
        pk.capture(Moody(), [torch.zeros(4, 2), torch.full((4, 2), float(mood))], tmp_path / "a.zarr", sites="act")


@pytest.mark.parametrize(
    ("squeeze", "x", "shape"),
    [
        (lambda y: y.squeeze(), torch.zeros(9, 1), r"\(\)"),
        (lambda y: y[:, None].squeeze(), torch.zeros(9, 3), r"\(3,\)"),
        (lambda y: y.T.squeeze(), torch.zeros(9, 3), r"\(3,\)"),
    ],
)
def test_an_axis_that_is_lost_with_a_batch_of_one_sample_is_refused(tmp_path, squeeze, x, shape):
    class Squeezes(nn.Module):
        def forward(self, x):
            return squeeze(x)

    message = rf"\(root\) of Squeezes gave shape {shape} at batch 2, of 1 samples, and had . axes in the first batch"
    options = {"sites": "(root)", "batch_size": 4, "labels": False, "batch_dim": 1 if squeeze(x).shape[0] != 9 else 0}
    for use in (
        lambda: pk.capture(Squeezes(), x, tmp_path / "a", **options),
        lambda: pk.capture(Squeezes(), x, tmp_path / "c", reduce=[0] if x.shape[1] > 1 else None, **options),
        lambda: pk.measure_live(Squeezes(), x, "mean", **options),
    ):
        with pytest.raises(SiteError, match=message):
            use()
    assert pk.capture(Squeezes(), x, tmp_path / "b", **{**options, "batch_size": 3})["(root)"].sizes["sample"] == 9


def test_a_dtype_on_request_and_a_warning_where_it_overflows(tmp_path):
    x = torch.tensor([[1.0, 70000.0]])
    with pytest.warns(UserWarning, match=r"Values too large for the dtype became infinite: \{'\(root\)': 1\}"):
        tree = pk.capture(nn.Identity(), x, tmp_path / "a.zarr", dtype="float16")
    assert tree["(root)"]["activation"].values.tolist() == [[1.0, np.inf]]


def test_a_site_that_gives_rows_twice_is_refused(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.runs = nn.Linear(6, 3), 0

        def forward(self, x):
            return self.net(x)

    model, (x, _) = Twice(), samples()

    def loss(output, labels):
        model.runs += 1
        return (output - model(x[: len(output)]) if model.runs > 1 else output).sum()

    data = (x, torch.zeros(95, dtype=torch.long))
    with pytest.raises(SiteError, match="net of Twice ran more often at batch 1 than in the first batch"):
        pk.capture(model, data, tmp_path / "a", sites=["net", "net:grad"], loss=loss, batch_size=10)
