"""Mutual information and entropy over the cells, uncorrected, are scikit-learn's and scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mutual_info_score

import probekit as pk
from probekit.metrics import Block, Entropy, Histogram, MutualInformation

PLAIN = {"bins": 32, "corrected": False}


def information(x: np.ndarray, y: np.ndarray, classes: int | None = None, **parameters: int) -> np.ndarray:
    found = MutualInformation(**PLAIN | parameters).compute(Block.from_samples(x, y, classes))
    assert {name: dims for name, (dims, _) in found.items()} == {"mutual_information": ("node",)}
    return found["mutual_information"][1]


def entropy(x: np.ndarray, y: np.ndarray, classes: int | None = None, **parameters: int) -> np.ndarray:
    found = Entropy(**PLAIN | parameters).compute(Block.from_samples(x, y, classes))
    assert {name: dims for name, (dims, _) in found.items()} == {"entropy": ("label", "node")}
    return found["entropy"][1]


@pytest.fixture(scope="module", params=[np.float32, np.float64], ids=["float32", "float64"])
def samples(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.choice(4, 1500, p=[0.1, 0.2, 0.3, 0.4])
    x = rng.normal(size=(1500, 3)) + 0.5 * y[:, None]
    x[:, 1] = np.maximum(x[:, 1], 0)
    x[:, 2] = np.round(2 * x[:, 2])
    return x.astype(request.param), y


def table_of(x: np.ndarray, y: np.ndarray, node: int, bins: int) -> np.ndarray:
    """The samples in each cell, (label, cell), as the histogram has them."""
    found = Histogram(bins).compute(Block.from_samples(x, y))
    return np.concatenate([found["histogram"][1][:, node], found["histogram_atoms"][1][:, node]], axis=-1)


@pytest.mark.parametrize("bins", [5, 32])
def test_information_is_scikit_learns_in_bits(samples: tuple[np.ndarray, np.ndarray], bins: int) -> None:
    x, y = samples
    found = information(x, y, bins=bins)
    for node in range(x.shape[1]):
        table = table_of(x, y, node, bins)
        bits = mutual_info_score(None, None, contingency=table) / np.log(2)
        assert found[node] == pytest.approx(bits, rel=1e-12)


@pytest.mark.parametrize("bins", [5, 32])
def test_entropy_is_scipys_in_bits(samples: tuple[np.ndarray, np.ndarray], bins: int) -> None:
    x, y = samples
    found = entropy(x, y, bins=bins)
    for node in range(x.shape[1]):
        expected = stats.entropy(table_of(x, y, node, bins), base=2, axis=1)
        np.testing.assert_allclose(found[:, node], expected, rtol=1e-12)


@pytest.mark.parametrize("shift", [0.125, 0.5, 1.0])
def test_uniform_classes_tell_as_many_bits_as_the_share_in_which_they_do_not_meet(shift: float) -> None:
    rng, n = np.random.default_rng(0), 40_000
    x = np.concatenate([rng.random((n, 4)), rng.random((n, 4)) + shift])
    # A bin that holds the border of the shared range mixes what is known with what isn't: at most 2 of 32.
    np.testing.assert_allclose(information(x, np.repeat([0, 1], n)), shift, atol=0.02)


def test_equal_classes_that_never_meet_tell_log2_of_their_number() -> None:
    x = (np.arange(8).repeat(400) + np.random.default_rng(0).random(3200) / 2)[:, None]
    for parameters in ({}, {"corrected": True}):
        assert information(x, np.arange(8).repeat(400), **parameters)[0] == pytest.approx(3, rel=1e-12)
    # 30 bins don't divide 8 classes evenly.
    assert 2.8 < information(x, np.arange(8).repeat(400), corrected=True, bins=None)[0] < 3


def test_the_plain_estimate_has_the_bias_that_the_docs_say() -> None:
    rng, n = np.random.default_rng(0), 1000
    found = information(rng.normal(size=(n, 400)), rng.integers(0, 5, n))
    assert found.mean() == pytest.approx(31 * 4 / (2 * n * np.log(2)), rel=0.05)  # χ² over 2 n ln 2


def test_an_increasing_map_of_the_values_changes_nothing(samples: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = samples
    mapped = np.arctan(x.astype(float))
    np.testing.assert_array_equal(information(mapped, y), information(x, y))
    np.testing.assert_array_equal(entropy(mapped, y), entropy(x, y))


def test_a_dead_or_constant_node_tells_nothing() -> None:
    x, y = np.column_stack([np.zeros(91), np.full(91, 3.5)]), np.arange(91) % 3
    np.testing.assert_array_equal(information(x, y), 0)
    np.testing.assert_array_equal(entropy(x, y), 0)
    assert not np.signbit(entropy(x, y)).any()


@pytest.mark.parametrize("samples", [10, 11, 20, 50])
def test_a_corrected_entropy_is_0_at_a_constant_node_and_never_negative(samples: int) -> None:
    y = np.arange(3 * samples) % 3
    x = np.column_stack([np.zeros(len(y)), np.where(y == 2, np.arange(len(y)), 0)])  # classes 0 and 1 are in one cell
    found = entropy(x, y, corrected=True)
    np.testing.assert_array_equal(found[:, 0], 0)
    assert (found >= 0).all()
    assert not np.signbit(found).any()


def test_entropy_is_log2_of_the_cells_over_which_a_class_is_even() -> None:
    x, y = np.arange(640.0)[:, None], np.arange(640) % 2
    np.testing.assert_allclose(entropy(x, y), 5, rtol=1e-14)
    np.testing.assert_allclose(entropy(x, y, bins=8), 3, rtol=1e-14)


def test_infinities_are_values_as_others() -> None:
    x = np.array([-np.inf] * 20 + [0.0] * 20 + [np.inf] * 20)[:, None]
    finite = np.array([-1.0] * 20 + [0.0] * 20 + [1.0] * 20)[:, None]
    y = np.repeat([0, 1, 1], 20)
    assert information(x, y) == information(finite, y)
    assert information(x, y)[0] == pytest.approx(stats.entropy([1, 2], base=2), rel=1e-14)
    np.testing.assert_allclose(entropy(x, y)[:, 0], [0, 1], atol=1e-15)


def test_a_small_or_missing_class_is_nan_or_left_out() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 3], [200, 150, 9])
    x = np.round(rng.normal(size=(len(y), 2)))
    np.testing.assert_array_equal(np.isnan(entropy(x, y, 4)[:, 0]), [False, False, True, True])
    found = information(x, y, 4)
    for node in range(2):
        table = table_of(x, y, node, 32)[:2]
        bits = mutual_info_score(None, None, contingency=table) / np.log(2)
        assert found[node] == pytest.approx(bits, rel=1e-12)


@pytest.mark.parametrize("samples", [50, 1])
def test_one_class_alone_tells_nothing_that_is_known(samples: int) -> None:
    x, y = np.arange(float(samples))[:, None], np.zeros(samples)
    assert np.isnan(information(x, y)).all()
    assert np.isnan(entropy(x, y)).all() == (samples < 10)


@pytest.mark.parametrize("metric", [MutualInformation, Entropy])
def test_no_bit_depends_on_the_block_that_a_node_stands_in(metric: type) -> None:
    rng = np.random.default_rng(0)
    x, y = np.maximum(rng.normal(size=(3000, 40)), 0), rng.integers(0, 12, 3000)
    x[:, 3] = rng.integers(0, 50, 3000)  # many atoms
    whole = metric().compute(Block.from_samples(x, y))[metric.name][1]
    for node in (0, 39):
        alone = metric().compute(Block.from_samples(x[:, [node]], y))[metric.name][1]
        np.testing.assert_array_equal(alone[..., 0], whole[..., node])


@pytest.mark.parametrize("metric", [MutualInformation, Entropy])
@pytest.mark.parametrize("name", ["bins", "min_count"])
def test_bad_parameters_are_refused(metric: type, name: str) -> None:
    with pytest.raises(pk.errors.PluginError, match=f"{name}=0"):
        metric(**{name: 0})
