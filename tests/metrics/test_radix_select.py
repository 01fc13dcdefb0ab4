"""Selection over passes finds what sorting finds, in every bit."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import probekit as pk
from probekit.metrics import Block, Quantile, median
from probekit.metrics._kernels.radix_select import Read, Selection

DTYPES = [np.float16, np.float32, np.float64, np.int8, np.uint8, np.int16, np.int32, np.int64, np.bool_]


def reader(x: np.ndarray, y: np.ndarray, rows: int = 7) -> Read:
    """Gives the samples in batches of so many rows."""

    def read() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(x), rows):
            yield y[start : start + rows], x[start : start + rows]

    return read


def draw_from(dtype: type) -> st.SearchStrategy[np.ndarray]:
    kind = np.dtype(dtype)
    elements = hnp.from_dtype(kind, allow_nan=False) if kind.kind == "f" else hnp.from_dtype(kind)
    ties = [0, 1] if kind.kind in "uib" else [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf]
    some = elements | st.sampled_from([kind.type(tie) for tie in ties])
    return hnp.arrays(kind, st.tuples(st.integers(1, 30), st.integers(1, 3)), elements=some)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's own, for what lies between infinities
@pytest.mark.parametrize("choice", [0, 1, -1])
@given(
    x=st.sampled_from(DTYPES).flatmap(draw_from),
    q=st.lists(st.floats(0, 1), min_size=1, max_size=3, unique=True),
    rows=st.integers(1, 31),
)
def test_medians_and_quantiles_are_numpys(x: np.ndarray, q: list[float], rows: int, choice: int) -> None:
    y = np.arange(len(x)) % 3
    selection = Selection.choices([median, Quantile(q)], np.bincount(y, minlength=4), x.dtype)[choice]
    found = selection.select(reader(x, y, rows), x.shape[1])
    medians, quantiles = found.compute(median)["median"][1], found.compute(Quantile(q))["quantile"][1]
    floats = x if x.dtype in (np.float32, np.float64) else x.astype(np.float32 if x.dtype == np.float16 else np.float64)
    assert medians.dtype == floats.dtype
    for code in range(4):
        ours = floats[y == code]
        missing = np.full((len(q), x.shape[1]), np.nan)
        np.testing.assert_array_equal(medians[code], np.median(ours, axis=0) if len(ours) else missing[0])
        np.testing.assert_array_equal(quantiles[code], np.quantile(ours, q, axis=0) if len(ours) else missing)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_it_is_what_a_block_gives(dtype: type) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20_000, 5)).clip(0).astype(dtype), rng.integers(0, 4, 20_000)
    metrics = [median, Quantile([0.01, 0.3, 0.5, 0.99])]
    selection = Selection.choices(metrics, np.bincount(y, minlength=5), dtype)[0]
    found, block = selection.select(reader(x, y, 512), 5), Block.from_samples(x, y, 5)
    for metric in metrics:
        ((name, (dims, expected)),) = metric.compute(block).items()
        assert found.compute(metric)[name][0] == dims
        np.testing.assert_array_equal(found.compute(metric)[name][1], expected)
        assert found.compute(metric)[name][1].dtype == expected.dtype


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float16", [1, 2]), ("int8", [1, 2]), ("float32", [2, 3, 4]), ("int16", [2, 3, 4]), ("float64", [4, 6, 8])],
)
def test_it_reads_as_often_as_it_says(dtype: str, expected: list[int]) -> None:
    x, y = np.arange(100).reshape(50, 2).astype(dtype), np.zeros(50, np.int64)
    choices = Selection.choices([median], [50], dtype)
    assert [each.node_bytes for each in choices] == sorted((each.node_bytes for each in choices), reverse=True)
    for selection, passes in zip(choices, expected, strict=True):
        calls = []

        def read(calls: list[int] = calls) -> list[tuple[np.ndarray, np.ndarray]]:
            calls.append(1)
            return [(y, x)]

        np.testing.assert_array_equal(selection.select(read, 2).compute(median)["median"][1], [[49, 50]])
        assert len(calls) == selection.passes == passes


def test_memory_is_what_is_said_whatever_the_samples() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40_000, 4)).astype(np.float32), rng.integers(0, 5, 40_000)
    for selection in Selection.choices([median, Quantile()], np.bincount(y), x.dtype):
        tracemalloc.start()
        selection.select(reader(x, y, 1000), 4)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        bound = 4 * selection.node_bytes + selection.batch_bytes(1000, 4)
        assert peak <= bound
    assert selection.node_bytes < 100_000


def test_one_sample_of_a_class_and_none_of_another() -> None:
    x = np.float32([[2.5, -np.inf]])
    selection = Selection.choices([median, Quantile(0.3)], [0, 1], x.dtype)[0]
    found = selection.select(reader(x, np.array([1])), 2)
    np.testing.assert_array_equal(found.compute(median)["median"][1], [[np.nan, np.nan], [2.5, -np.inf]])
    with np.errstate(invalid="ignore"):
        assert found.compute(Quantile(0.3))["quantile"][1][1, 0, 0] == 2.5


def test_no_samples_are_not_read() -> None:
    selection = Selection.choices([median, Quantile()], [0, 0], np.float32)[0]
    found = selection.select(lambda: pytest.fail("was read"), 3)
    assert np.isnan(found.compute(median)["median"][1]).all()
    assert found.compute(Quantile())["quantile"][1].shape == (2, 3, 3)


def test_samples_that_change_between_passes_are_noticed() -> None:
    rng = np.random.default_rng(0)
    y = np.zeros(100, np.int64)
    passes = iter([rng.normal(size=(100, 1)), rng.normal(size=(100, 1))])
    selection = Selection.choices([median], [100], np.float32)[0]
    with pytest.raises(pk.errors.DataError, match="change while they are read"):
        selection.select(lambda: [(y, next(passes).astype(np.float32))], 1)
    with pytest.raises(pk.errors.DataError, match="99 samples of class 0"):
        selection.select(lambda: [(y[1:], np.ones((99, 1), np.float32))], 1)


def test_values_that_the_dtype_does_not_hold_are_refused() -> None:
    with pytest.raises(pk.errors.DataError, match="float16"):
        Selection.choices([median], [1], np.float16)[0].select(lambda: [(np.array([0]), np.float32([[0.1]]))], 1)
    with pytest.raises(pk.errors.DataError, match="complex"):
        Selection.choices([median], [1], np.complex64)


class Range:
    """A metric of someone else."""

    name, version, parameters = "range", 1, {}

    def ranks(self, number: int) -> list[int]:
        return sorted({0, number - 1})

    def from_ranks(self, counts: np.ndarray, values: list[np.ndarray]) -> pk.metrics.Variables:
        spans = [of_class[-1] - of_class[0] for of_class in values]
        return {"range": (("label", "node"), np.stack(spans))}

    def compute(self, block: Block) -> pk.metrics.Variables:
        return self.from_ranks(block.counts, [block[code].T[self.ranks(n)] for code, n in enumerate(block.counts)])


def test_any_metric_of_ranks_is_selected() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 3)).astype(np.float32), np.arange(500) % 2
    found = Selection.choices([Range(), median], [250, 250], x.dtype)[0].select(reader(x, y), 3)
    np.testing.assert_array_equal(
        found.compute(Range())["range"][1], [np.ptp(x[y == code], axis=0) for code in range(2)]
    )
