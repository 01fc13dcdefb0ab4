"""Correlations and a ridge probe of a continuous column, compared with scipy and scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import probekit as pk
from probekit.metrics import Correlation, RidgeProbe
from probekit.metrics._kernels.row_sampling import draws

RNG = np.random.default_rng(3)
AGE = RNG.gamma(3, 10, size=400)
X = RNG.normal(size=(400, 6)) + np.outer(AGE, [0.1, -0.05, 0, 0, 0.2, 0])
X[:, 2] = np.round(X[:, 2])  # ties
X[:, 3] = 7  # constant
X[:, 5] *= 1e4  # of another scale


def tree(x: Any = X, age: Any = AGE, **more: Any) -> xr.DataTree:
    root = xr.Dataset(coords={"age": ("sample", age), **{name: ("sample", values) for name, values in more.items()}})
    return xr.DataTree.from_dict({"/": root, "site": xr.Dataset({"activation": (("sample", "node"), x)})})


def test_correlations_are_scipys() -> None:
    found = pk.measure(tree(), "correlation", target="age")["site"]
    for node in (0, 1, 2, 4, 5):
        assert found["correlation"].values[node] == pytest.approx(pearsonr(X[:, node], AGE).statistic, abs=1e-12)
        assert found["correlation_spearman"].values[node] == pytest.approx(
            spearmanr(X[:, node], AGE).statistic, abs=1e-12
        )
        assert found["correlation_r2"].values[node] == pytest.approx(
            pearsonr(X[:, node], AGE).statistic ** 2, abs=1e-12
        )
    assert np.isnan([found[name].values[3] for name in ("correlation", "correlation_spearman", "correlation_r2")]).all()
    assert "correlation_spearman" not in pk.measure(tree(), Correlation(spearman=False), target="age")["site"]


def test_a_large_offset_costs_no_digits() -> None:
    found = pk.measure(tree(X + 1e7, AGE + 1e9), "correlation", target="age")["site"]["correlation"].values
    exact = [pearsonr(X[:, node] + 1e7 - 1e7, AGE).statistic for node in (0, 4)]
    np.testing.assert_allclose(found[[0, 4]], exact, rtol=1e-6)


def test_the_ridge_probe_is_scikit_learns() -> None:
    for alpha in (1e-3, 0.5):
        found = pk.measure(tree(), RidgeProbe(alpha=alpha), target="age")["site"]
        test = np.isin(np.arange(400), np.argsort(draws(np.arange(400), 0))[:100])
        model = make_pipeline(StandardScaler(), Ridge(alpha=alpha * (~test).sum()))
        # Ridge standardises no target, whose scale doesn't change the fit.
        predicted = model.fit(X[~test], AGE[~test]).predict(X[test])
        assert found["ridge_probe"].item() == pytest.approx(r2_score(AGE[test], predicted), abs=1e-9)
        assert found["ridge_probe_held_out"].item() == test.sum()
        chance = r2_score(AGE[test], np.full(100, AGE[~test].mean()))
        assert found["ridge_probe_chance"].item() == pytest.approx(chance, abs=1e-12)
        assert -0.3 < found["ridge_probe_shuffled"].item() < 0.05


def test_the_penalty_suits_a_site_of_as_many_nodes_as_samples() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 300)) + 0.1 * AGE[:, None] / AGE.std()
    found = pk.measure(tree(x), RidgeProbe(), target="age")["site"]
    order = np.argsort(draws(np.arange(400), 0))
    training, validation = np.sort(order[100:]), order[100:175]  # of the 300 training samples, a quarter
    fitted = np.setdiff1d(training, validation)
    scaler, errors = StandardScaler().fit(x[fitted]), {}
    for alpha in 10.0 ** np.arange(2, -7, -1):
        ridge = Ridge(alpha=alpha * len(fitted)).fit(scaler.transform(x[fitted]), AGE[fitted])
        errors[alpha] = np.square(ridge.predict(scaler.transform(x[validation])) - AGE[validation]).sum()
    alpha = min(errors, key=errors.__getitem__)
    assert found["ridge_probe_alpha"].item() == alpha >= 0.1
    model = make_pipeline(StandardScaler(), Ridge(alpha=alpha * 300)).fit(x[training], AGE[training])
    r2 = r2_score(AGE[order[:100]], model.predict(x[order[:100]]))
    assert found["ridge_probe"].item() == pytest.approx(r2, abs=1e-9)
    fixed = pk.measure(tree(x), RidgeProbe(alpha=1e-3), target="age")["site"]
    assert found["ridge_probe"].item() > fixed["ridge_probe"].item() + 0.2


def test_a_sample_of_several_rows_is_on_one_side_of_the_split() -> None:
    rng, rows = np.random.default_rng(0), np.repeat(np.arange(80), 15)
    root = xr.Dataset(coords={"age": ("sample", AGE[:80]), "sample_id": ("sample", np.arange(80))})
    x = rng.normal(size=(80, 60))[rows] + 0.1 * rng.normal(size=(1200, 60))
    of_samples = xr.Dataset({"activation": (("row", "node"), x)}, coords={"sample_id": ("row", rows)})
    by_row = xr.Dataset({"activation": (("sample", "node"), x)})
    alone = xr.DataTree.from_dict({"/": xr.Dataset(coords={"age": ("sample", AGE[:80][rows])}), "h": by_row})
    probe = RidgeProbe(folds=4)
    leaked = pk.measure(alone, probe, target="age")["h"]["ridge_probe"].item()
    found = pk.measure(xr.DataTree.from_dict({"/": root, "h": of_samples}), probe, target="age")["h"]
    assert leaked > 0.6 > 0.1 > found["ridge_probe"].item()
    assert found["ridge_probe_shuffled"].item() < 0.1


def test_an_unrelated_column_is_not_found() -> None:
    shuffled = np.random.default_rng(0).permutation(AGE)
    found = pk.measure(tree(age=shuffled), ["ridge_probe", "correlation"], target="age")
    assert found["site"]["ridge_probe"].item() < 0.05
    assert found["site"]["correlation_r2"].max() < 0.05
    assert found.attrs["target"] == "age"


def test_chosen_samples_of_a_store_keep_their_targets(tmp_path: Path) -> None:
    data = (torch.from_numpy(X.astype(np.float32)), torch.arange(400) % 2)
    pk.capture(nn.Sequential(nn.Identity()), data, tmp_path / "a.zarr", sites="0", columns={"age": AGE})
    found = pk.measure(tmp_path / "a.zarr", "correlation", target="age", where={"label": 1})["0"]["correlation"]
    half = np.arange(400) % 2 == 1
    assert found.values[0] == pytest.approx(pearsonr(X[half, 0].astype(np.float32), AGE[half]).statistic, abs=1e-6)
    x = X.copy()
    x[0, 0] = np.nan
    omitted = pk.measure(tree(x), "correlation", target="age", nan="omit")["site"]["correlation"]
    assert omitted.values[0] == pytest.approx(pearsonr(X[1:, 0], AGE[1:]).statistic, abs=1e-12)


@pytest.mark.parametrize("missing", [np.nan, np.inf])
@pytest.mark.parametrize("metric", ["correlation", "ridge_probe"])
def test_a_sample_that_is_omitted_needs_no_target(metric: str, missing: float) -> None:
    x, age = X.copy(), AGE.copy()
    x[0, 0] = np.nan
    age[0] = missing
    found = pk.measure(tree(x, age), metric, target="age", nan="omit")["site"].to_dataset()
    expected = pk.measure(tree(X[1:], AGE[1:]), metric, target="age")["site"].to_dataset()
    np.testing.assert_allclose(found[metric], expected[metric], rtol=0.1)
    age[1] = missing
    with pytest.raises(pk.errors.DataError, match="1 of the 399 observations at site 'site' have no finite 'age'"):
        pk.measure(tree(x, age), metric, target="age", nan="omit")
    with pytest.raises(pk.errors.DataError, match="2 of the 400 observations at site 'site' have no finite 'age'"):
        pk.measure(tree(x, age), metric, target="age")


def test_the_rows_of_a_sample_have_its_target() -> None:
    rows = np.repeat(np.arange(100), 4)
    root = xr.Dataset(coords={"age": ("sample", AGE[:100]), "sample_id": ("sample", np.arange(100))})
    site = xr.Dataset({"activation": (("row", "node"), X)}, coords={"sample_id": ("row", rows)})
    found = pk.measure(xr.DataTree.from_dict({"/": root, "h": site}), "correlation", target="age")["h"]["correlation"]
    assert found.values[0] == pytest.approx(pearsonr(X[:, 0], AGE[:100][rows]).statistic, abs=1e-12)


def test_infinities_and_too_few_samples_are_nan() -> None:
    x = X.copy()
    x[3, 0] = np.inf
    found = pk.measure(tree(x), ["correlation", "ridge_probe"], target="age")["site"]
    assert np.isnan(found["correlation"].values[0])
    assert found["correlation"].values[1] == pytest.approx(pearsonr(X[:, 1], AGE).statistic, abs=1e-12)
    assert found["correlation_spearman"].values[0] == pytest.approx(spearmanr(x[:, 0], AGE).statistic, abs=1e-12)
    assert np.isnan(found["ridge_probe"].item())
    same = pk.measure(tree(age=np.ones(400)), ["correlation", "ridge_probe"], target="age")["site"]
    assert np.isnan(same["correlation"].values).all()
    assert np.isnan(same["ridge_probe"].item())
    one = pk.measure(tree(X[:1], AGE[:1]), ["correlation", "ridge_probe"], target="age")["site"]
    assert np.isnan(one["correlation"].values).all()


@pytest.mark.parametrize(
    ("metrics", "target", "message"),
    [
        ("correlation", None, r"correlation needs a target, a column of numbers.*\(target=\). The columns are age"),
        ("mean", "age", "target is 'age', and no metric of mean needs one"),
        ("correlation", "aeg", "no column 'aeg'.*Near: 'age'"),
        ("correlation", "name", "target is 'name', whose values aren't numbers: 'a' at 0"),
        ("correlation", "mixed", "target is 'mixed', whose values aren't numbers: 'old' at 7"),
        ("correlation", "dose", "1 of the 400 observations at site 'site' have no finite 'dose'"),
        ("correlation", 3, "target is an int, 3"),
    ],
)
def test_a_target_that_makes_no_sense_is_refused(metrics: str, target: Any, message: str) -> None:
    dose = AGE.copy()
    dose[7] = np.nan
    mixed = AGE.astype(object)
    mixed[7] = "old"
    given = tree(name=np.array(["a"] * 400, object), mixed=mixed, dose=dose)
    with pytest.raises(pk.errors.DataError, match=message):
        pk.measure(given, metrics, target=target)


def test_a_target_of_python_numbers_is_one_of_numbers() -> None:
    found = pk.measure(tree(age=AGE.astype(object)), "correlation", target="age")["site"]
    xr.testing.assert_identical(
        found["correlation"], pk.measure(tree(), "correlation", target="age")["site"]["correlation"]
    )


def test_parameters_are_checked() -> None:
    for wrong in ({"alpha": 0}, {"held_out": 1}, {"folds": 1}, {"shuffles": -1}):
        with pytest.raises(pk.errors.PluginError, match="RidgeProbe"):
            RidgeProbe(**wrong)
