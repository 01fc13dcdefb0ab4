"""Metrics of a model as it runs: the numbers of its store, without the store."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import probekit as pk
from probekit.metrics import Mean, Std, median

STREAMING = ["mean", "std", "count", "min", "max", "sparsity", "dead", "saturation:bounds=(0,1)", "fisher", "dprime"]
COUNTS = ["count", "min", "max", "sparsity", "sparsity_node", "dead"]


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.Sigmoid(), nn.Linear(8, 3))


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 36, 5))


X, Y = torch.randn(500, 6), torch.arange(500) % 4
IMAGES = torch.randn(300, 3, 8, 8)


def both(
    folder: Path, model: nn.Module, data: Any, metrics: Any, capture: dict[str, Any] | None = None, **options: Any
) -> tuple[xr.DataTree, xr.DataTree]:
    """What is measured as the model runs, and of its store."""
    common = capture or {}
    pk.capture(model, data, folder / "acts.zarr", **common)
    return pk.measure_live(model, data, metrics, **common, **options), pk.measure(
        folder / "acts.zarr", metrics, **options
    )


def assert_agree(live: xr.DataTree, stored: xr.DataTree, exact: list[str] = COUNTS) -> None:
    assert list(live.children) == list(stored.children)
    for site, group in stored.children.items():
        assert set(group.data_vars) == set(live[site].data_vars)
        for name, variable in group.data_vars.items():
            ours = live[site][name]
            assert ours.dims == variable.dims
            assert set(ours.coords) == set(variable.coords)
            tolerance = 0 if name in exact else 1e-6
            np.testing.assert_allclose(ours, variable, rtol=tolerance, atol=tolerance, err_msg=f"{site} {name}")


@pytest.mark.parametrize("batch_size", [1, 33, 256, 500])
def test_streaming_metrics_agree_with_those_of_a_store(tmp_path: Path, batch_size: int) -> None:
    live, stored = both(tmp_path, mlp(), (X, Y), STREAMING, {"sites": ["1", "3", "4"], "batch_size": batch_size})
    assert_agree(live, stored)
    for attr in ("metric", "version", "parameters", "n", "activation_dtype", "approximate"):
        assert live["1"]["std"].attrs[attr] == stored["1"]["std"].attrs[attr]
    assert live["3"].attrs == stored["3"].attrs


@pytest.mark.parametrize("batch_size", [700, 3000])
def test_batches_of_any_size_add_up(batch_size: int) -> None:
    """Small ones wait for each other up to 2,048 rows, larger ones don't."""
    x, y = torch.randn(6_100, 5), torch.arange(6_100) % 3
    threads = torch.get_num_threads()
    found = pk.measure_live(nn.Sequential(nn.ReLU()), (x, y), ["count", "std", "sparsity"], batch_size=batch_size)["0"]
    rows = [x[y == code].relu().double().numpy() for code in range(3)]
    np.testing.assert_array_equal(found["count"], [[len(each)] * 5 for each in rows])
    np.testing.assert_allclose(found["std"], [each.std(0) for each in rows], rtol=1e-12)
    np.testing.assert_array_equal(found["sparsity"], [(each <= 0).mean(0) for each in rows])
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("positions", ["mean", "max", "each"])
def test_feature_maps_agree_with_those_of_a_store(tmp_path: Path, positions: str) -> None:
    model, data = cnn(), (IMAGES, torch.arange(300) % 3)
    live, stored = both(
        tmp_path, model, data, ["mean", "std", "sparsity", "count"], {"sites": ["0", "1"]}, positions=positions
    )
    assert_agree(live, stored)
    assert live["0"].attrs["positions"] == stored["0"].attrs["positions"]


def test_tokens_agree_with_those_of_a_store(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.GELU())
    data = (torch.randn(60, 7, 6), torch.arange(60) % 3)
    live, stored = both(
        tmp_path, model, data, ["mean", "std", "count"], {"sites": "1", "reduce": "tokens", "mask": False}
    )
    assert_agree(live, stored)


def test_gradients_agree_with_those_of_a_store(tmp_path: Path) -> None:
    live, stored = both(tmp_path, mlp(), (X, Y % 3), ["mean", "gradient_norm"], {"sites": "1:grad"})
    assert_agree(live, stored)
    assert float(live["1:grad"]["gradient_norm_site"]) > 0


def test_classes_that_appear_late_have_their_rows(tmp_path: Path) -> None:
    model, late = mlp(), torch.cat([torch.zeros(256, dtype=torch.int64), torch.full((244,), 9)])
    live, stored = both(
        tmp_path, model, (X, late), ["count", "min", "max", "sparsity", "dead", "median"], {"sites": "1"}
    )
    assert live["1"].sizes["label"] == 10
    for name in COUNTS:
        np.testing.assert_array_equal(live["1"][name], stored["1"][name])
    names = ["ant", "bee", "cat", "dog"]
    named = pk.measure_live(model, (X, [names[code] for code in Y.tolist()]), "mean", sites="1")
    assert named["1"]["class_name"].values.tolist() == names
    more = pk.measure_live(model, (X, Y), ["mean", "median"], sites="1", class_names=[*names, "eel"])
    assert more["1"]["mean"].sel(label=4).isnull().all()
    assert more["1"]["median"].sizes["label"] == 5


def test_without_labels_all_samples_are_one_group(tmp_path: Path) -> None:
    live, stored = both(tmp_path, mlp(), X, ["mean", "std", "sparsity"], {"sites": "1"})
    assert_agree(live, stored)
    assert live["1"]["mean"].dims == ("node",)
    assert live.attrs["by"] == "none"
    xr.testing.assert_allclose(
        pk.measure_live(mlp(), (X, Y), "mean", sites="1", by=None)["1"]["mean"], live["1"]["mean"]
    )


@pytest.mark.parametrize(
    ("data", "by", "message"),
    [
        ((torch.randn(20, 3), torch.arange(20) % 2), None, "by=None was given: leave it out."),
        (torch.randn(20, 3), "label", "the data has no labels: say where they are \\(labels=\\)."),
    ],
)
def test_classes_that_there_are_none_of_are_not_compared(data: Any, by: Any, message: str) -> None:
    with pytest.raises(
        pk.errors.DataError, match=f"compares classes, and the samples are not grouped, since {message}$"
    ):
        pk.measure_live(nn.Sequential(nn.ReLU()), data, "auroc", sites="0", by=by)


def test_sites_are_compared_as_in_a_store(tmp_path: Path) -> None:
    live, stored = both(tmp_path, mlp(), (X, Y), ["cka", "rsa", "effective_rank", "mean"], {"sites": ["1", "3", "4"]})
    assert_agree(live, stored)
    for name in ("cka", "rsa"):
        assert live[name].dims == ("site", "site_b")
        assert live["site"].values.tolist() == ["1", "3", "4"]
        np.testing.assert_allclose(live[name], stored[name], rtol=1e-6)


def test_column_metrics_of_few_samples_are_exact(tmp_path: Path) -> None:
    live, stored = both(
        tmp_path, mlp(), (X, Y), ["median", "quantile", "overlap", "auroc", "ks"], {"sites": ["1", "3"]}
    )
    for site in ("1", "3"):
        xr.testing.assert_equal(live[site].to_dataset(), stored[site].to_dataset())
        assert {key: live[site]["auroc"].attrs[key] for key in ("approximate", "value_error", "rank_error")} == {
            "approximate": 0,
            "value_error": 0,
            "rank_error": 0,
        }


def test_column_metrics_of_many_samples_are_approximate_and_say_so(tmp_path: Path) -> None:
    torch.manual_seed(1)
    x, y = torch.randn(20_000, 6), torch.arange(20_000) % 2
    metrics = ["median", "overlap:null='permute'", "auroc", "mean"]
    live, stored = both(tmp_path, mlp(), (x, y), metrics, {"sites": ["1", "3"]})
    for site in ("1", "3"):
        attrs = live[site]["median"].attrs
        assert attrs["approximate"] == 1
        assert 0 < attrs["value_error"] <= 2**-8
        assert attrs["rank_error"] == pytest.approx(1 / (2 * 8192))
        assert live[site]["mean"].attrs["approximate"] == 0
        exact = stored[site]
        np.testing.assert_allclose(live[site]["median"], exact["median"], rtol=2 * 2**-8, atol=2e-3)
        np.testing.assert_allclose(live[site]["auroc"], exact["auroc"], atol=live[site]["auroc"].attrs["error_bound"])
        np.testing.assert_allclose(live[site]["overlap"], exact["overlap"], atol=3e-2)
        assert live[site]["auroc"].attrs["error_bound"] < 0.01 < live[site]["overlap"].attrs["error_bound"] < 1
        assert live[site]["auroc"].attrs["coarse_nodes"] == 0
        assert "error_bound" not in live[site]["overlap_null"].attrs, "its shuffle is another"


RNG = np.random.default_rng(0)
LARGE = {
    "1e5 and 1.1e5": lambda y, z: 1e5 + 1e4 * y + 100 * z,
    "1e5 and 1.001e5": lambda y, z: 1e5 + 100 * y + 100 * z,
    "below float32's least normal number": lambda y, z: 1e-41 * (y + z),
    "beyond float32": lambda y, z: 1e200 * (3 * y + z),
    "huge and tiny": lambda y, z: np.where(abs(z) < 1, 1e-30, 1e30) * (y + z),
    "0 or 700": lambda y, z: np.where(z < 0, 0, 700 + y + z),
    "integers": lambda y, z: np.round(20 * z + 5 * y),
    "one outlier": lambda y, z: np.where(z == z.max(), 1e30, 3e4 + y + z),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LARGE)
def test_values_of_any_size_are_within_the_bounds_that_are_given(name: str, dtype: type) -> None:
    if dtype == np.float32 and name == "beyond float32":
        pytest.skip("it has no such values")
    y = np.arange(18_000) % 2
    x = LARGE[name](y[:, None], RNG.normal(size=(18_000, 2))).astype(dtype)
    metrics = ["median", "auroc", "ks", "overlap", "mutual_information", "entropy"]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        live = pk.measure_live(nn.Sequential(nn.Identity()), (torch.from_numpy(x), y), metrics, sites="0")["0"]
    coarse = any(min(live[name].attrs["cell_share"], live[name].attrs["error_bound"]) > 0.01 for name in metrics[1:])
    assert ["can't be told apart at '0' (" in str(each.message) for each in warned] == [True] * coarse
    root = xr.Dataset(coords={"label": ("sample", y)})
    site = xr.Dataset({"activation": (("sample", "node"), x)})
    exact = pk.measure(xr.DataTree.from_dict({"/": root, "0": site}), metrics)["0"]
    ranked = np.sort(np.stack([x[y == code] for code in range(2)]), axis=1).astype(np.float64)
    to = int(np.ceil(live["median"].attrs["rank_error"] * 9000)) + 1
    apart = live["median"].attrs["value_error"] * abs(ranked[:, 4500 - to : 4500 + to + 1]).max(axis=1)
    assert (live["median"] >= ranked[:, 4500 - to] - apart).all()
    assert (live["median"] <= ranked[:, 4500 + to] + apart).all()
    for variable in (v for v in exact.data_vars if v != "median"):
        bound = live[variable].attrs["error_bound"]
        np.testing.assert_allclose(live[variable], exact[variable], rtol=0, atol=bound + 1e-12)
    if "1e5" in name:
        np.testing.assert_allclose(live["median"], exact["median"], rtol=1e-4)
        np.testing.assert_allclose(live["auroc"], exact["auroc"], atol=1e-3)


def test_metrics_that_go_over_the_samples_again_are_refused() -> None:
    with pytest.raises(pk.errors.PluginError, match=r"'top_samples' reads the samples more than once.*capture"):
        pk.measure_live(mlp(), (X, Y), "top_samples")


def test_a_slash_in_a_name_makes_no_group(tmp_path: Path) -> None:
    model = nn.Module()
    model.add_module("a/b", nn.ReLU())
    model.forward = lambda x: model.get_submodule("a/b")(x)  # type: ignore[method-assign]
    live, stored = both(tmp_path, model, (X, Y), "mean", {"sites": "a/b"})
    assert_agree(live, stored)
    assert live["a%2Fb"].attrs["site"] == "a/b"


class _Faulty(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 2.5, torch.nan, x)


def test_nan_is_refused_or_left_out(tmp_path: Path) -> None:
    model = nn.Sequential(_Faulty())
    with pytest.raises(pk.errors.DataError, match=r"'0' gave NaN.*nan='omit'"):
        pk.measure_live(model, (X, Y), "mean", sites="0")
    live, stored = both(tmp_path, model, (X, Y), ["mean", "std", "count", "sparsity"], {"sites": "0"}, nan="omit")
    assert_agree(live, stored)
    assert live["0"]["mean"].attrs["omitted"] == stored["0"]["mean"].attrs["omitted"] > 0
    with pytest.raises(pk.errors.DataError, match="all 500 observations hold a NaN"):
        pk.measure_live(nn.Sequential(_Faulty()), (X + 100, Y), "mean", sites="0", nan="omit")


@pytest.mark.parametrize("metric", ["median", "auroc"])
@pytest.mark.parametrize("model", [_Faulty(), nn.Sequential(_Faulty(), nn.Sigmoid())])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_among_many_samples_is_refused_by_name(metric: str, model: nn.Module, dtype: torch.dtype) -> None:
    x = torch.linspace(-2, 3, 9000, dtype=dtype)[torch.randperm(9000)][:, None]
    with pytest.raises(pk.errors.DataError, match=r"gave NaN.*nan='omit'"):
        pk.measure_live(nn.Sequential(model), x, metric, sites="**", batch_size=1000)


def test_progress_counts_batches_and_then_the_results_of_each_site() -> None:
    seen: list[tuple[str, int | None, int]] = []

    def progress(items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
        taken = 0
        for item in items:
            taken += 1
            yield item
        seen.append((description, total, taken))

    metrics, data = ["median", "selectivity", "effective_rank", "cka"], (X[:40], Y[:40])
    pk.measure_live(mlp(), data, metrics, sites=["0", "1"], batch_size=10, progress=progress)
    assert seen == [("measure", 4, 4), ("results of the sites", 300, 300)], "both sites, and what compares them"


def test_the_model_is_as_before() -> None:
    model = mlp().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=50)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    pk.measure_live(model, loader, "mean")
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_memory_does_not_grow_with_the_samples() -> None:
    model = mlp()

    def peak(samples: int) -> int:
        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for _ in range(samples // 500):
                yield X, Y

        tracemalloc.start()
        pk.measure_live(model, batches(), [Std(), median], sites="1")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(500)
    assert peak(100_000) < 1.2 * peak(20_000)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: pk.measure_live(mlp(), (X, Y), "meen"), pk.errors.PluginError),
        (lambda: pk.measure_live(mlp(), (X, Y), "mean", sites="9"), pk.errors.SiteError),
        (lambda: pk.measure_live(mlp(), [], "mean"), pk.errors.DataError),
        (lambda: pk.measure_live(mlp(), (X[:, :2], Y), "mean"), pk.errors.ModelError),
        (lambda: pk.measure_live(mlp(), (X, Y), "mean", nan="skip"), pk.errors.DataError),
        (lambda: pk.measure_live(mlp(), (X, Y), [Mean(), "mean"]), pk.errors.PluginError),
        (lambda: pk.measure_live(mlp(), (X, Y), "mean", by="fold"), pk.errors.DataError),
    ],
)
def test_wrong_inputs_are_refused(call: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        call()
