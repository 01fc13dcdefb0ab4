"""Overlap has the value that its definition, closed forms and laws say."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, permutations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm

import probekit as pk
from probekit.metrics import Block, Overlap

Draw = Callable[[np.random.Generator, int], np.ndarray]


def overlap(x: np.ndarray, y: np.ndarray, classes: int | None = None, **parameters: object) -> dict[str, np.ndarray]:
    variables = Overlap(**{"min_count": 1, "bins": 32, "corrected": False, **parameters}).compute(
        Block.from_samples(x, y, classes)
    )
    return {name: array for name, (_, array) in variables.items()}


def relu(draw: Draw) -> Draw:
    return lambda rng, n: np.maximum(draw(rng, n), 0)


def normal(mean: float, std: float = 1) -> Draw:
    return lambda rng, n: rng.normal(mean, std, n)


CLOSED_FORMS = {
    "normals one apart": (normal(0), normal(1), 2 * norm.cdf(-0.5)),
    "normals two apart": (normal(0), normal(2), 2 * norm.cdf(-1)),
    "normals of two widths": (normal(0), normal(0, 2), 0.6773),
    "relu of normals two apart": (relu(normal(-1)), relu(normal(1)), 2 * norm.cdf(-1)),
    "relu, mostly off": (relu(normal(-3)), relu(normal(-1)), 0.8427),
    "exponentials": (lambda rng, n: rng.exponential(1, n), lambda rng, n: rng.exponential(2, n), 0.75),
    "uniforms": (lambda rng, n: rng.random(n), lambda rng, n: rng.random(n) + 0.3, 0.7),
}


@pytest.mark.parametrize("case", CLOSED_FORMS.values(), ids=CLOSED_FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_closed_forms(case: tuple[Draw, Draw, float], dtype: type) -> None:
    a, b, expected = case
    rng, n, bins = np.random.default_rng(0), 50_000, 32
    x = np.concatenate([a(rng, n), b(rng, n)]).astype(dtype)[:, None]
    found = overlap(x, np.repeat([0, 1], n))
    # Sampling lowers it by at most what it takes from identical classes, and scatters by about 1 / (2 √n).
    low, high = np.sqrt(bins / np.pi / n) + 2 / np.sqrt(n), 0.004 + 2 / np.sqrt(n)
    for name in ("overlap", "overlap_max"):
        assert expected - low < found[name][0] < expected + high
    assert found["overlap_pairs"][0, 1, 0] == found["overlap"][0]
    np.testing.assert_allclose(found["overlap_rest"], found["overlap"][0], rtol=1e-12)


@pytest.mark.parametrize(("n", "classes", "miss"), [(125, 10, 0.27), (1000, 2, 0.10), (6000, 2, 0.041)])
def test_classes_that_are_alike_miss_one_as_the_docs_say(n: int, classes: int, miss: float) -> None:
    x = np.random.default_rng(0).normal(size=(n * classes, 40)).astype(np.float32)
    found = overlap(x, np.arange(n * classes) % classes)
    assert 1 - found["overlap"].mean() == pytest.approx(miss, rel=0.08)


def definition(x: np.ndarray, y: np.ndarray, bins: int) -> dict[tuple[int, int], Fraction]:
    """Overlap of the pairs of classes at one node, from METRICS' words in exact fractions."""
    counts = {code: int((y == code).sum()) for code in np.unique(y)}
    atoms = {v for v in x if (x == v).sum() >= 2 and (x == v).sum() * 100 >= len(x)}
    rest = sorted((v, Fraction(1, counts[code])) for v, code in zip(x, y, strict=True) if v not in atoms)
    total = sum(weight for _, weight in rest)
    below = lambda value: sum(weight for v, weight in rest if v <= value)
    edges = [min(v for v, _ in rest if below(v) * bins > edge * total) for edge in range(1, bins)] if rest else []
    cell = lambda v: ("atom", v) if v in atoms else ("bin", sum(edge <= v for edge in edges))
    shares = {code: {} for code in counts}
    for v, code in zip(x + 0.0, y, strict=True):
        shares[code][cell(v)] = shares[code].get(cell(v), 0) + Fraction(1, counts[code])
    return {
        (a, b): sum(min(share, shares[b].get(where, 0)) for where, share in shares[a].items())
        for a, b in combinations(counts, 2)
    }


def test_the_order_of_classes_decides_no_tie() -> None:
    """The mixture of the others has a number and a half of samples in a cell, but for the last digits of a sum."""
    x = np.repeat(np.float32([0, 1]), [5, 7])[:, None]
    y = np.array([1, 2, 2, 2, 3, 0, 0, 1, 1, 1, 1, 1])
    rest = overlap(x, y, 4, bins=5, corrected=True)["overlap_rest"]
    for order in map(np.array, permutations(range(4))):
        permuted = overlap(x, order[y], 4, bins=5, corrected=True)["overlap_rest"]
        np.testing.assert_allclose(permuted[order], rest, rtol=1e-12)


@settings(max_examples=50)
@given(
    x=st.sampled_from([np.float32, np.float64]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            st.integers(2, 50),
            elements=st.floats(-9, 9, width=16) | st.integers(-3, 3).map(float) | st.sampled_from([-0.0, np.inf]),
        )
    ),
    bins=st.integers(1, 8),
    data=st.data(),
)
def test_it_is_the_definition_in_exact_fractions(x: np.ndarray, bins: int, data: st.DataObject) -> None:
    y = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(x), max_size=len(x))))
    found = overlap(x[:, None], y, 3, bins=bins)
    pairs = {pair: float(value) for pair, value in definition(x, y, bins).items()}
    for (a, b), value in pairs.items():
        assert found["overlap_pairs"][a, b, 0] == found["overlap_pairs"][b, a, 0] == value
    expected = (np.mean(list(pairs.values())), max(pairs.values())) if pairs else (np.nan, np.nan)
    np.testing.assert_allclose((found["overlap"][0], found["overlap_max"][0]), expected, rtol=1e-14)


@settings(max_examples=50)
@given(
    ranks=hnp.arrays(np.int64, st.tuples(st.integers(2, 60), st.just(2)), elements=st.integers(0, 99)),
    steps=hnp.arrays(np.float64, 100, elements=st.floats(0.01, 1)),
)
def test_an_increasing_map_of_the_values_changes_nothing(ranks: np.ndarray, steps: np.ndarray) -> None:
    y = np.arange(len(ranks)) % 3
    mapped = np.cumsum(steps)[ranks] - 20
    before, after = overlap(ranks.astype(float), y, bins=6), overlap(mapped, y, bins=6)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_relu_never_lowers_it() -> None:
    rng, n = np.random.default_rng(0), 20_000
    means = rng.normal(size=(2, 1, 30))
    x = (rng.normal(size=(2, n, 30)) + means).reshape(2 * n, 30)
    y = np.repeat([0, 1], n)
    before, after = overlap(x, y)["overlap"], overlap(np.maximum(x, 0), y)["overlap"]
    assert (after > before - 3 / np.sqrt(n)).all()
    assert (after > before + 0.05).any()


def test_one_against_the_rest_is_one_pair_against_the_mixture() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [400, 300, 300])
    x = (rng.integers(0, 6, 1000) + y).astype(float)[:, None]  # atoms alone: the cells don't depend on the classes
    share = np.stack([np.bincount(x[y == code, 0].astype(int), minlength=9) / (y == code).sum() for code in range(3)])
    expected = [np.minimum(share[c], np.delete(share, c, 0).mean(0)).sum() for c in range(3)]
    np.testing.assert_allclose(overlap(x, y)["overlap_rest"][:, 0], expected, rtol=1e-12)


def test_the_null_is_the_overlap_of_shuffled_labels() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [900, 300, 150])
    x = np.maximum(rng.normal(size=(len(y), 60)) + y[:, None], 0).astype(np.float32)
    site = xr.Dataset({"activation": (("sample", "node"), x)}, {"label": ("sample", y)})
    found = pk.measure(site, "overlap:bins=32,corrected=False,null='permute'")["activation"]
    shuffled = overlap(x, rng.permutation(y))["overlap"]
    null = found["overlap_null"]
    assert null.values.mean() == pytest.approx(shuffled.mean(), abs=5 * shuffled.std() / np.sqrt(60))
    assert null.values.std() == pytest.approx(shuffled.std(), rel=0.5)
    assert null.values.mean() > found["overlap"].values.mean() + 0.1
    assert not any(name.endswith(("_p", "_q", "_null_std")) for name in found.data_vars)  # one shuffle gives no such


def test_dead_and_constant_nodes_overlap_wholly_and_are_flagged() -> None:
    x = np.column_stack([np.zeros(90), np.full(90, 3.5), np.arange(90), np.where(np.arange(90) < 45, 0, 1)])
    found = overlap(x, np.arange(90) % 3)
    np.testing.assert_array_equal(found["overlap_constant"], [True, True, False, False])
    for name in ("overlap", "overlap_max"):
        np.testing.assert_array_equal(found[name][:2], 1)
    np.testing.assert_array_equal(found["overlap_pairs"][:, :, :2], 1)
    np.testing.assert_array_equal(found["overlap_rest"][:, :2], 1)


def test_classes_that_never_meet_overlap_by_nothing() -> None:
    x = np.concatenate([np.arange(320.0), np.arange(1000.0, 1320.0)])[:, None]
    assert overlap(x, np.repeat([0, 1], 320))["overlap"] == 0


def test_a_small_or_missing_class_is_nan_and_in_no_mean() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 3], [200, 200, 9])
    x = rng.normal(size=(409, 2))
    found = overlap(x, y, 4, min_count=10)
    assert np.isnan(found["overlap_pairs"][[2, 3]]).all()
    assert np.isnan(found["overlap_pairs"][:, [2, 3]]).all()
    np.testing.assert_array_equal(found["overlap"], found["overlap_pairs"][0, 1])
    np.testing.assert_array_equal(np.isnan(found["overlap_rest"][:, 0]), [False, False, True, True])
    np.testing.assert_array_equal(found["overlap_pairs"][[0, 1], [0, 1]], 1)


def test_one_class_has_no_pairs() -> None:
    found = overlap(np.arange(50.0)[:, None], np.zeros(50))
    assert np.isnan([found["overlap"], found["overlap_max"], found["overlap_rest"][0]]).all()
    assert found["overlap_pairs"] == [[[1]]]


@pytest.mark.parametrize(
    ("pairs", "classes", "kept"), [(None, 64, True), (None, 65, False), (True, 65, True), (False, 3, False)]
)
def test_pairs_are_kept_up_to_64_classes_or_as_asked(pairs: bool | None, classes: int, kept: bool) -> None:
    x = np.random.default_rng(0).normal(size=(20 * classes, 1))
    found = overlap(x, np.arange(20 * classes) % classes, pairs=pairs)
    assert ("overlap_pairs" in found) == kept
    assert 0 < found["overlap"][0] < found["overlap_max"][0] < 1


@pytest.mark.parametrize(("name", "value"), [("bins", 0), ("null", "bootstrap"), ("min_count", 0)])
def test_bad_parameters_are_refused(name: str, value: object) -> None:
    with pytest.raises(pk.errors.PluginError, match=f"{name}={value!r}"):
        Overlap(**{name: value})
