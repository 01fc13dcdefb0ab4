"""Which metrics count each position of a feature map, which see them pooled, and how results say it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import probekit as pk
from tests.stores import stopped

COUNTING = ["sparsity", "dead", "always_on", "perplexity", "saturation:bounds=(0, 1)"]
SEEING_MEANS = ["mean", "median", "cka"]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 6, 3)
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4), nn.ReLU())


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(40, 1, 7, 6), torch.arange(40) % 4


@pytest.fixture(scope="module")
def store(model: nn.Module, data: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("positions") / "acts.zarr"
    pk.capture(model, data, path, sites=["1", "5"])
    return path


def seen(tree: xr.DataTree, site: str = "1") -> dict[str, tuple[str | None, int]]:
    """How each metric saw positions, and the number of its observations."""
    return {each.attrs["metric"]: (each.attrs.get("positions"), each.attrs["n"]) for each in tree[site].values()}


@pytest.mark.parametrize("live", [False, True])
def test_a_captured_feature_map_is_counted_position_by_position(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], store: Path, live: bool
) -> None:
    metrics = [*COUNTING, *SEEING_MEANS]
    found = pk.measure_live(model, data, metrics, sites=["1", "5"]) if live else pk.measure(store, metrics)
    maps = model[:2](data[0]).detach().numpy()
    each = maps.transpose(0, 2, 3, 1).reshape(-1, 6)
    assert 0.2 < (each <= 0).mean() < 0.8
    assert not (maps.mean((2, 3)) <= 0).any()  # which is why the mean over a map can't be counted
    np.testing.assert_allclose(found["1"]["sparsity_node"], (each <= 0).mean(0))
    assert found["1"]["always_on"] == 0
    near = (each <= np.float32(0.05)) | (each >= np.float32(0.95))
    np.testing.assert_allclose(found["1"]["saturation_node"], near.mean(0))
    np.testing.assert_allclose(found["1"]["mean"].mean("label"), maps.mean((0, 2, 3)), rtol=1e-5)
    counted = ["sparsity", "dead", "always_on", "perplexity", "saturation"]
    assert seen(found) == {
        **dict.fromkeys(counted, ("each of 20", 800)),
        **dict.fromkeys(["mean", "median"], ("mean of 20", 40)),
    }
    assert set(seen(found, "5").values()) == {(None, 40)}
    assert found["cka"].attrs["positions"] == "mean of 20"
    assert found["1"].attrs["positions"] == "each, mean of 20"
    assert [each.attrs["metric"] for each in found["1"].values()][:3] == ["sparsity"] * 3  # in the order of the metrics


def test_what_was_asked_for_wins(store: Path) -> None:
    metrics = ["sparsity", "mean", "median"]
    mixed, each, mean = (pk.measure(store, metrics, positions=how) for how in (None, "each", "mean"))  # type: ignore[arg-type]
    assert seen(mean) == dict.fromkeys(metrics, ("mean of 20", 40))
    assert seen(each) == dict.fromkeys(metrics, ("each of 20", 800))
    xr.testing.assert_equal(mixed["1"].to_dataset()[["sparsity"]], each["1"].to_dataset()[["sparsity"]])
    xr.testing.assert_equal(mixed["1"].to_dataset()[["mean", "median"]], mean["1"].to_dataset()[["mean", "median"]])
    assert mean["1"]["sparsity_site"] == 0


def test_a_measurement_that_was_stopped_resumes_in_both_parts(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.zarr"
    stopped(store, ["sparsity", "mean"], out)
    totals = []

    def told(steps: Any, /, description: str, total: int | None = None) -> Any:
        totals.append(total)
        return steps

    whole = pk.measure(store, ["sparsity", "mean"], progress=told)
    xr.testing.assert_identical(pk.measure(store, ["sparsity", "mean"], out=out), whole)
    assert totals == [300]  # steps: of the flat site with all metrics, and of the maps in two ways


def test_means_that_a_capture_kept_are_named(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    options = {"sites": ["1", "5"], "reduce": {"1": "mean"}}
    pk.capture(model, data, tmp_path / "a", **options)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r"sparsity, dead would count.*'1' has only the mean of 20 at capture"):
        found = pk.measure(tmp_path / "a", ["sparsity", "mean", "dead"])
    assert seen(found)["mean"] == ("mean of 20 at capture", 40)
    assert seen(found)["dead"] == ("mean of 20 at capture, not each", 40)
    assert set(seen(found, "5").values()) == {(None, 40)}
    note = "The capture kept the mean of 20 positions at 1, each of which sparsity, dead would count: capture without"
    assert sum(note in each for each in pk.summary(found).notes) == 1
    with pytest.warns(UserWarning, match="sparsity would count each position"):
        pk.measure_live(model, data, "sparsity", **options)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pk.measure(tmp_path / "a", ["sparsity"], positions="mean")
        left_out = pk.measure(tmp_path / "a").attrs["left_out"]
    assert "sparsity" in left_out
    assert "it counts each position, and site '1' has only the mean of 20 at capture" in left_out


def test_the_summary_says_once_what_became_of_positions(store: Path) -> None:
    notes = pk.summary(pk.measure(store, ["sparsity", "dead", "mean"])).notes
    said = "Feature maps: each position counts for sparsity, dead; the mean over positions counts for mean."
    assert [note for note in notes if "positions" in note] == [said]


def test_nulls_intervals_and_balance_go_along_with_both_kinds(store: Path) -> None:
    found = pk.measure(store, ["sparsity", "mean", "dead"], null="permute", ci="bootstrap", repeats=20, balance=True)
    maps = found["1"].to_dataset()
    assert maps["sparsity_p"].attrs["positions"] == "each of 20"
    assert maps["sparsity_p"].attrs["together"] == "sample"  # the positions of a sample keep one label
    assert maps["mean_q"].attrs["positions"] == "mean of 20"
    assert ((maps["sparsity_low"] <= maps["sparsity"]) & (maps["sparsity"] <= maps["sparsity_high"])).mean() > 0.5
    assert list(maps)[-1].startswith("dead")
    with pytest.raises(pk.errors.DataError, match="nothing that was asked for depends on them: dead, always_on"):
        pk.measure(store, ["dead", "always_on"], null="permute")


def test_means_of_maps_of_several_sizes_are_told_in_one_sentence(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 5, 2), nn.ReLU())
    pk.capture(model, torch.randn(30, 3, 9, 9), tmp_path / "a", sites=["0", "1", "2"], reduce="mean")
    notes = pk.summary(pk.measure(tmp_path / "a", "mean")).notes
    assert "The capture kept the mean of 16 positions at 0, of 9 at 1, 2." in notes
