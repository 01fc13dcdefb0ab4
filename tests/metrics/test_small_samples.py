"""What separation metrics give of few samples lies within two of its own standard errors of the truth.

A node is a repeat: the means over nodes estimate what a metric gives on average, and their deviations its error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.metrics.cluster import expected_mutual_information
from torch import nn

import probekit as pk
from probekit.metrics import (
    AUROC,
    KS,
    Block,
    DPrime,
    Entropy,
    Fisher,
    MutualInformation,
    Overlap,
    Perplexity,
    Selectivity,
    Wasserstein,
)
from probekit.metrics._kernels.chance import expected_ks, mean_deviation, mean_of_x_log_x

TreeOf = Callable[..., xr.DataTree]
NODES = 100
# The true value of each metric's headline for independent classes, by the number of classes.
TRUE: dict[Any, tuple[str, Callable[[int], float]]] = {
    MutualInformation(): ("mutual_information", lambda classes: 0),
    Overlap(): ("overlap", lambda classes: 1),
    KS(): ("ks_mean", lambda classes: 0),
    AUROC(): ("auroc_rest", lambda classes: 0.5),
    Wasserstein(): ("wasserstein_mean", lambda classes: 0),
    DPrime(): ("dprime_mean", lambda classes: 0),
    Fisher(): ("fisher", lambda classes: 0),
    Selectivity(): ("selectivity", lambda classes: 0),
    Perplexity(): ("perplexity", float),
}
FORMS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(9, 1, shape),
    "relu": lambda rng, shape: rng.normal(size=shape).clip(min=0),
    "discrete": lambda rng, shape: rng.integers(0, 5, shape).astype(float),
}


def independent(form: str, samples: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(samples)
    x = FORMS[form](rng, (samples * classes, NODES)).astype(np.float32)
    return x, np.repeat(np.arange(classes), samples)


@pytest.mark.parametrize(
    ("form", "samples", "classes"),
    [
        ("normal", 10, 6),
        ("normal", 180, 3),
        ("relu", 10, 2),
        ("relu", 20, 6),
        ("relu", 50, 6),
        ("relu", 1000, 2),
        ("discrete", 20, 6),
        ("discrete", 180, 3),
    ],
)
def test_independent_classes_give_the_truth_within_an_error(
    tree_of: TreeOf, form: str, samples: int, classes: int
) -> None:
    x, y = independent(form, samples, classes)
    found = pk.measure(tree_of({"a": x}, y), list(TRUE))["a"]
    for variable, true in TRUE.values():
        values = found[variable].values
        error = values.std(axis=-1).mean()
        assert abs(values.mean() - true(classes)) <= (0.75 + 3 / np.sqrt(NODES)) * error + 1e-9, variable


def test_uncorrected_they_are_far_from_it(tree_of: TreeOf) -> None:
    x, y = independent("relu", 20, 8)
    plain = [replace(metric, corrected=False) for metric in TRUE if not isinstance(metric, AUROC)]
    found = pk.measure(tree_of({"a": x}, y), plain)["a"]
    for metric, (variable, true) in TRUE.items():
        if not isinstance(metric, AUROC):
            assert abs(found[variable].values.mean() - true(8)) > 1.5 * found[variable].values.std(), variable


# Normal classes one standard deviation apart, and the same two apart after a ReLU.
KNOWN: dict[str, tuple[Any, str, float, float]] = {
    "overlap": (Overlap(), "overlap", 0.6171, 0.3173),
    "ks": (KS(), "ks_mean", 0.3829, 0.6827),
    "wasserstein": (Wasserstein(), "wasserstein_mean", 1, 1),
    "information": (MutualInformation(), "mutual_information", 0.1606, 0.4859),
}


@pytest.mark.parametrize(("metric", "variable", "apart", "rectified"), KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("samples", [20, 50, 180])
def test_known_cases_keep_their_value(
    tree_of: TreeOf, metric: Any, variable: str, apart: float, rectified: float, samples: int
) -> None:
    rng, y = np.random.default_rng(samples), np.repeat([0, 1], samples)
    normal = rng.normal(size=(2 * samples, NODES))
    halves = np.where(y == 0, -1, 1)[:, None]
    tree = tree_of({"apart": normal + y[:, None], "rectified": (normal + halves).clip(min=0)}, y)
    found = pk.measure(tree, metric)
    for site, true in {"apart": apart, "rectified": rectified}.items():
        if (site, variable) == ("rectified", "mutual_information"):
            true = 0.4391  # less than the 0.4859 of normals two apart: what is below 0 isn't told apart
        values = found[site][variable].values
        assert abs(values.mean() - true) < 0.75 * values.std()


@pytest.mark.parametrize("distance", [0.0, 1.0, 4.0])
def test_dprime_and_fisher_are_unbiased(tree_of: TreeOf, distance: float) -> None:
    rng, y = np.random.default_rng(0), np.repeat([0, 1], [12, 25])
    found = pk.measure(tree_of({"a": rng.normal(size=(37, 3000)) + distance * y[:, None]}, y), [DPrime(), Fisher()])[
        "a"
    ]
    share = 12 * 25 / 37**2  # f² = p q δ²
    fisher, dprime = found["fisher"].values, found["dprime_mean"].values
    assert fisher.mean() == pytest.approx(share * distance**2, abs=4 * fisher.std() / np.sqrt(3000))
    assert dprime.mean() == pytest.approx(distance, abs=0.3 * dprime.std())


def test_what_stays_apart_and_what_is_the_same_stay_so(tree_of: TreeOf) -> None:
    y = np.repeat([0, 1], 20)
    x = np.column_stack([np.arange(40.0), np.full(40, 3.0), y])
    found = pk.measure(tree_of({"a": x}, y), [*TRUE, Entropy()])["a"]
    np.testing.assert_allclose(found["overlap"], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(found["ks_mean"], [1, 0, 1], atol=1e-12)
    np.testing.assert_allclose(found["mutual_information"], [1, 0, 1], atol=1e-12)
    np.testing.assert_allclose(found["selectivity"][1:], [0, 1], atol=1e-6)
    np.testing.assert_allclose(found["wasserstein_mean"][1:], [0, 1], rtol=1e-14)
    np.testing.assert_array_equal(found["dprime_mean"][1:], [0, np.inf])
    np.testing.assert_array_equal(found["fisher"][1:], [0, np.inf])
    np.testing.assert_allclose(found["entropy"][:, 1:], 0, atol=0.01)


@pytest.mark.parametrize("counts", [(30, 30, 30), (12, 30, 90)])
def test_the_information_is_scikit_learns_adjusted_times_its_largest(counts: tuple[int, ...]) -> None:
    rng, y = np.random.default_rng(0), np.repeat(np.arange(3), counts)
    x = rng.integers(0, 6, (len(y), 4)) + y[:, None] // 2  # atoms alone: the cells are the values
    found = MutualInformation().compute(Block.from_samples(x, y))["mutual_information"][1]
    for node, values in enumerate(x.T):
        most = min(stats.entropy(np.bincount(each)) for each in (values, y)) / np.log(2)
        expected = adjusted_mutual_info_score(y, values, average_method="min") * most
        assert found[node] == pytest.approx(expected, rel=1e-9)


def test_expected_values_are_those_of_the_hypergeometric_distribution() -> None:
    for total, chosen, drawn in [(20, 10, 5), (30, 25, 29), (7, 3, 1), (900, 90, 40), (60_000, 6000, 1875), (9, 9, 4)]:
        k = np.arange(drawn + 1)
        chance = stats.hypergeom(total, chosen, drawn).pmf(k)
        deviation = (chance * abs(k - chosen * drawn / total)).sum()
        assert mean_deviation(total, chosen, np.array([drawn]))[0] == pytest.approx(deviation, rel=1e-8, abs=1e-12)
        x_log_x = (chance * k * np.log(np.maximum(k, 1))).sum()
        assert mean_of_x_log_x(chosen, np.array([drawn]), total)[0] == pytest.approx(x_log_x, rel=1e-8, abs=1e-12)
    table = np.array([[30, 7, 3], [2, 20, 40]])
    rows, columns, total = table.sum(1), table.sum(0), table.sum()
    shuffled = mean_of_x_log_x(rows[:, None], columns, total).sum() / total - np.log(total)
    shuffled += stats.entropy(rows) + stats.entropy(columns)
    assert shuffled == pytest.approx(expected_mutual_information(table, total), rel=1e-9)


@pytest.mark.parametrize(("ours", "theirs"), [(10, 10), (10, 13), (50, 50), (20, 200)])
def test_the_expected_ks_is_that_of_shuffles(ours: int, theirs: int) -> None:
    steps = np.repeat([1 / ours, -1 / theirs], [ours, theirs])
    drawn = np.random.default_rng(0).permuted(np.broadcast_to(steps, (4000, len(steps))), axis=1)
    found = np.abs(drawn.cumsum(1)).max(1)
    assert expected_ks(np.array(ours), np.array(theirs)) == pytest.approx(found.mean(), rel=0.04)


def test_selectivity_is_cross_fitted_over_all_halves(stream: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 40)
    x = np.array([1, 1.15, 0.9, 1.1])[y] + rng.uniform(-0.6, 0.6, 160)
    state = stream(Selectivity(), x[:, None], y, 4)
    found, plain = (each.finalize(state)["selectivity"][1][0] for each in (Selectivity(), Selectivity(corrected=False)))
    assert found == pytest.approx(by_halves(x.reshape(4, 40), rng), abs=0.002)
    assert found < plain - 0.01


def by_halves(grouped: np.ndarray, rng: np.random.Generator, draws: int = 20_000) -> float:
    """The selectivity of values (class, sample) by drawing halves; of equal classes a random one is preferred."""
    classes, samples = grouped.shape
    apart = []
    for _ in range(draws):
        one, other = rng.permuted(grouped, axis=1).reshape(classes, 2, samples // 2).mean(2).T
        best = rng.choice(np.flatnonzero(one == one.max()))
        apart.append(other[best] - np.delete(other, best).mean())
    *others, most = np.sort(grouped.mean(1))
    return float(np.mean(apart) / (most + np.mean(others)))


def test_selectivity_of_sparse_nodes_is_that_of_their_halves(stream: Callable[..., Any]) -> None:
    rng, y = np.random.default_rng(0), np.repeat(np.arange(5), 20)
    on = rng.random((100, 30)) < np.where(y == 0, 0.2, 0.05)[:, None]
    x = rng.exponential(size=on.shape) * on
    found = Selectivity().finalize(stream(Selectivity(), x, y, 5))["selectivity"][1]
    expected = np.array([by_halves(each.reshape(5, 20), rng, 400) for each in x.T])
    assert found.mean() == pytest.approx(expected.mean(), abs=0.03)
    assert np.corrcoef(found, expected)[0, 1] > 0.95


@pytest.mark.parametrize("classes", [10, 20])
def test_selectivity_of_sparse_and_heavy_tailed_classes_that_are_alike_is_0(tree_of: TreeOf, classes: int) -> None:
    normal = np.random.default_rng(classes).normal(size=(classes * 10, 1000))
    sites = {"2 %": (normal - 2.05).clip(min=0), "10 %": (normal - 1.28).clip(min=0), "heavy": np.exp(2 * normal)}
    found = pk.measure(tree_of(sites, np.arange(classes * 10) % classes), Selectivity())
    for site in sites:
        values = found[site]["selectivity"]
        assert abs(values.mean()) < 0.06, site
        assert values.min() >= -1


def test_selectivity_of_a_class_of_few_active_samples_is_at_least_minus_1(tree_of: TreeOf) -> None:
    x = (np.random.default_rng(0).normal(size=(200, 1000)) - 2.05).clip(min=0)
    found = pk.measure(tree_of({"a": x}, np.arange(200) < 10), Selectivity())["a"]["selectivity"]
    assert found.min() >= -1


def test_live_they_are_those_of_a_store(tree_of: TreeOf) -> None:
    rng, y = np.random.default_rng(0), np.arange(240) % 3
    x = torch.from_numpy((rng.normal(size=(240, 6)) + 0.3 * y[:, None]).astype(np.float32))
    live = pk.measure_live(nn.Sequential(nn.ReLU()), (x, torch.from_numpy(y)), [*TRUE, Entropy()], sites="0")["0"]
    stored = pk.measure(tree_of({"0": x.clamp(min=0).numpy()}, y), [*TRUE, Entropy()])["0"]
    for variable in stored.data_vars:
        np.testing.assert_allclose(live[variable], stored[variable], rtol=1e-5, atol=1e-6, err_msg=str(variable))


def test_classes_of_many_sizes_are_corrected_alike() -> None:
    rng, sizes = np.random.default_rng(0), np.arange(20, 100)  # more sizes than are told apart
    y = np.repeat(np.arange(len(sizes)), sizes)
    found = Overlap(pairs=True).compute(Block.from_samples(rng.normal(size=(len(y), 4)), y))["overlap_pairs"][1]
    some = Block.from_samples(rng.normal(size=(len(y), 4)), y)
    pairs = np.array([found[a, b].mean() for a, b in combinations(range(len(sizes)), 2)])
    assert pairs.mean() == pytest.approx(1, abs=0.03)
    assert np.isfinite(Overlap().compute(some)["overlap_rest"][1]).all()


def test_where_nothing_can_be_known_it_is_nan(tree_of: TreeOf) -> None:
    y = np.repeat([0, 1], 3)
    x = np.arange(6.0)[:, None]
    found = pk.measure(tree_of({"a": x}, y), list(TRUE))["a"]
    assert all(np.isnan(found[variable]).all() for variable in ("ks_mean", "wasserstein_mean", "dprime_mean"))
    alone = pk.measure(tree_of({"a": x}, y), [Overlap(bins=32, min_count=1), MutualInformation(32, 1)])["a"]
    assert np.isnan(alone["overlap"]).all()  # every sample in a cell of its own
    assert np.isnan(alone["mutual_information"]).all()
    few = pk.measure(tree_of({"a": x[[0, 5]]}, np.array([0, 1])), [Fisher(), Selectivity(), DPrime(min_count=1)])["a"]
    assert all(np.isnan(few[variable]).all() for variable in ("fisher", "selectivity", "dprime_mean"))
