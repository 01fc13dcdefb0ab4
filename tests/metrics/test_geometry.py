"""Neighbours, class-distance normalized variance, alignment and uniformity, against scikit-learn and the formulas."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import xarray as xr
from scipy.spatial.distance import cdist, pdist
from scipy.special import hyp0f1
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

import probekit as pk
from probekit.errors import PluginError
from probekit.metrics import CDNV, Alignment, KNNAccuracy, Samples, State, Uniformity
from probekit.metrics._kernels.row_sampling import draws, stratified

Stream = Callable[..., State]
SamplesOf = Callable[..., Samples]


def clusters(samples: int = 240, nodes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.minimum(rng.geometric(0.4, samples) - 1, 3)
    return (rng.normal(size=(samples, nodes)) + 0.8 * rng.normal(size=(4, nodes))[y]).astype(np.float32), y


def numbers(variables: dict[str, tuple[tuple[str, ...], np.ndarray]]) -> dict[str, float]:
    return {name: float(array) for name, (dims, array) in variables.items() if dims == ()}


@pytest.mark.parametrize(("neighbours", "distance"), [(1, "euclidean"), (5, "euclidean"), (5, "cosine")])
@pytest.mark.parametrize("grouped", [False, True])
def test_neighbours_are_scikit_learns(samples_of: SamplesOf, neighbours: int, distance: str, grouped: bool) -> None:
    x, y = clusters()
    units = np.arange(240) // 8 if grouped else np.arange(240)
    model = KNeighborsClassifier(neighbours, metric=distance, algorithm="brute")
    if grouped:
        hits = cross_val_predict(model, x.astype(np.float64), y, groups=units, cv=LeaveOneGroupOut()) == y
    else:  # of the samples themselves, scikit-learn's neighbours leave each out
        nearest = model.fit(x.astype(np.float64), y).kneighbors(return_distance=False)
        hits = np.array([np.bincount(y[each]).argmax() for each in nearest]) == y
    metric = KNNAccuracy(neighbours, distance)
    found = numbers(metric.compute_samples(samples_of(x, y, 4, units=units, batch=70)))
    # scikit-learn takes the first class of equally many votes, which 5 neighbours of 4 classes often have.
    assert abs(found["knn_accuracy"] - hits.mean()) <= (0 if neighbours == 1 else 0.05)
    if neighbours == 1:
        shares = [hits[y == code].mean() for code in range(4)]
        np.testing.assert_allclose(found["knn_accuracy_balanced"], np.mean(shares))
    assert found["knn_accuracy_chance"] == np.bincount(y).max() / 240
    assert found["knn_accuracy_balanced_chance"] == 1 / 4
    assert abs(found["knn_accuracy_balanced_shuffled"] - 1 / 4) < 0.05 < found["knn_accuracy_balanced"] - 1 / 4
    if not grouped:
        p = found["knn_accuracy"]
        np.testing.assert_allclose(found["knn_accuracy_se"], np.sqrt(p * (1 - p) / 240))


def test_of_equally_many_votes_the_nearest_counts(samples_of: SamplesOf) -> None:
    # The neighbours of the sample at 0, by distance: classes 1, 0, 0, 1; and those far away see each other.
    x = np.array([0, 0.1, 0.25, -0.3, -0.45, 50, 50.1, 50.2, 50.3, 50.4])[:, None]
    y = np.array([1, 1, 0, 0, 1, 2, 2, 2, 2, 2])
    found = KNNAccuracy(4, shuffles=0).compute_samples(samples_of(x, y, 3))
    distances, hits = cdist(x, x), []
    for i in range(10):
        votes = y[[n for n in np.argsort(distances[i]) if n != i][:4]]
        counts = [(votes == vote).sum() for vote in votes]
        hits.append(votes[np.argmax(counts)] == y[i])
    assert hits[0]
    assert found["knn_accuracy"][1] == np.mean(hits)
    assert "knn_accuracy_shuffled" not in found


def test_equally_near_samples_are_drawn(samples_of: SamplesOf) -> None:
    y = np.repeat(np.arange(4), 100)  # in order: the first ones are all of class 0
    x = np.zeros((400, 2))
    found = numbers(KNNAccuracy().compute_samples(samples_of(x, y, 4)))
    assert abs(found["knn_accuracy"] - 0.25) < 0.1
    far = np.concatenate([x, [[7.0, 7], [7, 7.1]]])
    again = KNNAccuracy().compute_samples(samples_of(far, np.append(y, [0, 1]), 4))
    assert abs(again["knn_accuracy"][1] - 0.25) < 0.1


def test_neighbours_of_some_are_among_all(samples_of: SamplesOf) -> None:
    x, y = clusters()
    chosen = stratified(y, draws(np.arange(240), 3), 60)
    model, hits = KNeighborsClassifier(1), []
    for i in chosen:
        others = np.arange(240) != i
        hits.append(model.fit(x[others], y[others]).predict(x[[i]])[0] == y[i])
    found = KNNAccuracy(1, size=60, seed=3).compute_samples(samples_of(x, y, 4))
    np.testing.assert_allclose(found["knn_accuracy"][1], np.mean(hits))
    assert found["knn_accuracy_size"][1] == 60
    same = KNNAccuracy(1, size=60, seed=3).compute_samples(samples_of(x.astype(np.float64) * 64 + 1e4, y, 4, batch=33))
    assert same["knn_accuracy"][1] == found["knn_accuracy"][1]


def test_more_neighbours_than_samples_take_no_memory(tree_of: Callable[..., xr.DataTree]) -> None:
    x, y = clusters()
    with pytest.warns(pk.errors.MissingWarning, match="more samples than neighbours"):
        found = pk.measure(tree_of({"a": x}, y), f"knn_accuracy:neighbours={10**9}", memory="64MiB")
    assert np.isnan(found["a"]["knn_accuracy"])
    with pytest.warns(pk.errors.MissingWarning, match="one of several samples"):
        alone = pk.measure(tree_of({"a": x}, np.arange(len(x))), "knn_accuracy")
    assert np.isnan(alone["a"]["knn_accuracy"])


@pytest.mark.parametrize("rows", [0, 1, 5, 6])
def test_too_few_neighbours_and_infinities_are_nan(samples_of: SamplesOf, rows: int) -> None:
    x, y = np.arange(2.0 * rows).reshape(rows, 2), np.arange(rows) % 2
    found = numbers(KNNAccuracy().compute_samples(samples_of(x, y, 3)))
    assert found.pop("knn_accuracy_size") == rows
    assert np.isnan([*found.values()]).all() == (rows < 6)
    x = np.append(x, [[np.inf, 0]] * 3, axis=0)
    infinite = numbers(KNNAccuracy().compute_samples(samples_of(x, np.append(y, [0, 1, 2]), 3)))
    assert np.isnan(infinite["knn_accuracy"])


@pytest.mark.parametrize(
    ("metric", "wrong", "said"),
    [
        (KNNAccuracy, {"distance": "manhattan"}, "'euclidean' or 'cosine'"),
        (KNNAccuracy, {"neighbours": 0}, "neighbours must be a whole number of at least 1"),
        (KNNAccuracy, {"size": 0}, "size must be"),
        (KNNAccuracy, {"shuffles": -1}, "shuffles must be"),
        (Uniformity, {"size": 1}, "size must be a whole number of at least 2"),
        (Uniformity, {"t": 0}, "t must be a finite number above 0"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(metric: type, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(PluginError, match=said):
        metric(**wrong)


def test_the_stratified_draw_has_every_class_and_its_share() -> None:
    y = np.repeat(np.arange(5), [1000, 100, 10, 1, 400])
    chosen = stratified(y, draws(np.arange(1511), 0), 150)
    assert (np.diff(chosen) > 0).all()
    assert np.abs(np.bincount(y[chosen]) - [99, 10, 1, 1, 40]).max() <= 1
    np.testing.assert_array_equal(stratified(y, draws(np.arange(1511), 0), 2000), np.arange(1511))


@pytest.mark.parametrize("offset", [0, 1e4])
def test_cdnv_is_the_mean_over_the_pairs(stream: Stream, offset: float) -> None:
    x, y = clusters()
    gaps = np.array([0, 2, 3, 5])[y]
    x = x.astype(np.float64) + offset
    for unbiased in (False, True):
        metric = CDNV(unbiased=unbiased)
        found = {name: array for name, (_, array) in metric.finalize(stream(metric, x, gaps, 7, (30, 100))).items()}
        table = np.full((7, 7), np.nan)
        for a, b in combinations([0, 2, 3, 5], 2):
            of_a, of_b = x[gaps == a] - offset, x[gaps == b] - offset
            va, vb = (np.trace(np.cov(each.T, ddof=int(unbiased))) for each in (of_a, of_b))
            distance = np.square(of_a.mean(0) - of_b.mean(0)).sum()
            if unbiased:  # by the products of different samples alone
                within = sum(
                    (np.square(each.sum(0)).sum() - np.square(each).sum()) / (len(each) * (len(each) - 1))
                    for each in (of_a, of_b)
                )
                distance = within - 2 * of_a.mean(0) @ of_b.mean(0)
            table[a, b] = table[b, a] = (va + vb) / 2 / distance
        np.testing.assert_allclose(found["cdnv_pairs"], table, rtol=1e-6)
        pairs = table[np.triu_indices(7, 1)]
        np.testing.assert_allclose(found["cdnv"], np.nanmean(pairs), rtol=1e-6)
        np.testing.assert_allclose(found["cdnv_median"], np.nanmedian(pairs), rtol=1e-6)
        # Of so few samples unbiased differs by 1 / E[1/σ²], which tests of noise look at.
        np.testing.assert_allclose(found["cdnv_inverse"], np.nanmean(1 / pairs), rtol=0.1 if unbiased else 1e-6)


@pytest.mark.parametrize("scale", [(1, 1, 1), (3, 1, 0.5), (1,)])
@pytest.mark.parametrize("sizes", [(2,), (5,), (2, 7)])
def test_cdnv_inverse_of_noise_is_0_for_few_samples_at_few_nodes(
    stream: Stream, scale: tuple[float, ...], sizes: tuple[int, ...]
) -> None:
    if scale == (1,) and 2 in sizes:
        pytest.skip("two degrees of freedom")
    rng, y = np.random.default_rng(0), np.repeat(np.arange(60), np.resize(sizes, 60))
    runs = [rng.normal(size=(len(y), len(scale))) * scale for _ in range(40)]
    found = np.array([CDNV().finalize(stream(CDNV(), x, y, 60))["cdnv_inverse"][1] for x in runs])
    assert abs(found.mean()) < 3 * found.std(ddof=1) / np.sqrt(len(runs))


def test_cdnv_inverse_of_pairs_of_two_samples_at_one_node_is_left_out(stream: Stream) -> None:
    x = np.random.default_rng(0).normal(size=(4, 1))
    found = numbers(CDNV().finalize(stream(CDNV(), x, np.array([0, 0, 1, 1]), 2)))
    assert np.isnan(found["cdnv_inverse"])
    assert found["cdnv"] > 0


def test_cdnv_of_noise_is_infinite_and_of_points_0(stream: Stream) -> None:
    rng, y = np.random.default_rng(0), np.repeat(np.arange(6), 10)
    runs = [CDNV().finalize(stream(CDNV(), rng.normal(size=(60, 50)), y, 6)) for _ in range(6)]
    inverse = np.array([run["cdnv_inverse"][1] for run in runs])
    assert abs(inverse.mean()) < inverse.std(ddof=1)
    assert all(run["cdnv"][1] == np.inf for run in runs)
    plug_in = CDNV(unbiased=False).finalize(stream(CDNV(unbiased=False), rng.normal(size=(60, 50)), y, 6))
    assert plug_in["cdnv"][1] < 7  # n / 2
    points = numbers(CDNV().finalize(stream(CDNV(), np.eye(6)[y], y, 6)))
    assert points == {"cdnv": 0, "cdnv_median": 0, "cdnv_inverse": np.inf}
    same = numbers(CDNV().finalize(stream(CDNV(), np.ones((60, 2)), y, 6)))
    assert np.isnan([*same.values()]).all()
    alone = numbers(CDNV().finalize(stream(CDNV(), np.eye(6), np.arange(6), 6)))
    assert np.isnan([*alone.values()]).all()


def test_an_infinite_value_is_nan_for_the_pairs_of_its_class(stream: Stream) -> None:
    x, y = clusters()
    x[np.flatnonzero(y == 0)[3], 2] = np.inf
    found = CDNV().finalize(stream(CDNV(), x, y, 4, (50,)))
    assert np.isnan(found["cdnv"][1])
    assert np.isfinite(found["cdnv_pairs"][1][1:, 1:]).sum() == 6


def test_alignment_is_the_mean_distance_of_pairs(stream: Stream) -> None:
    x, y = clusters()
    x = np.append(x, np.zeros((3, 5), np.float32), axis=0)  # without a direction
    y = np.append(y, [0, 1, 2])
    gaps = np.array([0, 2, 3, 5])[y]
    found = {name: array for name, (_, array) in Alignment().finalize(stream(Alignment(), x, gaps, 6, (9, 70))).items()}
    f = x[:240].astype(np.float64) / np.linalg.norm(x[:240].astype(np.float64), axis=1, keepdims=True)
    within = [np.mean(pdist(f[y[:240] == code], "sqeuclidean")) for code in range(4)]
    np.testing.assert_allclose(found["alignment_classes"][[0, 2, 3, 5]], within, rtol=1e-12)
    assert np.isnan(found["alignment_classes"][[1, 4]]).all()
    np.testing.assert_allclose(found["alignment"], np.mean(within), rtol=1e-12)
    between = [cdist(f[y[:240] == a], f[y[:240] == b], "sqeuclidean").mean() for a, b in combinations(range(4), 2)]
    np.testing.assert_allclose(found["alignment_between"], np.mean(between), rtol=1e-12)


def test_alignment_of_one_direction_of_nothing_and_of_infinities(stream: Stream) -> None:
    y = np.arange(8) % 2
    one = numbers(Alignment().finalize(stream(Alignment(), np.outer(np.arange(1, 9), [1, 2]), y, 2)))
    np.testing.assert_allclose([one["alignment"], one["alignment_between"]], 0, atol=1e-15)
    nothing = numbers(Alignment().finalize(stream(Alignment(), np.zeros((8, 2)), y, 2)))
    assert np.isnan([*nothing.values()]).all()
    x = np.ones((8, 2))
    x[0] = np.inf
    infinite = Alignment().finalize(stream(Alignment(), x, y, 2))
    np.testing.assert_allclose(infinite["alignment_classes"][1], [np.nan, 0], atol=1e-15)


@pytest.mark.parametrize("t", [2.0, 0.5])
def test_uniformity_is_that_of_all_pairs(samples_of: SamplesOf, t: float) -> None:
    x, y = clusters(600)
    x[5] = 0
    found = numbers(Uniformity(t).compute_samples(samples_of(x, y, 4)))
    there = np.delete(x, 5, axis=0).astype(np.float64)
    f = there / np.linalg.norm(there, axis=1, keepdims=True)
    expected = np.log(np.exp(-t * pdist(f, "sqeuclidean")).mean())
    np.testing.assert_allclose(found["uniformity"], expected, rtol=1e-12)
    assert found["uniformity_size"] == 599
    some = Uniformity(t, size=100, seed=2).compute_samples(samples_of(x[6:], y[6:], 4))
    taken = np.argsort(draws(np.arange(594), 2))[:100]
    expected = np.log(np.exp(-t * pdist(f[5:][taken], "sqeuclidean")).mean())
    np.testing.assert_allclose(some["uniformity"][1], expected, rtol=1e-12)


@pytest.mark.parametrize("nodes", [1, 3, 200])
def test_uniform_directions_come_to_the_floor(samples_of: SamplesOf, nodes: int) -> None:
    x = np.random.default_rng(0).normal(size=(2000, nodes))
    found = numbers(Uniformity().compute_samples(samples_of(x, np.zeros(2000), 1)))
    np.testing.assert_allclose(found["uniformity"], found["uniformity_floor"], atol=0.02)
    np.testing.assert_allclose(found["uniformity_floor"], np.log(hyp0f1(nodes / 2, 4.0)) - 4)
    if nodes == 1:  # equal or opposite, by chance
        np.testing.assert_allclose(found["uniformity_floor"], np.log((1 + np.exp(-8)) / 2))


@pytest.mark.parametrize("value", [0.0, np.inf])
def test_uniformity_of_nothing_and_of_infinities_is_nan(samples_of: SamplesOf, value: float) -> None:
    found = numbers(Uniformity().compute_samples(samples_of(np.full((4, 2), value), np.zeros(4), 1)))
    assert np.isnan(found["uniformity"])
    one = numbers(Uniformity().compute_samples(samples_of(np.ones((1, 2)), np.zeros(1), 1)))
    assert np.isnan(one["uniformity"])


def test_a_store_has_them_all(tree_of: Callable[..., xr.DataTree], samples_of: SamplesOf, stream: Stream) -> None:
    x, y = clusters()
    m = pk.measure(tree_of({"a": x}, y), ["knn_accuracy", "cdnv", "alignment", "uniformity", "separability"])["a"]
    for metric in (KNNAccuracy(), Uniformity()):
        for name, (_, array) in metric.compute_samples(samples_of(x, y, 4)).items():
            np.testing.assert_allclose(m[name], array, rtol=1e-12)
    for streaming in (CDNV(), Alignment()):
        for name, (_, array) in streaming.finalize(stream(streaming, x, y, 4)).items():
            np.testing.assert_allclose(m[name], array, rtol=1e-9)
