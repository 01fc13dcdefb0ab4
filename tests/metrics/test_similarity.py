"""CKA and RSA, against the formulas and scipy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, rankdata, spearmanr

import probekit as pk
from probekit.errors import DataError, PluginError
from probekit.metrics import CKA, RSA, Spec, State, alignment
from probekit.metrics._kernels import sample_kernels
from probekit.metrics.alignment import _batches
from probekit.testing.data import Data, Table

Metric = CKA | RSA
Arrays = Sequence[np.ndarray]


def state_of(metric: Metric, x: Arrays, y: np.ndarray, classes: int, cuts: Sequence[int] = ()) -> State:
    """The state of the metric after the samples of all sites, cut into batches at `cuts`."""
    sites, codes = [torch.tensor(site) for site in x], torch.tensor(np.asarray(y, dtype=np.int64))
    state = metric.init([Spec(site.shape[1], classes, site.dtype, site.device) for site in sites])
    bounds = [0, *sorted(cuts), len(codes)]
    for start, stop in pairwise(bounds):
        state = metric.update(state, [site[start:stop] for site in sites], codes[start:stop])
    return state


def table(metric: Metric, state: State) -> np.ndarray:
    dims, found = metric.finalize(state)[metric.name]
    assert dims == ("site", "site_b")
    assert found.dtype == np.float64
    return found


def cka_by_the_formula(x: np.ndarray, y: np.ndarray, biased: bool = False) -> float:
    """By the samples' kernels: Kornblith et al. (2019), or Song et al. (2012), eq. 5, as Murphy et al. (2024) do."""
    return hsic(x, y, biased) / np.sqrt(hsic(x, x, biased) * hsic(y, y, biased))


def hsic(x: np.ndarray, y: np.ndarray, biased: bool) -> float:
    n, kernels = len(x), [(each - each.mean(0)) @ (each - each.mean(0)).T for each in (x, y)]
    if biased:
        return float((kernels[0] * kernels[1]).sum())
    k, m = (each - np.diag(np.diag(each)) for each in kernels)
    rest = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * k.sum(0) @ m.sum(0)
    return float((np.trace(k @ m) + rest) / (n * (n - 3)))


def samples_of(x: Arrays, y: np.ndarray, classes: int) -> list[Table]:
    """The samples of all sites, as a store gives them."""
    return [Table(Data("", each, y, classes, y)) for each in x]


def read(metric: Metric, x: Arrays, y: np.ndarray, classes: int) -> np.ndarray:
    """The table of the sites of a store."""
    return metric.compute_samples(samples_of(x, y, classes))[metric.name][1]


@pytest.fixture
def sites() -> tuple[list[np.ndarray], np.ndarray]:
    """A site, one that partly repeats it, an unrelated one far from 0; of different widths and dtypes."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 6, 200)
    first = rng.normal(size=(200, 8)) + rng.normal(size=(6, 8))[y]
    second = (first @ rng.normal(size=(8, 5)) + rng.normal(size=(200, 5))).astype(np.float32)
    return [first, second, rng.normal(size=(200, 12)) * 3 + 1000], y


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("number", [4, 7, 200])
def test_cka_is_that_of_the_formula(sites: tuple[list[np.ndarray], np.ndarray], biased: bool, number: int) -> None:
    x, y = [site[:number] for site in sites[0]], sites[1][:number]
    metric = CKA(biased)
    found = table(metric, state_of(metric, x, y, 6, (1, 1, 90, 130) if number > 130 else (1, 3)))
    expected = [[cka_by_the_formula(a.astype(np.float64), b.astype(np.float64), biased) for b in x] for a in x]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(read(metric, x, y, 6), expected, rtol=1e-7, atol=1e-8)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(np.diag(found), 1)


@pytest.mark.parametrize("biased", [False, True])
def test_a_stores_samples_are_compared_in_tiles(monkeypatch: pytest.MonkeyPatch, biased: bool) -> None:
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(70, nodes)) + 1000 for nodes in (90, 40, 70)]
    x[1] += x[0][:, :40]
    monkeypatch.setattr(sample_kernels, "_BYTES", 2**13)
    expected = [[cka_by_the_formula(a, b, biased) for b in x] for a in x]
    np.testing.assert_allclose(read(CKA(biased), x, np.zeros(70, int), 1), expected, rtol=1e-9, atol=1e-12)


def test_cka_by_batches_is_near_that_of_all_samples_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(10), 100)  # sorted by class, as batches of neighbours must not be
    x = [rng.normal(size=(1000, 30)) + 2 * rng.normal(size=(10, 30))[y] for _ in range(2)]
    x.append(x[0] + rng.normal(size=(1000, 30)))
    monkeypatch.setattr(sample_kernels, "_BYTES", 8 * 3 * 50**2 * 3)  # three batches at a time
    found = CKA(batch=50).compute_samples(samples_of(x, y, 10))
    np.testing.assert_allclose(found["cka"][1], read(CKA(), x, y, 10), atol=0.03)
    assert (int(found["cka_batch"][1]), int(CKA().compute_samples(samples_of(x, y, 10))["cka_batch"][1])) == (50, 1000)
    expected = [hsic(x[0][batch], x[2][batch], False) for batch in _batches(np.arange(1000), 0, 50)]
    own = [np.mean([hsic(x[a][b], x[a][b], False) for b in _batches(np.arange(1000), 0, 50)]) for a in (0, 2)]
    np.testing.assert_allclose(found["cka"][1][0, 2], np.mean(expected) / np.sqrt(np.prod(own)), rtol=1e-9)


def test_cka_takes_batches_where_all_pairs_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    x = [np.random.default_rng(n).normal(size=(600, 20)) for n in range(2)]
    samples = samples_of(x, np.zeros(600, int), 1)
    monkeypatch.setattr(alignment, "_MOST", 600 * 40**2 - 1)
    assert int(CKA().compute_samples(samples)["cka_batch"][1]) == 300
    for whole in (CKA(batch=0), CKA(biased=True)):
        assert int(whole.compute_samples(samples)["cka_batch"][1]) == 600


@pytest.mark.parametrize(("batch", "biased"), [(3, False), (64, True)])
def test_batches_of_few_samples_or_with_bias_are_refused(batch: int, biased: bool) -> None:
    with pytest.raises(PluginError, match=rf"CKA\(biased={biased}, batch={batch}\)"):
        CKA(biased, batch)


@pytest.mark.parametrize("number", [10, 20, 50, 180, 1000])
def test_unrelated_sites_have_no_cka_with_few_samples_too(number: int) -> None:
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        found.append(read(CKA(), [rng.normal(size=(number, 100)) for _ in "ab"], np.zeros(number, int), 1)[0, 1])
    assert abs(np.mean(found)) < 2 * np.std(found)


def test_nodes_at_which_one_sample_differs_have_no_spread() -> None:
    x = [np.zeros((30, 2)), np.random.default_rng(0).normal(size=(30, 3))]
    x[0][4, 1] = 1
    y = np.zeros(30, int)
    for found in (table(CKA(), state_of(CKA(), x, y, 1, (7,))), read(CKA(), x, y, 1)):
        np.testing.assert_array_equal(np.isnan(found), [[True, True], [True, False]])


def test_cka_sees_neither_rotation_nor_scale_nor_offset() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 6)) * np.arange(1, 7)
    turned = x @ np.linalg.qr(rng.normal(size=(6, 6)))[0] * 1e-4 + 5
    np.testing.assert_allclose(table(CKA(), state_of(CKA(), [x, turned], np.zeros(100), 1)), 1, rtol=1e-9)


def test_cka_of_sites_that_share_some_of_their_directions_is_known() -> None:
    # With orthonormal columns without mean, ‖XᵀX‖² is their number, and ‖XᵀY‖² that of the shared ones.
    noise = np.random.default_rng(0).normal(size=(80, 10))
    columns = np.linalg.qr(noise - noise.mean(0))[0]
    found = table(CKA(True), state_of(CKA(True), [columns[:, :6], columns[:, 3:]], np.zeros(80), 1, (33,)))
    np.testing.assert_allclose(found[0, 1], 3 / np.sqrt(6 * 7), rtol=1e-10)


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("ranks", [False, True])
def test_rsa_is_scipys_correlation_of_its_distances(
    sites: tuple[list[np.ndarray], np.ndarray], euclidean: bool, ranks: bool
) -> None:
    x, y = sites
    metric = RSA("euclidean" if euclidean else "correlation", ranks)
    found = table(metric, state_of(metric, x, y, 6, (1, 80)))
    vectors = [pdist([site[y == c].mean(0, dtype=np.float64) for c in range(6)], metric.dissimilarity) for site in x]
    correlation = spearmanr if ranks else pearsonr
    expected = [[correlation(a, b).statistic for b in vectors] for a in vectors]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(found, found.T)


def test_rsa_gives_tied_dissimilarities_one_rank() -> None:
    rng = np.random.default_rng(0)
    corners, others = np.array([[0.0], [1], [3], [4]]), rng.normal(size=(4, 3))  # |Δ| = 1, 3, 4, 2, 3, 1
    found = table(RSA("euclidean"), state_of(RSA("euclidean"), [corners, others], np.arange(4), 4))
    np.testing.assert_allclose(found[0, 1], spearmanr(pdist(corners), pdist(others)).statistic, rtol=1e-12)


def exact_ranks(means: np.ndarray, dissimilarity: str) -> np.ndarray:
    """The ranks of dissimilarities of means that are Fractions, with their exact ties."""
    keys = []
    for a, b in combinations(means, 2):
        if dissimilarity == "euclidean":
            keys.append(sum((a - b) ** 2))
        else:
            a, b = a - sum(a) / len(a), b - sum(b) / len(b)
            covariance = sum(a * b)
            keys.append(-covariance * abs(covariance) / (sum(a * a) * sum(b * b)))  # −r |r| is in the order of 1 − r
    order = {key: number for number, key in enumerate(sorted(set(keys)))}
    return rankdata([order[key] for key in keys])


@pytest.mark.parametrize("dissimilarity", ["euclidean", "correlation"])
@pytest.mark.parametrize("seed", range(8))
def test_rsa_of_means_with_many_ties_is_that_of_exact_arithmetic(dissimilarity: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = rng.integers(-1, 2, (2, 9, 5))
    whole[:, :, 0] = 3  # so that no mean is without spread
    exact = [np.array([[Fraction(int(v), 7) for v in row] for row in site]) for site in whole]
    x = [(site / 7).repeat(3, axis=0) for site in whole]
    y = np.arange(9).repeat(3)
    metric = RSA(dissimilarity)
    first, second = (exact_ranks(site, dissimilarity) for site in exact)
    assert len(set(first)) < len(first)
    found = table(metric, state_of(metric, x, y, 9, (4, 13)))
    np.testing.assert_allclose(found[0, 1], pearsonr(first, second).statistic, rtol=1e-12)


def two_groups() -> np.ndarray:
    """Means of ten classes (class, node), of which five each are equally far from each other."""
    return np.concatenate([np.repeat(np.eye(2), 5, 0) * 0.7, np.eye(10) * 0.3], 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", [RSA("correlation"), RSA("euclidean"), RSA("euclidean", ranks=False)], ids=repr)
def test_copies_of_a_site_with_ties_are_as_similar_as_can_be(metric: RSA, dtype: type) -> None:
    rng = np.random.default_rng(0)
    y, base = np.repeat(np.arange(10), 30), two_groups()
    sites = [base, *(base * scale for scale in (0.1, 1 / 3, 1e-12, 1e12)), base[:, rng.permutation(12)]]
    if metric.dissimilarity == "euclidean" and dtype == np.float64:  # a rotation in float32 gives other numbers
        sites += [base @ np.linalg.qr(rng.normal(size=(12, 12)))[0] * scale for scale in (1, 0.1, 1e9)]
        sites += [base @ np.linalg.qr(rng.normal(size=(500, 500)))[0][:12]]
    noise = rng.normal(size=(10, 15, 1)) * 10  # the same around each mean, which it leaves where it is
    noise = np.concatenate([noise, -noise], 1).reshape(300, 1)
    x = [site.astype(dtype)[y] + (noise * abs(site).max() if dtype == np.float64 else 0) for site in sites]
    found = table(metric, state_of(metric, x, y, 10, (1, 130)))
    np.testing.assert_allclose(found, 1, rtol=1e-12 if metric.ranks or dtype == np.float64 else 1e-6)


@pytest.mark.parametrize("ranks", [True, False])
def test_a_site_whose_distances_are_equal_but_for_rounding_is_like_none(ranks: bool) -> None:
    rng = np.random.default_rng(0)
    simplex = np.eye(6) @ np.linalg.qr(rng.normal(size=(40, 40)))[0][:6]
    assert len(np.unique(pdist(simplex))) > 1
    x, y = [simplex.repeat(3, axis=0), rng.normal(size=(18, 4))], np.arange(6).repeat(3)
    metric = RSA("euclidean", ranks)
    np.testing.assert_array_equal(np.isnan(table(metric, state_of(metric, x, y, 6))), [[True, True], [True, False]])


def test_a_mean_that_is_the_same_at_all_nodes_but_for_rounding_correlates_with_none() -> None:
    rng = np.random.default_rng(0)
    x, y = [rng.normal(size=(40, 4)), rng.normal(size=(40, 4))], np.arange(40) % 4
    x[0][y == 2] = [0.3, 0.1 + 0.2, 0.1 * 3, 0.3]
    assert np.isnan(table(RSA("correlation"), state_of(RSA("correlation"), x, y, 4)))[0].all()


def test_what_differs_by_more_than_rounding_is_not_tied() -> None:
    # Squared distances of whole numbers that differ by 1 in 10^11.
    line = np.array([0.0, 300_000, 600_001, 900_003, 1_200_006])[:, None]
    found = table(RSA("euclidean"), state_of(RSA("euclidean"), [line, -line[::-1]], np.arange(5), 5))
    expected = spearmanr(pdist(line), pdist(-line[::-1])).statistic
    np.testing.assert_allclose(found[0, 1], expected, rtol=1e-12)
    assert expected < 1


def test_many_distances_near_each_other_do_not_all_tie() -> None:
    """So many that neighbours are nearer than rounding: ties must not grow from one to the next."""
    rng = np.random.default_rng(0)
    means = 1e13 + 10 * rng.normal(size=(400, 2))
    x, y = [means, means[:, ::-1].copy(), rng.normal(size=(400, 2))], np.arange(400)
    found = table(RSA("euclidean"), state_of(RSA("euclidean"), x, y, 400))
    np.testing.assert_allclose(found[0, 1], 1, rtol=1e-6)
    expected = spearmanr(pdist(means), pdist(x[2])).statistic
    np.testing.assert_allclose(found[0, 2], expected, atol=2e-3)


def test_rsa_sees_class_means_alone() -> None:
    rng = np.random.default_rng(0)
    means, y = rng.normal(size=(5, 4)), np.repeat(np.arange(5), 20)
    noise = rng.normal(size=(5, 20, 4)) * 10
    spread = means[y] + (noise - noise.mean(1, keepdims=True)).reshape(100, 4)
    metric = RSA("correlation")
    np.testing.assert_allclose(table(metric, state_of(metric, [means[y], spread], y, 5, (7,))), 1, rtol=1e-9)
    reversed_order = table(RSA("euclidean"), state_of(RSA("euclidean"), [means[y], means[y] * -3 + 1], y, 5))
    np.testing.assert_allclose(reversed_order, 1, rtol=1e-12)


@pytest.mark.parametrize("metric", [CKA(), RSA()], ids=["cka", "rsa"])
@settings(max_examples=15)
@given(data=st.data())
def test_any_split_and_any_tree_of_merges_give_the_same(metric: Metric, data: st.DataObject) -> None:
    rng = np.random.default_rng(0)
    x, y = [rng.normal(size=(40, 3)) + 1e5, rng.normal(size=(40, 5))], rng.integers(0, 4, 40)
    whole = table(metric, state_of(metric, x, y, 4))
    cuts = sorted(data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=5)))
    np.testing.assert_allclose(table(metric, state_of(metric, x, y, 4, cuts)), whole, rtol=1e-7)
    bounds = [0, *cuts, 40]
    parts = [state_of(metric, [site[start:stop] for site in x], y[start:stop], 4) for start, stop in pairwise(bounds)]
    while len(parts) > 1:
        first, second, *others = data.draw(st.permutations(range(len(parts))))
        parts = [metric.merge(parts[first], parts[second]), *(parts[other] for other in others)]
    np.testing.assert_allclose(table(metric, parts[0]), whole, rtol=1e-7)


@pytest.mark.parametrize("metric", [CKA(), RSA()], ids=["cka", "rsa"])
def test_update_merge_and_finalize_change_nothing_they_are_given(metric: Metric) -> None:
    rng = np.random.default_rng(0)
    x, y = [torch.tensor(rng.normal(size=(20, nodes))) for nodes in (2, 3)], torch.arange(20) % 4
    state = state_of(metric, [site.numpy() for site in x], y.numpy(), 4)
    kept, inputs = {key: value.clone() for key, value in state.items()}, [site.clone() for site in x]
    metric.update(state, x, y)
    metric.merge(state, state)
    np.testing.assert_array_equal(table(metric, state), table(metric, state))
    assert all(map(torch.equal, x, inputs))
    assert all(torch.equal(state[key], kept[key]) for key in kept)


def test_the_order_of_the_classes_and_empty_ones_change_nothing(sites: tuple[list[np.ndarray], np.ndarray]) -> None:
    x, y = sites
    gaps = np.array([7, 1, 3, 0, 4, 9])
    np.testing.assert_allclose(
        table(RSA(), state_of(RSA(), x, gaps[y], 11)), table(RSA(), state_of(RSA(), x, y, 6)), rtol=1e-12
    )
    np.testing.assert_array_equal(table(CKA(), state_of(CKA(), x, gaps[y], 11)), table(CKA(), state_of(CKA(), x, y, 6)))


def whitened(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The samples in coordinates in which their covariance within classes, shrunk to its diagonal, is 1."""
    rest = x - np.stack([x[y == c].mean(0) for c in range(max(y) + 1)])[y]
    free = len(x) - len(np.unique(y))
    scaled = rest / np.sqrt((rest**2).sum(0) / free)
    products = scaled[:, :, None] * scaled[:, None]  # of Schäfer and Strimmer (2005), the correlations' variances
    variances = products.var(0, ddof=1) * len(x) / free**2
    off = ~np.eye(x.shape[1], dtype=bool)
    shrunk = min(1, variances[off].sum() / ((products.sum(0) / free) ** 2)[off].sum())
    covariance = rest.T @ rest / free * np.where(off, 1 - shrunk, 1)
    return x @ np.linalg.inv(np.linalg.cholesky(covariance)).T


def of_distinct_samples(x: np.ndarray, y: np.ndarray) -> list[float]:
    """The mean of (x_i − x_j)·(x_k − x_l) over all distinct samples i, k of one class and j, l of another."""

    def within(a: np.ndarray) -> float:
        return (a.sum(0) @ a.sum(0) - (a**2).sum()) / (len(a) * (len(a) - 1))

    groups = [x[y == c] for c in range(max(y) + 1)]
    return [within(a) + within(b) - 2 * a.mean(0) @ b.mean(0) for a, b in combinations(groups, 2)]


@pytest.mark.parametrize("dissimilarity", ["crossvalidated", "crossnobis"])
def test_rsa_without_noise_multiplies_differences_of_distinct_samples(dissimilarity: str) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), [2, 5, 9, 20, 12, 7])
    x = [(rng.normal(size=(6, n))[y] + rng.normal(size=(55, n))) @ rng.normal(size=(n, n)) for n in (4, 7)]
    expected = [of_distinct_samples(whitened(each, y) if "nobis" in dissimilarity else each, y) for each in x]
    for ranks, correlation in ((False, pearsonr), (True, spearmanr)):
        metric = RSA(dissimilarity, ranks)
        found = [read(metric, x, y, 6)]
        if dissimilarity == "crossvalidated":
            found.append(table(metric, state_of(metric, x, y, 6, (1, 30))))
        for each in found:
            np.testing.assert_allclose(each[0, 1], correlation(*expected).statistic, rtol=1e-9)


@pytest.mark.parametrize("metric", [RSA(), RSA("crossnobis")], ids=repr)
def test_classes_of_unequal_size_do_not_make_unrelated_sites_alike(metric: RSA) -> None:
    y, found, plain = np.repeat(np.arange(8), [5] * 4 + [25] * 4), [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = [(rng.normal(size=(len(y), 30)) + rng.normal(size=30)).clip(min=0) for _ in "ab"]
        found.append(read(metric, x, y, 8)[0, 1])
        plain.append(read(RSA("correlation"), x, y, 8)[0, 1])
    assert abs(np.mean(found)) < np.std(found)
    assert np.mean(plain) > 0.5


def test_classes_of_one_sample_have_no_distance_without_noise() -> None:
    rng = np.random.default_rng(0)
    x, y = [rng.normal(size=(41, 3)), rng.normal(size=(41, 5))], np.append(np.arange(40) % 4, 4)
    np.testing.assert_array_equal(
        read(RSA("crossvalidated"), x, y, 5), read(RSA("crossvalidated"), [each[:40] for each in x], y[:40], 4)
    )


def test_a_running_model_has_no_crossnobis() -> None:
    with pytest.raises(PluginError, match=r"needs the samples more than once.*'crossvalidated'"):
        pk.measure_live(torch.nn.ReLU(), (torch.rand(20, 3), torch.arange(20) % 4), RSA("crossnobis"))


@pytest.mark.parametrize("metric", [CKA(), RSA(), RSA("euclidean")], ids=["cka", "rsa", "euclidean"])
@pytest.mark.parametrize("value", [0.1, np.inf])
def test_a_site_without_spread_or_with_infinities_is_like_none(metric: Metric, value: float) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 5
    x = [rng.normal(size=(60, 4)) for _ in range(3)]
    if np.isinf(value):
        x[1][44, 2] = value
    else:
        x[1][:] = value
    found = table(metric, state_of(metric, x, y, 5, (7, 44)))
    np.testing.assert_array_equal(np.isnan(found), [[False, True, False], [True] * 3, [False, True, False]])


@pytest.mark.parametrize("metric", [CKA(), RSA()], ids=["cka", "rsa"])
@pytest.mark.parametrize("rows", [0, 1])
def test_no_sample_and_one_are_nan(metric: Metric, rows: int) -> None:
    x = [np.ones((rows, 2)), np.ones((rows, 3))]
    assert np.isnan(table(metric, state_of(metric, x, np.zeros(rows), 4))).all()


@pytest.mark.parametrize(("classes", "known"), [(1, False), (2, False), (3, True)])
def test_rsa_needs_three_classes(classes: int, known: bool) -> None:
    x = [np.random.default_rng(0).normal(size=(30, 4))] * 2
    found = table(RSA(), state_of(RSA(), x, np.arange(30) % classes, 5))
    assert np.isfinite(found).all() == known


def test_a_class_mean_that_is_the_same_at_all_nodes_correlates_with_none() -> None:
    rng = np.random.default_rng(0)
    x, y = [rng.normal(size=(40, 4)), rng.normal(size=(40, 4))], np.arange(40) % 4
    x[0][y == 2] = 0.1
    assert np.isnan(table(RSA("correlation"), state_of(RSA("correlation"), x, y, 4)))[0].all()
    assert np.isfinite(table(RSA("euclidean"), state_of(RSA("euclidean"), x, y, 4))).all()


def test_an_unknown_dissimilarity_is_refused() -> None:
    with pytest.raises(PluginError, match=r"RSA\(dissimilarity='cosine'\).*'correlation', 'euclidean', 'cross"):
        RSA("cosine")


def test_sites_of_a_store_are_compared_at_its_root(
    sites: tuple[list[np.ndarray], np.ndarray], tree_of: Callable[..., xr.DataTree]
) -> None:
    x, y = sites
    tree = tree_of(dict(zip("abc", x, strict=True)), y)
    m = pk.measure(tree, [CKA(), RSA("euclidean", ranks=False), "mean"])
    assert m["cka"].sel(site="a", site_b="c").item() == m["cka"].sel(site="c", site_b="a").item()
    np.testing.assert_allclose(m["cka"].sel(site="b", site_b="a"), cka_by_the_formula(x[0], x[1]), rtol=1e-6)
    of_means = [pdist(m[name]["mean"].values) for name in "abc"]
    np.testing.assert_allclose(m["rsa"], np.corrcoef(of_means), rtol=1e-9, atol=1e-12)
    alone = pk.measure(tree, CKA(), sites=["a", "c"])["cka"]
    np.testing.assert_array_equal(alone, m["cka"].sel(site=["a", "c"], site_b=["a", "c"]))


def test_samples_are_chosen_before_sites_are_compared(tree_of: Callable[..., xr.DataTree]) -> None:
    rng = np.random.default_rng(0)
    x, y = {name: rng.normal(size=(9000, 3)).astype(np.float32) for name in "ab"}, np.arange(9000) % 5
    x["a"][17, 1] = np.nan
    kept = (np.arange(9000) % 3 < 2) & (np.arange(9000) != 17)
    few = (np.arange(9000) > 3000) | (np.arange(9000) == 17)
    m = pk.measure(tree_of(x, y), ["cka", "rsa"], where=kept)
    alone = pk.measure(tree_of({name: each[kept] for name, each in x.items()}, y[kept]), ["cka", "rsa"])
    np.testing.assert_allclose(m["cka"], alone["cka"], rtol=1e-12)
    np.testing.assert_allclose(m["rsa"], alone["rsa"], rtol=1e-12)
    m = pk.measure(tree_of(x, y), "cka", where=few, nan="omit")
    alone = pk.measure(tree_of({name: each[3001:] for name, each in x.items()}, y[3001:]), "cka")
    np.testing.assert_allclose(m["cka"], alone["cka"], rtol=1e-12)
    with pytest.raises(DataError, match="holds NaN"):
        pk.measure(tree_of(x, y), "cka")


def test_labels_are_shuffled_where_sites_are_compared_by_classes(tree_of: Callable[..., xr.DataTree]) -> None:
    rng = np.random.default_rng(0)
    y, means = np.arange(90) % 6, rng.normal(size=(6, 4))
    x = {name: means[y] + rng.normal(size=(90, 4)) for name in "ab"}  # alike in their classes alone
    m = pk.measure(tree_of(x, y), "rsa:'euclidean'", null="permute", repeats=20).sel(site="a", site_b="b")
    assert m["rsa"] > 0.6
    assert abs(m["rsa_null"]) < 0.5, m["rsa_null"].item()
