"""What to look at first in results: kept with them, and one number per site."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import xarray as xr

import probekit as pk
from probekit import plugins
from probekit._measure.metric_set import resolved
from probekit._results.headlines import headline_value, headlines_of
from probekit.metrics import Block, Headline, Variables
from probekit.testing import ConformanceError, checks

WITHOUT = {"histogram", "top_samples"}  # no one number says what they found


@pk.metric
def spread(values):
    """Range of each class at each node."""
    return values[-1] - values[0]


@pytest.mark.parametrize("name", sorted(set(plugins.find(plugins.METRICS)) - WITHOUT))
def test_every_metric_of_numbers_has_a_headline_with_words(name: str) -> None:
    metric = resolved(name)[0]
    if type(metric).__module__.startswith("probekit."):
        assert metric.headline.large[0].islower() or metric.headline.large[0].isdigit()


def test_headlines_are_read_from_results_alone(tree: xr.DataTree, tmp_path: Path) -> None:
    pk.measure(tree, ["auroc", "linear_probe", "cka", "histogram", spread], out=tmp_path / "m.zarr")
    found = headlines_of(xr.open_datatree(tmp_path / "m.zarr", engine="zarr"))
    assert found["auroc"] == pk.metrics.AUROC.headline
    assert found["linear_probe"] == pk.metrics.LinearProbe.headline
    assert found["cka"] == pk.metrics.CKA.headline
    assert found["spread"] == Headline("spread", "mean", "")  # it declares none
    assert "histogram" not in found


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"over_nodes": "avg"}, "over_nodes of the headline 'v' is 'avg'; it is None, .* or 'sum'"),
        ({"variable": None}, "variable of a headline is None"),
        ({"large": None}, "large of the headline 'v' is None; it has to be what a large value says, in words"),
        ({"beside": 1}, "beside of the headline 'v' is an int, 1"),
        ({"smallest": "no"}, "smallest of the headline 'v' is 'no'; it is True or False"),
    ],
)
def test_a_headline_refuses_what_nothing_can_be_read_by(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(pk.errors.PluginError, match=message):
        Headline(**{"variable": "v", "over_nodes": "mean", "large": "much"} | wrong)


def test_a_watch_keeps_headlines_and_gives_one_number_a_step(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU())
    watch = pk.Watch(
        model, (torch.randn(40, 4), torch.arange(40) % 2), ["dprime"], sites="1", every=1, out=tmp_path / "w"
    )
    for step in (1, 2):
        watch(step)
    steps = xr.open_datatree(tmp_path / "w", engine="zarr")
    value = headline_value(steps["1"]["dprime_mean"], headlines_of(steps)["dprime"])
    np.testing.assert_allclose(value, np.median(steps["1"]["dprime_mean"].values, axis=1))


def test_nodes_come_first_and_classes_weigh_the_same() -> None:
    values = np.array([[0.2, np.nan, 0.9], [0.4, 0.5, 0.6], [np.nan] * 3])
    measured = xr.DataArray(values, dims=("label", "node"))
    read = {over: headline_value(measured, Headline("v", over, "")).item() for over in ("mean", "median", "max", "sum")}
    assert read == pytest.approx({"mean": (0.55 + 0.5) / 2, "median": (0.55 + 0.5) / 2, "max": 0.75, "sum": 1.3})
    assert np.isnan(headline_value(measured.isel(label=[2]), Headline("v", "sum", "")))
    assert headline_value(xr.DataArray(7), Headline("v", None, "")).item() == 7


@dataclass(frozen=True)
class Elsewhere:
    """A metric that points at a variable that it doesn't give."""

    name: ClassVar[str] = "elsewhere"
    version: ClassVar[int] = 1
    parameters: ClassVar[dict[str, object]] = {}
    headline: ClassVar[Headline] = Headline("elsewhere_mean", "mean", "much")

    def compute(self, block: Block) -> Variables:
        return {"elsewhere": (("node",), block.values.mean(axis=1))}


@dataclass(frozen=True)
class Unsummed(Elsewhere):
    """A metric that doesn't say how its nodes become one number."""

    headline: ClassVar[Headline] = Headline("elsewhere", None, "much")


@pytest.mark.parametrize(
    ("metric", "message"),
    [(Elsewhere, "'elsewhere_mean', and compute gave elsewhere"), (Unsummed, "over_nodes is None")],
)
def test_the_kit_checks_the_headline(metric: type[Elsewhere], message: str) -> None:
    (check,) = [each for each in checks(metric()) if each.law.name == "says what to look at"]
    with pytest.raises(ConformanceError, match=message):
        check()


def test_results_refuse_a_headline_of_a_variable_that_is_not_there(tree: xr.DataTree) -> None:
    message = "headline of the metric 'elsewhere' is of the variable 'elsewhere_mean', and the metric gave 'elsewhere'"
    with pytest.raises(pk.errors.PluginError, match=f"{message}.* author has to fix this"):
        pk.measure(tree, Elsewhere())


def test_the_law_is_for_metrics_with_a_headline() -> None:
    assert "says what to look at" not in {each.law.name for each in checks(spread)}
