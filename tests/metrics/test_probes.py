"""Linear probes, against scikit-learn's classifiers on the same split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score

import probekit as pk
from probekit.errors import PluginError
from probekit.metrics import LinearProbe, Samples
from probekit.metrics._kernels.row_sampling import draws

SamplesOf = Callable[..., Samples]


def found(metric: LinearProbe, samples: Samples) -> tuple[float, float, int]:
    """Accuracy, chance, and the number of held-out samples."""
    variables = metric.compute_samples(samples)
    assert list(variables) == ["linear_probe", "linear_probe_chance", "linear_probe_held_out"]
    assert all(dims == () and array.shape == () for dims, array in variables.values())
    accuracy, chance, held = (array for _, array in variables.values())
    return float(accuracy), float(chance), int(held)


def clusters(classes: int, scale: float = 1, offset: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """Samples of unequal classes that overlap, in 12 dimensions of unequal spread."""
    rng = np.random.default_rng(0)
    y = np.minimum(rng.geometric(0.3, 900) - 1, classes - 1)
    x = (rng.normal(size=(900, 12)) + rng.normal(size=(classes, 12))[y]) @ (rng.normal(size=(12, 12)) / 2)
    return ((x * scale) + offset).astype(np.float32), y


@pytest.mark.parametrize("method", ["ridge", "logistic"])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("alpha", [1e-3, 1.0])
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (100, 30)])
def test_it_is_scikit_learns_classifier(
    samples_of: SamplesOf, method: str, classes: int, alpha: float, scale: float, offset: float
) -> None:
    x, y = clusters(classes, scale, offset)
    accuracy, chance, held_out = found(LinearProbe(method, alpha, 0.3, seed=4), samples_of(x, y, classes))
    held = draws(np.arange(900), 4) < 0.3
    wide, train = x.astype(np.float64), ~held
    spread = wide[train].var(0).mean()
    if method == "ridge":
        fitted = Ridge(alpha=alpha * train.sum() * spread).fit(wide[train], np.eye(classes)[y[train]])
        answers = fitted.predict(wide[held]).argmax(1)
    else:
        logistic = LogisticRegression(C=1 / (alpha * train.sum()), max_iter=10_000)
        answers = logistic.fit(wide[train] / np.sqrt(spread), y[train]).predict(wide[held] / np.sqrt(spread))
    # The two solvers of a logistic regression stop at points a little apart: a sample between two classes may change.
    tolerance = 0 if method == "ridge" else 1.5 / held.sum()
    np.testing.assert_allclose(accuracy, accuracy_score(y[held], answers), rtol=0, atol=tolerance)
    assert chance == np.mean(y[held] == np.bincount(y[train]).argmax()) < accuracy
    assert held_out == held.sum()


@pytest.mark.parametrize("method", ["ridge", "logistic"])
def test_scale_offset_and_batches_change_nothing(samples_of: SamplesOf, method: str) -> None:
    x, y = clusters(4)
    metric = LinearProbe(method)
    whole = found(metric, samples_of(x, y, 4, batch=900))
    assert found(metric, samples_of(x.astype(np.float64) * 4096 + 1024, y, 4, batch=7)) == whole


def test_separable_classes_are_told_apart_and_noise_is_not(samples_of: SamplesOf) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 4000)
    noise = rng.normal(size=(4000, 6)).astype(np.float32)
    for method in ("ridge", "logistic"):
        assert found(LinearProbe(method), samples_of(noise[:, :4] / 20 + np.eye(4)[y], y, 4))[0] == 1
        accuracy, chance, held = found(LinearProbe(method), samples_of(noise, y, 4))
        assert abs(accuracy - 0.25) < 5 * np.sqrt(0.25 * 0.75 / held) > abs(chance - 0.25)


def test_a_ring_around_a_class_is_beyond_a_line(samples_of: SamplesOf) -> None:
    rng = np.random.default_rng(0)
    y, angle = rng.integers(0, 2, 2000), rng.random(2000) * 2 * np.pi
    x = np.column_stack([np.cos(angle), np.sin(angle)]) * (1 + 4 * y[:, None])
    assert found(LinearProbe(), samples_of(x, y, 2))[0] < 0.8  # at best all of the inside, and half of the ring
    assert found(LinearProbe(), samples_of(x**2, y, 2))[0] == 1


def test_the_same_rows_are_held_out_where_fewer_are_measured(samples_of: SamplesOf) -> None:
    x, y = clusters(3)
    some = np.flatnonzero(np.arange(900) % 3 > 0)
    held = int((draws(np.arange(900), 0)[some] < 0.25).sum())
    assert found(LinearProbe(), samples_of(x[some], y[some], 3, rows=some))[2] == held
    # All positions of a row stand on one side of the split.
    twice = np.repeat(np.arange(900), 2)
    once = found(LinearProbe(), samples_of(x, y, 3))[2]
    assert found(LinearProbe(), samples_of(x[twice], y[twice], 3, rows=twice))[2] == 2 * once


@pytest.mark.parametrize("method", ["ridge", "logistic"])
def test_a_class_without_samples_changes_nothing(samples_of: SamplesOf, method: str) -> None:
    x, y = clusters(3)
    gaps = np.array([1, 4, 5])
    metric = LinearProbe(method)
    assert found(metric, samples_of(x, gaps[y], 8)) == found(metric, samples_of(x, y, 3))


def test_a_class_that_was_not_trained_on_is_never_said(samples_of: SamplesOf) -> None:
    x, y = clusters(2)
    held = draws(np.arange(900), 0) < 0.25
    new = np.flatnonzero(held)[:20]
    with_new = y.copy()
    with_new[new] = 2
    before, after = (found(LinearProbe(), samples_of(x, codes, 3))[0] for codes in (y, with_new))
    old = np.setdiff1d(np.arange(900), new)
    others = found(LinearProbe(), samples_of(x[old], y[old], 2, rows=old))
    assert after < before
    np.testing.assert_allclose(after, others[0] * others[2] / held.sum(), rtol=1e-12)


@pytest.mark.parametrize("method", ["ridge", "logistic"])
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_constant_nodes_leave_chance(samples_of: SamplesOf, method: str, value: float) -> None:
    y = np.random.default_rng(0).choice(3, 400, p=[0.2, 0.5, 0.3])
    accuracy, chance, _ = found(LinearProbe(method), samples_of(np.full((400, 3), value), y, 3))
    assert accuracy == chance > 0.4


@pytest.mark.parametrize("method", ["ridge", "logistic"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e200])
def test_infinities_have_no_accuracy(samples_of: SamplesOf, method: str, value: float) -> None:
    x, y = clusters(3)
    held = draws(np.arange(900), 0) < 0.25
    for row in (np.flatnonzero(~held)[20], np.flatnonzero(held)[7]):
        wide = x.astype(np.float64)
        wide[row, 5] = value
        accuracy, chance, _ = found(LinearProbe(method), samples_of(wide, y, 3))
        assert np.isnan(accuracy) or (held[row] and np.isfinite(value))
        assert chance > 0


@pytest.mark.parametrize("method", ["ridge", "logistic"])
@pytest.mark.parametrize(("rows", "classes"), [(0, 2), (1, 2), (50, 1)])
def test_too_few_samples_or_classes_are_nan(samples_of: SamplesOf, method: str, rows: int, classes: int) -> None:
    x = np.random.default_rng(0).normal(size=(rows, 3))
    accuracy, chance, held = found(LinearProbe(method), samples_of(x, np.zeros(rows), classes))
    assert np.isnan([accuracy, chance]).all()
    assert held == (draws(np.arange(rows), 0) < 0.25).sum()


@pytest.mark.parametrize("wrong", [{"method": "svm"}, {"alpha": 0}, {"held_out": 1}, {"held_out": 0}])
def test_parameters_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(PluginError, match=r"LinearProbe\(.*'ridge' or 'logistic', alpha above 0"):
        LinearProbe(**wrong)


def test_a_store_is_probed_with_one_split_for_all_sites(
    samples_of: SamplesOf, tree_of: Callable[..., xr.DataTree]
) -> None:
    x, y = clusters(4)
    m = pk.measure(tree_of({"a": x, "b": x[:, :3]}, y), [LinearProbe(), "count"])
    for name, values in (("a", x), ("b", x[:, :3])):
        assert m[name]["linear_probe"] == found(LinearProbe(), samples_of(values, y, 4))[0]
    assert m["a"]["linear_probe_chance"] == m["b"]["linear_probe_chance"]
    assert m["a"]["linear_probe"] > m["b"]["linear_probe"]
    assert np.isnan(pk.measure(tree_of({"a": x}, y), LinearProbe(), by=None)["a"]["linear_probe"])
