"""Histograms count every sample once, over edges and atoms as defined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import probekit as pk
from probekit.metrics import Block, Histogram, Variables

values = st.floats(-100, 100, width=32) | st.integers(-2, 2).map(float) | st.sampled_from([-0.0, np.inf, -np.inf])


def histogram(x: np.ndarray, y: np.ndarray, classes: int, **parameters: object) -> dict[str, np.ndarray]:
    variables: Variables = Histogram(**parameters).compute(Block.from_samples(x, y, classes))
    assert {name: dims for name, (dims, _) in variables.items()} == {
        "histogram": ("label", "node", "bin"),
        "histogram_edges": ("node", "edge"),
        "histogram_atoms": ("label", "node", "atom"),
        "histogram_atom": ("node", "atom"),
    }
    return {name: array for name, (_, array) in variables.items()}


@pytest.mark.parametrize("edges", ["mass", "width"])
@settings(max_examples=40)
@given(
    x=st.sampled_from([np.float32, np.float64]).flatmap(
        lambda dtype: hnp.arrays(dtype, st.tuples(st.integers(1, 60), st.integers(1, 3)), elements=values)
    ),
    bins=st.integers(1, 9),
)
def test_every_sample_is_counted_once(x: np.ndarray, bins: int, edges: str) -> None:
    y = np.arange(len(x)) % 3
    found = histogram(x, y, 4, bins=bins, edges=edges)
    assert found["histogram"].shape == (4, x.shape[1], bins)
    assert found["histogram"].dtype == np.int64
    assert (found["histogram"] >= 0).all()
    total = found["histogram"].sum(-1) + found["histogram_atoms"].sum(-1)
    np.testing.assert_array_equal(total, np.bincount(y, minlength=4)[:, None].repeat(x.shape[1], 1))


@pytest.mark.parametrize("edges", ["mass", "width"])
def test_counts_are_numpys_between_the_edges_that_are_given(edges: str) -> None:
    rng = np.random.default_rng(0)
    x, y = np.maximum(rng.normal(size=(3000, 4)), 0).astype(np.float32), rng.integers(0, 3, 3000)
    found = histogram(x, y, 3, bins=16, edges=edges)
    np.testing.assert_array_equal(found["histogram_atom"], np.zeros((4, 1)))
    for node in range(4):
        at = found["histogram_edges"][node]
        for code in range(3):
            ours = x[y == code, node]
            np.testing.assert_array_equal(found["histogram"][code, node], np.histogram(ours[ours > 0], at)[0])
            assert found["histogram_atoms"][code, node, 0] == (ours == 0).sum()
        positive = x[x[:, node] > 0, node]
        assert (at[0], at[-1]) == (positive.min(), positive.max())
        if edges == "width":
            np.testing.assert_allclose(np.diff(at), (at[-1] - at[0]) / 16, rtol=1e-4)


def test_bins_hold_equal_shares_of_the_class_balanced_mixture() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=6400), rng.normal(3, 1, size=320)])[:, None]
    y = np.repeat([0, 1], [6400, 320])
    found = histogram(x, y, 2, bins=32)
    share = (found["histogram"] / np.array([6400, 320])[:, None, None]).mean(0)
    np.testing.assert_allclose(share, 1 / 32, atol=1 / 640)  # one sample of the small class
    assert found["histogram_atom"].shape == (1, 0)


def test_equal_classes_fill_bins_equally() -> None:
    found = histogram(np.arange(64.0)[:, None], np.arange(64) % 2, 2, bins=32)
    np.testing.assert_array_equal(found["histogram"].sum(0), np.full((1, 32), 2))


def test_an_atom_holds_one_in_a_hundred_samples_and_two_at_least() -> None:
    distinct = np.arange(1000.0) + 0.5
    x = np.stack([distinct, distinct, distinct], axis=1)
    x[:10, 0], x[:9, 1], x[::2, 2] = 7, 7, -1
    found = histogram(x, np.zeros(1000), 1)
    np.testing.assert_array_equal(found["histogram_atom"], [[7], [np.nan], [-1]])
    np.testing.assert_array_equal(found["histogram_atoms"][0], [[10], [0], [500]])
    few = histogram(np.array([[1.0, 2.0, 3.0], [1.0, 5.0, 4.0]]), np.array([0, 0]), 1)
    np.testing.assert_array_equal(few["histogram_atom"], [[1], [np.nan], [np.nan]])


def test_a_node_of_atoms_alone_has_no_bins() -> None:
    x = np.tile([[0.0, 1.0], [0.0, 2.0]], (50, 1)).astype(np.float32)
    found = histogram(x, np.arange(100) % 2, 2, bins=4)
    assert np.isnan(found["histogram_edges"]).all()
    assert (found["histogram"] == 0).all()
    np.testing.assert_array_equal(found["histogram_atom"], [[0, np.nan], [1, 2]])
    np.testing.assert_array_equal(found["histogram_atoms"], [[[50, 0], [50, 0]], [[50, 0], [0, 50]]])


def test_minus_zero_and_zero_are_one_value() -> None:
    found = histogram(np.array([[0.0], [-0.0], [5.0]], np.float32), np.zeros(3), 1, bins=2)
    np.testing.assert_array_equal(found["histogram_atom"], [[0]])
    np.testing.assert_array_equal(found["histogram_atoms"], [[[2]]])


def test_infinities_fall_into_the_outer_bins_of_equal_width() -> None:
    x = np.array([[-np.inf], [0.0], [1.0], [2.0], [4.0], [np.inf]])
    found = histogram(x, np.zeros(6), 1, bins=4, edges="width")
    np.testing.assert_array_equal(found["histogram_edges"], [[0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(found["histogram"], [[[2, 1, 1, 2]]])


def test_equal_widths_span_the_whole_range_of_floats() -> None:
    x = np.array([[-3e38], [0.0], [3e38]], np.float32)
    np.testing.assert_allclose(
        histogram(x, np.zeros(3), 1, bins=2, edges="width")["histogram_edges"], [[-3e38, 0, 3e38]], atol=1e31
    )


@pytest.mark.parametrize(("name", "value"), [("bins", 0), ("edges", "equal")])
def test_bad_parameters_are_refused(name: str, value: object) -> None:
    with pytest.raises(pk.errors.PluginError, match=f"{name}={value!r}"):
        Histogram(**{name: value})
