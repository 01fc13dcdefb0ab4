"""KS, AUROC and Wasserstein are scipy's and scikit-learn's, have their closed forms, and keep to their laws."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

import probekit as pk
from probekit.metrics import AUROC, KS, Block, ColumnMetric, Wasserstein, ks, wasserstein
from probekit.metrics._kernels import class_leads
from probekit.metrics._kernels.class_pairs import in_order

Draw = Callable[[np.random.Generator, int], np.ndarray]
Found = dict[str, np.ndarray]
METRICS = [KS, AUROC, Wasserstein]
PLAIN: dict[type, dict[str, bool]] = {KS: {"corrected": False}, Wasserstein: {"corrected": False}}


def compute(metric: ColumnMetric, x: np.ndarray, y: np.ndarray, classes: int | None = None) -> Found:
    return {name: array for name, (_, array) in metric.compute(Block.from_samples(x, y, classes)).items()}


def all_three(x: np.ndarray, y: np.ndarray, classes: int | None = None, min_count: int = 1) -> Found:
    found: Found = {}
    for metric in METRICS:
        found |= compute(metric(min_count=min_count, **PLAIN.get(metric, {})), x, y, classes)
    return found


@pytest.fixture(scope="module", params=[np.float32, np.float64], ids=["float32", "float64"])
def samples(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Classes of different sizes at nodes without ties, with an atom, with nothing but ties, and with infinities."""
    rng = np.random.default_rng(0)
    y = rng.choice(4, 1200, p=[0.1, 0.2, 0.3, 0.4])
    x = rng.normal(size=(1200, 5)) + 0.3 * y[:, None]
    x[:, 1] = np.maximum(x[:, 1], 0)
    x[:, 2] = np.round(2 * x[:, 2])
    x[:, 3] = np.exp(3 * x[:, 3])
    x[:, 4] = -0.0
    return x.astype(request.param), y


def test_pairs_are_scipys_with_and_without_ties(samples: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = samples
    found = all_three(x, y)
    for a, b in combinations(range(4), 2):
        for node in range(x.shape[1]):
            # In float64, which scipy's ranks otherwise aren't.
            ours, theirs = x[y == a, node].astype(float), x[y == b, node].astype(float)
            ks = stats.ks_2samp(ours, theirs, method="asymp").statistic
            auroc = stats.mannwhitneyu(theirs, ours, method="asymptotic").statistic / (len(ours) * len(theirs))
            distance = stats.wasserstein_distance(ours, theirs)
            assert found["ks"][a, b, node] == found["ks"][b, a, node] == pytest.approx(ks, rel=1e-14, abs=1e-16)
            assert found["auroc"][a, b, node] == pytest.approx(auroc, rel=1e-14)
            assert found["auroc"][b, a, node] == pytest.approx(1 - auroc, rel=1e-14)
            assert found["wasserstein"][a, b, node] == pytest.approx(distance, rel=1e-12)
            assert found["wasserstein"][b, a, node] == found["wasserstein"][a, b, node]


@pytest.mark.parametrize(("dtype", "corrected"), [(np.float32, False), (np.float64, False), (np.float32, True)])
def test_pairs_of_many_classes_are_the_same_however_few_samples_are_counted_at_a_time(
    dtype: type, corrected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, classes = np.random.default_rng(0), 70
    y = np.append(rng.integers(0, classes - 1, 2000), [3] * 400)  # the last class has none, and one has many
    x = rng.normal(size=(len(y), 3)) + 0.02 * y[:, None]
    x[:, 1] = np.maximum(np.round(x[:, 1], 1), 0)
    x = x.astype(dtype)
    whole, pairs = (
        {
            name: value
            for metric in (KS, Wasserstein)
            for name, value in compute(metric(pairs=kept, corrected=corrected), x, y, classes).items()
        }
        for kept in (None, True)
    )
    monkeypatch.setattr(class_leads, "_TILE", 5 * 70 * 32)
    monkeypatch.setattr(ks, "_ENTRIES", 100)
    monkeypatch.setattr(wasserstein, "_APART", 50)
    for metric in (KS, Wasserstein):
        for name, value in compute(metric(corrected=corrected), x[:, 1:], y, classes).items():
            np.testing.assert_array_equal(value, whole[name][..., 1:])
    for name in whole:
        np.testing.assert_array_equal(whole[name], pairs[name])
    for a, b in [] if corrected else [(0, 1), (3, 8), (2, 3), (67, 68)]:
        for node in range(3):
            ours, theirs = x[y == a, node].astype(float), x[y == b, node].astype(float)
            assert pairs["ks"][a, b, node] == pytest.approx(stats.ks_2samp(ours, theirs, method="asymp").statistic)
            distance = stats.wasserstein_distance(ours, theirs)
            assert pairs["wasserstein"][a, b, node] == pytest.approx(distance, rel=1e-12)
    assert np.isnan(pairs["ks"][69]).all()


@pytest.mark.parametrize("sizes", [[12], [130], [4, 10], [3, 5, 5, 16, 17]], ids=str)
def test_classes_of_any_sizes_are_scipys(sizes: list[int]) -> None:
    rng, classes = np.random.default_rng(0), 66
    y = np.repeat(np.arange(classes), np.resize(sizes, classes))
    x = rng.normal(size=(len(y), 2)) + 0.05 * rng.permutation(classes)[y, None]
    x[:, 1] = np.maximum(np.round(x[:, 1], 1), 0)
    found = compute(KS(pairs=True, corrected=False, min_count=4), x, y)
    few = np.bincount(y) < 4
    assert np.isnan(found["ks"][few]).all()
    for a, b in rng.choice(np.flatnonzero(~few), (40, 2)):
        for node in range(2) if a != b else ():
            expected = stats.ks_2samp(x[y == a, node], x[y == b, node], method="asymp").statistic
            assert found["ks"][a, b, node] == found["ks"][b, a, node] == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("shape", [(1000,), (1000, 1), (1000, 2), (37, 5, 1), (0, 3), (1, 1)])
def test_a_sum_in_order_has_the_bits_of_one_addition_after_the_other(shape: tuple[int, ...]) -> None:
    terms = np.random.default_rng(0).normal(size=shape) ** 5
    expected = np.zeros(shape[1:])
    for term in terms:
        expected = expected + term
    np.testing.assert_array_equal(in_order(terms), expected)
    transposed = np.moveaxis(np.ascontiguousarray(np.moveaxis(terms, 0, -1)), -1, 0)
    np.testing.assert_array_equal(in_order(transposed), expected)


def test_one_against_the_rest_is_scikit_learns(samples: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = samples
    expected = [[roc_auc_score(y == code, x[:, node]) for node in range(x.shape[1])] for code in range(4)]
    np.testing.assert_allclose(compute(AUROC(), x, y)["auroc_rest"], expected, rtol=1e-13)


def test_means_and_maxima_are_over_each_pair_once(samples: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = samples
    found = all_three(x, y)
    above = np.triu_indices(4, 1)
    for name in ("ks", "wasserstein"):
        np.testing.assert_allclose(found[f"{name}_mean"], found[name][above].mean(axis=0), rtol=1e-14)
        np.testing.assert_array_equal(found[f"{name}_max"], found[name][above].max(axis=0))


def relu(draw: Draw) -> Draw:
    return lambda rng, n: np.maximum(draw(rng, n), 0)


def normal(mean: float, std: float = 1) -> Draw:
    return lambda rng, n: rng.normal(mean, std, n)


# The classes; KS, AUROC and Wasserstein of the distributions that they are drawn from.
CLOSED_FORMS = {
    "normals one apart": (normal(0), normal(1), 2 * norm.cdf(0.5) - 1, norm.cdf(np.sqrt(0.5)), 1),
    "normals two apart": (normal(0), normal(2), 2 * norm.cdf(1) - 1, norm.cdf(np.sqrt(2)), 2),
    "normals of two widths": (normal(0), normal(0, 2), 0.1613, 0.5, np.sqrt(2 / np.pi)),
    "relu of normals two apart": (relu(normal(-1)), relu(normal(1)), 2 * norm.cdf(1) - 1, 0.8813, 1),
    "relu, mostly off": (relu(normal(-3)), relu(normal(-1)), 0.1573, 0.5787, 0.08293),
    "exponentials": (lambda rng, n: rng.exponential(1, n), lambda rng, n: rng.exponential(2, n), 0.25, 2 / 3, 1),
    "uniforms": (lambda rng, n: rng.random(n), lambda rng, n: rng.random(n) + 0.3, 0.3, 1 - 0.7**2 / 2, 0.3),
}


@pytest.mark.parametrize("case", CLOSED_FORMS.values(), ids=CLOSED_FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_closed_forms(case: tuple[Draw, Draw, float, float, float], dtype: type) -> None:
    a, b, ks, auroc, distance = case
    rng, n = np.random.default_rng(0), 50_000
    x = np.concatenate([a(rng, n), b(rng, n)])
    found = all_three(x.astype(dtype)[:, None], np.repeat([0, 1], n))
    # Standard deviations: of a difference of two shares √(1 / 2n) at most, of U √(1 / 6n), of a difference of means.
    assert found["ks"][0, 1, 0] == pytest.approx(ks, abs=3 * np.sqrt(0.5 / n) + 1e-4)
    assert found["auroc"][0, 1, 0] == pytest.approx(auroc, abs=3 * np.sqrt(1 / 6 / n) + 1e-4)
    spread = np.sqrt((x[:n].var() + x[n:].var()) / n)
    assert found["wasserstein"][0, 1, 0] == pytest.approx(distance, abs=4 * spread)
    np.testing.assert_allclose(found["auroc_rest"][:, 0], found["auroc"][[1, 0], [0, 1], 0], rtol=1e-14)


def test_what_classes_that_are_alike_give_is_as_the_docs_say() -> None:
    n, nodes = 400, 300
    x = np.random.default_rng(0).normal(size=(2 * n, nodes))
    found = all_three(x, np.arange(2 * n) % 2)
    assert found["ks"][0, 1].mean() == pytest.approx(0.87 * np.sqrt(2 / n) - 0.5 / n, rel=0.02)
    assert found["auroc"][0, 1].mean() == pytest.approx(0.5, abs=4 * np.sqrt(1 / 6 / n / nodes))
    assert found["wasserstein"][0, 1].mean() == pytest.approx(1.82 / np.sqrt(n), rel=0.05)


values = st.integers(-4, 4).map(float) | st.floats(-9, 9, width=16) | st.sampled_from([-0.0, np.inf, -np.inf])
rows = st.tuples(values, st.integers(0, 2))


@settings(max_examples=60)
@given(table=st.lists(rows, min_size=1, max_size=40), dtype=st.sampled_from([np.float32, np.float64]))
def test_they_are_their_definitions_whatever_the_values(table: list[tuple[float, int]], dtype: type) -> None:
    x, y = np.array([row[0] for row in table], dtype), np.array([row[1] for row in table])
    found = all_three(x[:, None], y, 3)
    for a in range(3):
        for b in range(3):
            ours, theirs = x[y == a], x[y == b]
            got = [found[name][a, b, 0] for name in ("ks", "auroc", "wasserstein")]
            if not len(ours) or not len(theirs):
                assert np.isnan(got).all()
                continue
            shares = [(ours <= v).mean() - (theirs <= v).mean() for v in x]
            apart = (
                theirs[None] - ours[:, None]
                if np.isfinite(x).all()
                else np.sign(theirs[None].astype(float).clip(-99, 99) - ours[:, None].clip(-99, 99))
            )
            assert got[0] == pytest.approx(np.abs(shares).max(), abs=1e-15)
            assert got[1] == pytest.approx((apart > 0).mean() + (apart == 0).mean() / 2, abs=1e-15)
            infinite = [[(group == end).mean() for end in (-np.inf, np.inf)] for group in (ours, theirs)]
            if not np.allclose(*infinite, atol=1e-12):
                assert got[2] == np.inf
            elif np.isfinite(np.concatenate([ours, theirs])).all():
                assert got[2] == pytest.approx(stats.wasserstein_distance(ours, theirs), abs=1e-12)
            else:
                assert 0 <= got[2] < 20


@settings(max_examples=60)
@given(
    ranks=hnp.arrays(np.int64, st.tuples(st.integers(2, 60), st.just(2)), elements=st.integers(0, 99)),
    steps=hnp.arrays(np.float64, 100, elements=st.floats(0.01, 1)),
)
def test_an_increasing_map_of_the_values_changes_neither_ks_nor_auroc(ranks: np.ndarray, steps: np.ndarray) -> None:
    y = np.arange(len(ranks)) % 3
    mapped = np.cumsum(steps)[ranks] - 20
    for metric in (KS(min_count=1), AUROC(min_count=1)):
        before, after = compute(metric, ranks.astype(float), y), compute(metric, mapped, y)
        for name, array in before.items():
            np.testing.assert_array_equal(after[name], array)


def test_the_distance_moves_with_shift_and_scale() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 6)), rng.integers(0, 3, 500)
    found = compute(Wasserstein(corrected=False), x, y)["wasserstein"]
    np.testing.assert_allclose(
        compute(Wasserstein(corrected=False), -3 * x + 7, y)["wasserstein"], 3 * found, rtol=1e-10
    )
    shifted = compute(Wasserstein(corrected=False), np.concatenate([x, x + 2.5]), np.repeat([0, 1], 500))["wasserstein"]
    np.testing.assert_allclose(shifted[0, 1], 2.5, rtol=1e-13)


def test_dead_and_constant_nodes_are_alike_in_all_classes_and_flagged() -> None:
    x = np.column_stack([np.zeros(90), np.full(90, 3.5), np.arange(90), np.where(np.arange(90) < 45, 0, 1)])
    found = all_three(x, np.arange(90) % 3)
    for name, value in (("ks", 0), ("auroc", 0.5), ("wasserstein", 0)):
        np.testing.assert_array_equal(found[f"{name}_constant"], [True, True, False, False])
        np.testing.assert_array_equal(found[name][..., :2], value)
    np.testing.assert_array_equal(found["auroc_rest"][:, :2], 0.5)
    assert found["ks_max"][:2].tolist() == found["wasserstein_max"][:2].tolist() == [0, 0]


def test_classes_that_never_meet_are_told_apart_wholly() -> None:
    x = np.concatenate([np.arange(30.0), np.arange(100.0, 150.0)])[:, None]
    found = all_three(x, np.repeat([0, 1], [30, 50]))
    assert found["ks"][0, 1] == found["auroc"][0, 1] == found["auroc_rest"][1] == 1
    assert found["auroc"][1, 0] == found["auroc_rest"][0] == 0
    assert found["wasserstein"][0, 1] == pytest.approx(124.5 - 14.5)  # the means


def test_infinities_of_both_classes_are_equal_and_of_one_infinitely_far() -> None:
    x = np.array([[0.0, 0.0], [np.inf, np.inf], [2.0, 2.0], [np.inf, -np.inf]])
    found = all_three(x, np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(found["wasserstein"][0, 1], [1, np.inf])
    np.testing.assert_array_equal(found["auroc"][0, 1], [(1 + 1 + 0.5) / 4, 0.25])
    np.testing.assert_array_equal(found["ks"][0, 1], [0.5, 0.5])


def test_a_small_or_missing_class_is_nan_and_counts_for_nothing() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 3, 4], [200, 150, 9, 100])
    x = rng.normal(size=(len(y), 2))
    found = all_three(x, y, 5, min_count=10)
    for name in ("ks", "auroc", "wasserstein"):
        assert np.isnan(found[name][[2, 3]]).all()
        assert np.isnan(found[name][:, [2, 3]]).all()
    np.testing.assert_array_equal(np.isnan(found["auroc_rest"][:, 0]), [False, False, True, True, False])
    kept = all_three(x[y != 3], y[y != 3], 5)
    for name, array in kept.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("samples", [50, 1])
def test_one_class_has_no_pairs(samples: int) -> None:
    found = all_three(np.arange(float(samples))[:, None], np.zeros(samples))
    assert found["ks"] == found["wasserstein"] == [[[0]]]
    assert found["auroc"] == [[[0.5]]]
    for name in ("ks_mean", "ks_max", "wasserstein_mean", "wasserstein_max", "auroc_rest"):
        assert np.isnan(found[name]).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("pairs", "classes", "kept"), [(None, 64, True), (None, 65, False), (True, 65, True), (False, 3, False)]
)
def test_pairs_are_kept_up_to_64_classes_or_as_asked(
    metric: type, pairs: bool | None, classes: int, kept: bool
) -> None:
    x, y = np.random.default_rng(0).normal(size=(12 * classes, 2)), np.arange(12 * classes) % classes
    found, whole = compute(metric(pairs=pairs), x, y), compute(metric(pairs=True), x, y)
    assert found.keys() == (whole.keys() if kept else whole.keys() - {metric.name})
    for name, array in found.items():
        np.testing.assert_array_equal(array, whole[name])


def test_ks_and_auroc_share_the_ranks_of_the_samples() -> None:
    block = Block.from_samples(np.random.default_rng(0).normal(size=(60, 7)), np.arange(60) % 3)
    expected = AUROC().compute(Block(block.values.copy(), block.offsets))["auroc"][1]
    KS().compute(block)
    block.values[...] = 0  # ranks of these, all equal, would be other ones
    np.testing.assert_array_equal(AUROC().compute(block)["auroc"][1], expected)
    assert (expected != 0.5).any()


@pytest.mark.parametrize("metric", METRICS)
def test_no_bit_depends_on_the_block_that_a_node_stands_in(metric: type) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3000, 40)).astype(np.float32), rng.integers(0, 12, 3000)
    whole = compute(metric(), x, y)
    for name, array in compute(metric(), x[:, 39:], y).items():
        np.testing.assert_array_equal(array, whole[name][..., 39:])


def test_classes_of_more_samples_than_fit_their_square_in_32_bits() -> None:
    rng, n = np.random.default_rng(0), 50_000
    x = np.round(rng.normal(size=2 * n), 2)[:, None]
    x[n:] += 0.2
    found = all_three(x, np.repeat([0, 1], n))
    assert found["ks"][0, 1, 0] == pytest.approx(
        stats.ks_2samp(x[:n, 0], x[n:, 0], method="asymp").statistic, rel=1e-14
    )


@pytest.mark.parametrize("metric", METRICS)
def test_a_bad_min_count_is_refused(metric: type) -> None:
    with pytest.raises(pk.errors.PluginError, match=f"{metric.__name__}.min_count=0"):
        metric(min_count=0)
