"""The largest samples of each node, against a sort of all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import probekit as pk
from probekit.errors import PluginError
from probekit.metrics import Samples, TopSamples

SamplesOf = Callable[..., Samples]


def found(metric: TopSamples, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """The rows and the values, (node, rank) each."""
    variables = metric.compute_samples(samples)
    assert {name: dims for name, (dims, _) in variables.items()} == {
        "top_samples": ("node", "rank"),
        "top_samples_value": ("node", "rank"),
    }
    rows, values = (array for _, array in variables.values())
    assert rows.dtype == np.int64
    return rows, values


def largest(x: np.ndarray, k: int) -> np.ndarray:
    """Places of the k largest at each node, by a stable sort of all."""
    return np.argsort(-x, axis=0, kind="stable")[:k].T


@settings(max_examples=50)
@given(seed=st.integers(0, 999), k=st.integers(1, 12), batch=st.integers(1, 60), ties=st.booleans())
def test_they_are_the_first_of_all_in_order(samples_of: SamplesOf, seed: int, k: int, batch: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, 4)).astype(np.float32)
    x = np.maximum(np.round(x), 0) if ties else x
    rows, values = found(TopSamples(k), samples_of(x, np.zeros(50), 1, batch=batch))
    np.testing.assert_array_equal(rows, largest(x, k))
    np.testing.assert_array_equal(values, -np.sort(-x, axis=0)[:k].T)
    assert values.dtype == x.dtype


def test_rows_are_those_of_the_store(samples_of: SamplesOf) -> None:
    x = np.random.default_rng(0).normal(size=(30, 3))
    numbers = np.arange(30) * 5 + 2
    rows, values = found(TopSamples(4), samples_of(x, np.zeros(30), 1, rows=numbers, batch=7))
    np.testing.assert_array_equal(rows, numbers[largest(x, 4)])
    assert values.dtype == np.float64


@pytest.mark.parametrize("descending", [False, True])
def test_the_order_of_the_samples_changes_no_value(samples_of: SamplesOf, descending: bool) -> None:
    x = np.sort(np.random.default_rng(0).normal(size=(1000, 2)), axis=0)[:: -1 if descending else 1]
    rows, values = found(TopSamples(3), samples_of(x, np.zeros(1000), 1))
    np.testing.assert_array_equal(rows[0], [0, 1, 2] if descending else [999, 998, 997])
    np.testing.assert_array_equal(values, -np.sort(-x, axis=0)[:3].T)


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_with_fewer_samples_there_are_as_many_ranks(samples_of: SamplesOf, rows: int) -> None:
    x = np.arange(2.0 * rows).reshape(rows, 2)
    order, values = found(TopSamples(10), samples_of(x, np.zeros(rows), 3, batch=3))
    np.testing.assert_array_equal(order, np.tile(np.arange(rows)[::-1], (2, 1)))
    np.testing.assert_array_equal(values, x[::-1].T)


def test_a_constant_node_has_the_first_rows(samples_of: SamplesOf) -> None:
    x = np.full((300, 2), 0.1)
    x[::2, 1] = -0.0
    x[1::2, 1] = 0
    rows, _ = found(TopSamples(5), samples_of(x, np.zeros(300), 1, batch=64))
    np.testing.assert_array_equal(rows, np.tile(np.arange(5), (2, 1)))


def test_infinities_are_the_largest_and_the_least(samples_of: SamplesOf) -> None:
    x = np.array([[1.0, -np.inf], [np.inf, -np.inf], [2, -np.inf], [-np.inf, 4], [np.inf, -np.inf]])
    rows, values = found(TopSamples(3), samples_of(x, np.zeros(5), 1, batch=2))
    np.testing.assert_array_equal(rows, [[1, 4, 2], [3, 0, 1]])
    np.testing.assert_array_equal(values, [[np.inf, np.inf, 2], [4, -np.inf, -np.inf]])


def test_none_at_all_is_refused() -> None:
    with pytest.raises(PluginError, match=r"TopSamples\(k=0\).*at least 1"):
        TopSamples(0)


def test_they_are_rows_of_the_store_also_where_some_are_measured(tree_of: Callable[..., xr.DataTree]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(900, 7)).astype(np.float16), rng.integers(0, 3, 900)
    m = pk.measure(tree_of({"relu": x}, y), [TopSamples(4), "max"], where={"label": [0, 2]})["relu"]
    assert (y[m["top_samples"]] != 1).all()
    np.testing.assert_array_equal(np.take_along_axis(x, m["top_samples"].values.T, 0).T, m["top_samples_value"])
    np.testing.assert_array_equal(m["top_samples_value"].sel(rank=0), m["max"].max("label"))
