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
    plan = pk.plan(model(), [X[:5]], sites="1")
    assert (plan.rows, plan.bytes) == (None, None)
    assert "unknown" in plan.summary()
    assert repr(plan).splitlines()[-1].split()[-3:] == ["64", "bytes", "–"]


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
