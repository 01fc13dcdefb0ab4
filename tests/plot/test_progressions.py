"""Lines over the steps of a training, and over the positions of tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import probekit as pk
from probekit.errors import DataError
from tests.plot.trees import tree, variable


def test_steps_are_what_the_watch_measured(tmp_path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(60, 6), torch.arange(60) % 3
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU())
    watch = pk.Watch(model, (x, y), ["mean", "selectivity"], every={0, 1, 10, 100, 1000}, sites=["1", "3"])
    expected = {"1": [], "3": []}
    for step in (0, 1, 10, 100, 1000):
        with torch.no_grad():
            model[0].weight += 0.1
            for site, values in expected.items():
                acts = model[: int(site) + 1](x).double().numpy()
                values.append(np.mean([acts[y.numpy() == code].mean(0) for code in range(3)]))
        watch(step)
    ax = pk.plot.by_step(watch.results, "mean").axes[0]
    for line, site in zip(ax.lines, expected, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [0, 1, 10, 100, 1000])
        np.testing.assert_allclose(line.get_ydata(), expected[site], rtol=1e-5)
    assert ax.get_xscale() == "symlog"
    left, right = ax.get_xlim()
    assert left < 0 < 1000 < right
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["1", "3"]
    assert pk.plot.by_step(watch.results, "selectivity", sites=["3"]).axes[0].lines[1].get_ydata() == [0.0, 0.0]


def _steps(steps: list[int]) -> xr.DataTree:
    root = xr.Dataset(coords={"step": steps})
    return tree({"a": {"sparsity": variable(("step",), np.linspace(0, 1, len(steps)), "sparsity")}}, root=root)


@pytest.mark.parametrize(
    ("steps", "scale"),
    [([0, 20, 40, 60], "linear"), ([1, 10, 100, 1000], "symlog"), ([*range(0, 1001, 5)], "linear"), ([7], "linear")],
)
def test_the_scale_follows_the_steps(steps: list[int], scale: str) -> None:
    assert pk.plot.by_step(_steps(steps), "sparsity").axes[0].get_xscale() == scale


def test_many_sites_have_a_colour_bar_and_many_steps_no_markers() -> None:
    root = xr.Dataset(coords={"step": range(100)})
    many = tree({f"l{n}": {"s": variable(("step",), np.zeros(100), "s")} for n in range(60)}, root=root)
    drawing = pk.plot.by_step(many, "s")
    _, bar = drawing.figure.axes
    assert bar.get_ylabel() == "site"
    assert drawing.axes[0].lines[0].get_marker() == ""


class Tokens(nn.Module):
    """A linear layer of every token, which is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 5)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.layer(input_ids[..., None].float())


def test_positions_are_those_of_the_tokens(tmp_path) -> None:
    torch.manual_seed(0)
    model, random = Tokens(), np.random.default_rng(0)
    ids, lengths = random.integers(0, 50, (40, 6)), random.integers(1, 7, 40)
    real = np.arange(6) < lengths[:, None]
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(real).long()}
    pk.capture(model, batch, tmp_path / "a.zarr", sites="layer", reduce="tokens")
    results = pk.measure(tmp_path / "a.zarr", ["mean"], by="position")
    (line,) = pk.plot.by_position(results, "mean").axes[0].lines
    with torch.no_grad():
        acts = model(**batch).double().numpy()
    np.testing.assert_array_equal(line.get_xdata(), range(6))
    np.testing.assert_allclose(line.get_ydata(), [acts[real[:, at], at].mean() for at in range(6)], rtol=1e-5)


def test_other_results_are_refused() -> None:
    plain = tree({"a": {"mean": variable(("node",), np.zeros(3), "mean")}}, by="label")
    with pytest.raises(DataError, match=r"no steps, as those of probekit\.Watch"):
        pk.plot.by_step(plain, "mean")
    with pytest.raises(DataError, match=r"grouped by label, not by position.*--by position"):
        pk.plot.by_position(plain, "mean")
