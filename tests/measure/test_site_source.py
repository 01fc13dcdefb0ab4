"""What is measured of activations of any shape and dtype, and how samples are grouped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import probekit as pk
from probekit._measure.site_source import bounds_of
from probekit.metrics import Mean, Sparsity, median
from tests.stores import LABELS, X, one_site


@pytest.mark.parametrize(
    ("shape", "dims", "axes"),
    [
        ((6, 3, 5, 2), ("channel", "y", "x"), (2, 3)),
        ((6, 5, 3), ("position", "node"), 1),
        ((6, 2, 5, 3), ("a", "b", "c"), (1, 2)),
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_positions_are_pooled_by_their_mean(
    shape: tuple[int, ...], dims: tuple[str, ...], axes: tuple[int, ...], stored: bool, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    tree = one_site(x, *dims, label=LABELS)
    if stored:
        tree.to_zarr(
            tmp_path / "a", encoding={"/site": {"activation": {"chunks": (2, *(1 for _ in dims))}}}, consolidated=False
        )
        tree = xr.open_datatree(tmp_path / "a", engine="zarr", chunks=None, consolidated=False)
    result = pk.measure(tree, median)["site"]
    pooled = x.mean(axes, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(result["median"].sel(label=2), np.median(pooled[LABELS == 2], axis=0))
    assert result.attrs["positions"] == f"mean of {x[0].size // 3}"


def test_a_number_a_sample_is_one_node() -> None:
    result = pk.measure(one_site(X[:, 0], label=LABELS), median)["site"]
    assert dict(result["median"].sizes) == {"label": 3, "node": 1}
    assert result["median"].sel(label=0).item() == np.median(X[LABELS == 0, 0])
    assert "positions" not in result.attrs


@pytest.mark.parametrize(
    ("dtype", "measured"),
    [
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.int8, np.float64),
        (bool, np.float64),
    ],
)
def test_values_are_measured_exactly_in_a_wider_dtype(dtype: type, measured: type) -> None:
    x = (X > 0) if dtype is bool else (X * 5).astype(dtype)
    result = pk.measure(one_site(x, label=LABELS), [median, Mean(), Sparsity()])["site"]
    expected = [x[code == LABELS].astype(measured) for code in (0, 2)]
    present = result.sel(label=[0, 2])
    assert result["median"].dtype == measured
    assert result["median"].attrs["activation_dtype"] == str(np.dtype(dtype))
    np.testing.assert_array_equal(present["median"], [np.median(each, axis=0) for each in expected])
    np.testing.assert_allclose(present["mean"], [each.mean(0, dtype=np.float64) for each in expected], rtol=1e-14)
    np.testing.assert_array_equal(present["sparsity"], [(each <= 0).mean(0) for each in expected])


def test_a_site_with_other_rows_than_samples_is_refused() -> None:
    tree = xr.DataTree.from_dict({"/": one_site(label=LABELS).to_dataset(), "odd": one_site(X, "node").to_dataset()})
    tree["odd"] = xr.DataTree(xr.Dataset({"activation": (("frame", "node"), X)}))
    with pytest.raises(pk.errors.DataError, match=r"'odd' have the dims \('frame', 'node'\).*6 samples"):
        pk.measure(tree, median)


@pytest.mark.parametrize("shape", [(0, 4), (6, 0)])
def test_nothing_to_measure_is_said(shape: tuple[int, int]) -> None:
    with pytest.raises(pk.errors.DataError, match=r"no samples|empty: shape \(6, 0\)"):
        pk.measure(one_site(np.ones(shape), label=LABELS[: shape[0]]), median)


@pytest.mark.parametrize(
    ("positions", "pool"),
    [("max", lambda x: x.max((2, 3))), ("each", lambda x: x.transpose(0, 2, 3, 1).reshape(-1, 3))],
)
def test_positions_are_pooled_or_observed_as_asked(positions: str, pool: Callable[[np.ndarray], np.ndarray]) -> None:
    x = np.random.default_rng(0).normal(size=(6, 3, 5, 2)).astype(np.float32)
    result = pk.measure(one_site(x, "channel", "y", "x", label=LABELS), ["median", "std"], positions=positions)["site"]
    values, of_two = pool(x), np.repeat(LABELS == 2, 10 if positions == "each" else 1)
    np.testing.assert_array_equal(result["median"].sel(label=2), np.median(values[of_two], axis=0))
    np.testing.assert_allclose(result["std"].sel(label=2), values[of_two].astype(float).std(0), rtol=1e-6)
    assert result["median"].attrs["n"] == len(values)
    assert result.attrs["positions"] == f"{positions} of 10"


def test_samples_with_a_nan_are_left_out_where_that_is_asked_for() -> None:
    broken = X.copy()
    broken[1, 2] = broken[4, 0] = np.nan
    tree = one_site(broken, label=LABELS)
    tree["whole"] = xr.Dataset({"activation": (("sample", "node"), X)})
    with pytest.raises(pk.errors.DataError, match=r"'site' holds NaN at 2 of its nodes.*nan='omit'"):
        pk.measure(tree, "mean")
    metrics = ["median", "mean", "sparsity", "overlap"]
    result = pk.measure(tree, metrics, nan="omit")
    kept = np.array([0, 2, 3, 5])
    alone = pk.measure(one_site(X[kept], label=LABELS[kept]), metrics)["site"]
    for name in alone.data_vars:
        np.testing.assert_array_equal(result["site"][name], alone[name])
    assert result["site"]["median"].attrs["omitted"] == 2
    assert result["whole"]["median"].attrs["n"] == 6
    assert "omitted" not in result["whole"]["median"].attrs


def test_a_site_of_nan_alone_is_refused() -> None:
    with pytest.raises(pk.errors.DataError, match="Site 'site': all 6 observations hold a NaN"):
        pk.measure(one_site(np.full_like(X, np.nan), label=LABELS), "mean", nan="omit")


@pytest.mark.parametrize("option", [{"nan": "ignore"}, {"positions": "median"}])
def test_a_policy_that_there_is_not_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(pk.errors.DataError, match=r"it is '.*' or '.*'"):
        pk.measure(one_site(label=LABELS), "mean", **option)


def test_infinite_positions_are_pooled_without_a_word() -> None:
    x = np.ones((6, 3, 2, 2), np.float32)
    x[0, 1, 0], x[2, 2, 0, 0], x[2, 2, 1, 1] = np.inf, 3e38, 3e38
    result = pk.measure(one_site(x, "channel", "y", "x", label=LABELS), "max")["site"]["max"]
    assert result.sel(label=0).values.tolist() == [1, np.inf, pytest.approx(1.5e38)]


ODD_LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "backwards": lambda x: x[::-1].copy()[::-1],
    "nodes backwards": lambda x: x[..., ::-1].copy()[..., ::-1],
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "fortran": np.asfortranarray,
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "a field": lambda x: np.array(list(zip(x.ravel(), [1] * x.size, strict=True)), [("x", x.dtype), ("b", "i1")])[
        "x"
    ].reshape(x.shape),
}


@pytest.mark.parametrize("layout", ODD_LAYOUTS)
@pytest.mark.parametrize("shape", [(60,), (60, 8), (60, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_arrays_of_any_layout_are_measured(layout: str, shape: tuple[int, ...], dtype: type) -> None:
    plain = (np.random.default_rng(1).normal(size=shape) * 9).astype(dtype)
    dims = {1: (), 2: ("node",), 4: ("channel", "y", "x")}[plain.ndim]
    odd = ODD_LAYOUTS[layout](plain)
    metrics = ["mean", "median", "sparsity", "effective_rank", "linear_probe", "top_samples"]
    for options in ({}, {"positions": "each"}) if plain.ndim == 4 else ({},):
        found, expected = (
            pk.measure(one_site(x, *dims, label=np.arange(60) % 3), metrics, **options)["site"] for x in (odd, plain)
        )
        xr.testing.assert_equal(found, expected)


@pytest.mark.parametrize("layout", ["backwards", "big-endian"])
def test_columns_of_any_layout_are_read_in_several_passes(layout: str) -> None:
    plain = np.random.default_rng(2).normal(size=(120_000, 2)).astype(np.float32)
    tree = one_site(ODD_LAYOUTS[layout](plain), label=np.arange(120_000) % 2)
    plans = []

    def noted(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
        plans.append(description)
        return items

    found = pk.measure(tree, "median", memory="500KiB", progress=noted)["site"]["median"].sel(label=[0, 1])
    assert "passes" in plans[0]
    np.testing.assert_array_equal(found, [np.median(plain[code::2], axis=0) for code in (0, 1)])


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        ("none", (0, np.inf)),
        ('["mean", {"nodes": [0, 2]}]', (0, np.inf)),
        ('["tokens", {"slice": [0, 3, 1]}]', (0, np.inf)),
        ('[{"projection": {"size": 2, "seed": 0}}]', None),
        ('["attention_entropy"]', None),
        ('["mean", {"callable": "numpy.log"}]', None),
    ],
)
def test_bounds_are_those_of_what_was_kept(reduce: str, expected: tuple[float, float] | None) -> None:
    site = {"type": "ReLU", "kind": "output", "reduce": reduce}
    assert bounds_of(site) == expected
    assert bounds_of(site | {"kind": "input"}) is None


def test_a_projection_is_not_confined_as_its_relu_is(tmp_path: Path) -> None:
    data = (torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2)
    for reduce, below in ((None, False), (pk.Projection(3), True), ([0, 1], False)):
        tree = pk.capture(torch.nn.Sequential(torch.nn.ReLU()), data, tmp_path / f"{below}{reduce}", reduce=reduce)
        found = pk.measure(tree, ["mean", "median", "quantile:0.1"], ci="bootstrap", repeats=20)["0"]
        assert (found["mean"] < 0).any() == below
        for name in ("mean_low", "median_low", "quantile_low"):
            assert (found[name] < 0).any() == below
