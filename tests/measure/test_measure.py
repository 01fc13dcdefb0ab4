"""Measuring stores: sites and metrics, each chunk read once, bounded memory, the same results from any tasks."""

from __future__ import annotations

import os
import re
import signal
import threading
import tracemalloc
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import probekit as pk
from probekit._beats import in_turn
from probekit._sizes import format_size
from probekit.errors import PluginError
from probekit.metrics import Block, Histogram, Mean, Overlap, Sparsity, Std, Variables, median
from tests.stores import opened_counting

SAMPLES, NODES = 1000, 60
ALL = [Mean(), Std(), Sparsity(), median, Histogram(), Overlap(null="permute")]


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.maximum(np.random.default_rng(0).normal(size=(SAMPLES, NODES)), 0).astype(np.float32)


@pytest.fixture(scope="module")
def y() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4, SAMPLES)


def tree_of(y: np.ndarray, **sites: np.ndarray) -> xr.DataTree:
    root = xr.Dataset({"class_name": ("label", np.array(list("abcd"), dtype=object))}, {"label": ("sample", y)})
    children = {key: xr.Dataset({"activation": (("sample", "node"), values)}) for key, values in sites.items()}
    return xr.DataTree.from_dict({"/": root, **children})


Stored = Callable[..., tuple[xr.DataTree, Counter[str]]]


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """Writes a tree as a zarr store with chunks of the given shape, opens it, and counts the reads of each chunk."""

    def write(tree: xr.DataTree, chunk: tuple[int, int]) -> tuple[xr.DataTree, Counter[str]]:
        path = tmp_path / "a.zarr"
        encoding = {f"/{key}": {"activation": {"chunks": chunk, "compressors": None}} for key in tree.children}
        tree.to_zarr(path, encoding=encoding, consolidated=False)
        return opened_counting(path)

    return write


def test_the_whole_way_from_a_model_to_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3), torch.nn.Sigmoid())
    inputs, labels = torch.randn(300, 5), torch.arange(300) % 3
    pk.capture(model, (inputs, labels), tmp_path / "acts.zarr", sites=["1", "3"], class_names=["ant", "bee", "cat"])
    results = pk.measure(tmp_path / "acts.zarr", ["median", "std", "sparsity", "overlap"], out=tmp_path / "m.zarr")
    acts = xr.open_datatree(tmp_path / "acts.zarr", engine="zarr")
    x, y = acts["1"]["activation"].values, acts["label"].values
    opened = xr.open_datatree(tmp_path / "m.zarr", engine="zarr")
    assert list(opened.children) == list(results.children) == ["1", "3"]
    for code, name in enumerate(["ant", "bee", "cat"]):
        ours = opened["1"].to_dataset().sel(label=code)
        assert ours["class_name"] == name
        np.testing.assert_array_equal(ours["median"], np.median(x[y == code], axis=0))
        np.testing.assert_allclose(ours["std"], x[y == code].astype(float).std(0), rtol=1e-12)
        np.testing.assert_array_equal(ours["sparsity"], (x[y == code] <= 0).mean(0))
    assert results.attrs["model"] == "torch.nn.modules.container.Sequential"


@pytest.fixture(scope="module")
def whole(x: np.ndarray, y: np.ndarray) -> xr.Dataset:
    """All metrics of one site, in memory."""
    return pk.measure(tree_of(y, relu=x), ALL)["relu"].to_dataset()


@pytest.mark.parametrize("chunk", [(1000, 60), (128, 7), (300, 60), (24, 60)])
@pytest.mark.parametrize("memory", ["1GiB", "800KiB"])
def test_results_do_not_depend_on_chunks_or_memory(
    stored: Stored, x: np.ndarray, y: np.ndarray, whole: xr.Dataset, chunk: tuple[int, int], memory: str
) -> None:
    tree, _ = stored(tree_of(y, relu=x), chunk)
    found = pk.measure(tree, ALL, memory=memory)["relu"].to_dataset()
    exact = [name for name in whole.data_vars if name not in ("mean", "std")]
    assert len(exact) == 14
    xr.testing.assert_identical(found[exact], whole[exact])
    xr.testing.assert_allclose(found, whole, rtol=1e-13)


def test_memory_changes_no_bit_of_any_result(x: np.ndarray, y: np.ndarray) -> None:
    tree = tree_of(y, relu=x)
    xr.testing.assert_identical(pk.measure(tree, ALL, memory="600KiB"), pk.measure(tree, ALL))


def test_all_metrics_together_read_each_chunk_once(stored: Stored, x: np.ndarray, y: np.ndarray) -> None:
    tree, reads = stored(tree_of(y, a=x, b=x), (250, 20))
    pk.measure(tree, ALL)
    assert len(reads) == 2 * 4 * 3
    assert set(reads.values()) == {1}


def test_memory_bounds_what_there_is_at_a_time(stored: Stored) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20_000, 128)).astype(np.float32), rng.integers(0, 4, 20_000)  # 10 MB
    (tree, _), bound = stored(tree_of(y, relu=x), (1000, 16)), 6 * 2**20
    pk.measure(tree, ALL, sites="relu", memory=bound)  # imports and caches
    tracemalloc.start()
    pk.measure(tree, ALL, memory=bound)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert x.nbytes / 10 < peak < bound


def test_what_does_not_fit_is_refused_with_numbers_that_are_enough(x: np.ndarray, y: np.ndarray) -> None:
    with pytest.raises(
        pk.errors.ProbekitError,
        match=r"One node of site 'relu' with its 1000 observations needs [\d.]+ KiB, and memory is 9\.766 KiB.*"
        r"or measure without overlap: medians",
    ) as found:
        pk.measure(tree_of(y, relu=x), [median, Overlap()], memory=10_000)
    enough = str(found.value).split("memory='")[1].split("'")[0]
    assert pk.measure(tree_of(y, relu=x), [median, Overlap()], memory=enough)["relu"]["median"].shape == (4, NODES)
    with pytest.raises(pk.errors.ProbekitError, match="'lots' is not a size"):
        pk.measure(tree_of(y, relu=x), median, memory="lots")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, pytest.param(np.float64, marks=pytest.mark.slow), np.int16])
def test_columns_that_do_not_fit_are_read_several_times(stored: Stored, dtype: type) -> None:
    rng = np.random.default_rng(0)
    x, y = np.round(rng.normal(size=(100_000, 2)) * 40).astype(dtype), rng.integers(0, 4, 100_000)
    metrics = [median, "quantile:0.1,0.5", Mean(), Sparsity()]
    tree, reads = stored(tree_of(y, relu=x), (2000, 2))
    said, bound = list[str](), 530 * 2**10

    def progress(items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
        said.append(description)
        yield from items

    found = pk.measure(tree, metrics, memory=bound, progress=progress)
    assert re.fullmatch(r"measure, up to [2-9] passes a column \(.*B\)", *said)
    assert min(reads.values()) >= 2, "they did fit"
    xr.testing.assert_identical(found, pk.measure(tree, metrics))
    exact = [np.median(x[y == code].astype(found["relu"]["median"].dtype), axis=0) for code in range(4)]
    np.testing.assert_array_equal(found["relu"]["median"], exact)
    peaks = []
    for _ in range(2):  # threads that other tests left behind add to one
        tracemalloc.start()
        pk.measure(tree, metrics, memory=bound)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks) < bound + 10 * 100_000 * 8  # and what there is of each sample: its class and its row


def test_long_columns_of_wide_chunks_are_read_a_few_times(stored: Stored) -> None:
    """Tokens that take five times the memory, in one column of chunks: a task for a few nodes reads all of it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200_000, 16)).astype(np.float32), rng.integers(0, 2, 200_000)
    tree, reads = stored(tree_of(y, relu=x), (4000, 16))
    found = pk.measure(tree, [median, "quantile"], memory=x.nbytes // 5)["relu"]["median"]
    assert len(reads) == 50
    assert sum(reads.values()) <= 5 * len(reads)
    np.testing.assert_array_equal(found[:2], [np.median(x[y == code], axis=0) for code in (0, 1)])


@pytest.mark.parametrize(
    ("sites", "found"),
    [(None, ["a.0", "a.1", "b"]), ("a.*", ["a.0", "a.1"]), (["b", "a.0"], ["a.0", "b"]), ("**", ["a.0", "a.1", "b"])],
)
def test_sites_are_selected_by_name(x: np.ndarray, y: np.ndarray, sites: object, found: list[str]) -> None:
    tree = tree_of(y, **{"a.0": x, "a.1": x, "b": x})
    assert list(pk.measure(tree, median, sites=sites).children) == found


def test_a_site_is_selected_by_its_name_in_the_model(x: np.ndarray, y: np.ndarray) -> None:
    tree = tree_of(y, **{"a%2Fb": x})
    tree["a%2Fb"].attrs["site"] = "a/b"
    assert list(pk.measure(tree, median, sites="a/b").children) == ["a%2Fb"]


def test_an_unknown_site_is_said_with_what_is_near(x: np.ndarray, y: np.ndarray) -> None:
    with pytest.raises(pk.errors.SiteError, match=r"'layer\.0'.*Near: 'layers\.0'"):
        pk.measure(tree_of(y, **{"layers.0": x}), median, sites="layer.0")


def test_metrics_are_given_by_name_class_instance_or_function(x: np.ndarray, y: np.ndarray) -> None:
    @pk.metric
    def spread(values: np.ndarray) -> np.ndarray:
        return values[-1] - values[0]

    result = pk.measure(tree_of(y, relu=x), ["mean", Std, Sparsity(0.5), spread])["relu"]
    assert {"mean", "std", "sparsity", "spread"} <= set(result.data_vars)
    np.testing.assert_array_equal(result["spread"].sel(label=1), np.ptp(x[y == 1], axis=0))
    assert list(pk.measure(tree_of(y, relu=x), "median")["relu"].data_vars) == ["median"]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("meadian", "No metric 'meadian'.*Near: 'median'"),
        ([], "No metric was given"),
        (["std", Std(ddof=1)], "'std' was given twice"),
        ([np.median], "is not a metric.*@pk.metric"),
    ],
)
def test_what_is_no_metric_is_said(x: np.ndarray, y: np.ndarray, metrics: Any, message: str) -> None:
    with pytest.raises(pk.errors.PluginError, match=f"(?s){message}"):
        pk.measure(tree_of(y, relu=x), metrics)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"name": None}, r"the name None; it is a word"),
        ({"name": ""}, r"the name ''; it is a word"),
        ({"name": "my metric"}, r"the name 'my metric'; it is a word"),
        ({"name": "my/metric"}, r"the name 'my/metric'; it is a word"),
        ({"version": "1"}, r"'broken' has the version '1'; it is a whole number"),
        ({"version": True}, r"'broken' has the version True; it is a whole number"),
        ({"version": 1.5}, r"'broken' has the version 1\.5; it is a whole number"),
        ({"headline": "m"}, r"'broken' has the headline 'm'; it is a pk\.metrics\.Headline"),
    ],
)
def test_a_metric_whose_attributes_cannot_be_written_is_refused(
    x: np.ndarray, y: np.ndarray, attributes: dict[str, Any], message: str
) -> None:
    def compute(block: Block) -> Variables:
        raise AssertionError("the metric is refused before it is asked")

    broken: Any = SimpleNamespace(**{"name": "broken", "version": 1, "parameters": {}, "compute": compute} | attributes)
    with pytest.raises(pk.errors.PluginError, match=f"{message}.* author has to fix this"):
        pk.measure(tree_of(y, relu=x), broken)


class Stateless(Mean):
    """A mean, one of whose methods returns no state."""

    def __init__(self, method: str, returned: Any) -> None:
        object.__setattr__(self, method, lambda *given: returned)

    @property
    def state_key(self) -> None:  # shared with no other metric
        return None


@pytest.mark.parametrize(
    ("method", "returned", "said"),
    [
        ("init", None, "NoneType"),
        ("update", None, "NoneType"),
        ("update", torch.zeros(4), "Tensor"),
        ("init", {"sum": 0.0}, r"dict of \['float'\]"),
    ],
)
def test_a_method_that_returns_no_state_is_named(
    x: np.ndarray, y: np.ndarray, method: str, returned: Any, said: str
) -> None:
    message = f"method '{method}' of the metric 'mean' returned {said}.* at site 'relu'.* author has to fix this"
    with pytest.raises(pk.errors.PluginError, match=message):
        pk.measure(tree_of(y, relu=x), Stateless(method, returned))
    with pytest.raises(pk.errors.PluginError, match=message):
        pk.measure_live(torch.nn.Sequential(OrderedDict(relu=torch.nn.ReLU())), x, Stateless(method, returned))


@pytest.mark.parametrize("name", ["weight_alignment", "WeightAlignment", "weight_alignment:weights=1"])
def test_a_metric_that_a_name_does_not_say_is_shown_as_a_call(x: np.ndarray, y: np.ndarray, name: str) -> None:
    with pytest.raises(PluginError, match=r"by its name.*give pk\.metrics\.WeightAlignment\(weights=…\)\."):
        pk.measure(tree_of(y, a=x), name)


def test_several_metrics_in_one_name_are_told_apart(x: np.ndarray, y: np.ndarray) -> None:
    with pytest.raises(PluginError, match=r"'mean,std' is several metrics.*\['mean', 'std'\], .* an -m for each\."):
        pk.measure(tree_of(y, a=x), "mean,std")
    assert "quantile" in pk.measure(tree_of(y, a=x), "quantile:0.25,0.75")["a"]


@pytest.mark.parametrize("name", ["linear_probe", "ridge_probe"])
def test_more_folds_than_samples_or_groups_are_refused(x: np.ndarray, y: np.ndarray, name: str) -> None:
    tree, number = tree_of(y, a=x), len(y)
    root = tree.to_dataset().assign_coords(age=("sample", np.arange(number)), pair=("sample", np.arange(number) // 2))
    tree.dataset = root
    target = {"target": "age"} if name == "ridge_probe" else {}
    with pytest.raises(PluginError, match=rf"{name}' can't be measured at site '.*folds={number + 1}.*are {number}\."):
        pk.measure(tree, f"{name}:folds={number + 1}", **target)
    with pytest.raises(PluginError, match=rf"folds={number}.* there are {len(np.unique(root.pair))}\. Give fewer"):
        pk.measure(tree, f"{name}:folds={number}, split_by='pair'", **target)


@pytest.mark.parametrize("metric", [median, Mean()])
def test_nan_is_refused_with_site_and_nodes(x: np.ndarray, y: np.ndarray, metric: pk.metrics.Metric) -> None:
    holed = x.copy()
    holed[999, 7] = holed[5, 9] = holed[6, 9] = np.nan
    with pytest.raises(
        pk.errors.DataError, match=r"Site 'relu' holds NaN at 2 of its nodes 0 to .*, the first at node 7"
    ):
        pk.measure(tree_of(y, relu=holed), metric)


def test_infinities_have_a_rank_but_no_deviation(x: np.ndarray, y: np.ndarray) -> None:
    holed = x.copy()
    holed[y == 2, 3], holed[np.flatnonzero(y == 1)[0], 4] = np.inf, -np.inf
    result = pk.measure(tree_of(y, relu=holed), ALL)["relu"]
    assert result["median"].sel(label=2)[3] == result["mean"].sel(label=2)[3] == np.inf
    assert result["median"].sel(label=1)[4] == np.median(holed[y == 1, 4])
    assert result["overlap_pairs"].sel(label=2, label_b=0)[3] == 0
    assert int(np.isnan(result["std"]).sum()) == 2


class Slow:
    """A column metric that doesn't come to an end, and that nothing interrupts, before it is told to."""

    name, version, parameters = "slow", 1, {}

    def __init__(self) -> None:
        self.begun, self.end, self.ended = threading.Event(), threading.Event(), threading.Event()

    def compute(self, block: Block) -> pk.metrics.Variables:
        self.begun.set()
        self.end.wait(60)
        self.ended.set()
        return {"slow": (("node",), np.zeros(block.nodes))}


def test_ctrl_c_ends_a_measurement_whatever_its_tasks_do(y: np.ndarray, x: np.ndarray, tmp_path: Path) -> None:
    metric, before = Slow(), signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupter = threading.Thread(target=lambda: (metric.begun.wait(60), os.kill(os.getpid(), signal.SIGINT)))
    interrupter.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            pk.measure(tree_of(y, a=x, b=x), [median, metric], out=tmp_path / "m.zarr")
        assert not metric.ended.is_set(), "it was waited for"
        assert not list(tmp_path.iterdir()), "nothing is left beside the results of a tree in memory"
    finally:
        metric.end.set()
        interrupter.join()
        signal.signal(signal.SIGINT, before)


class Watched:
    """A metric of columns, which waits until there was a step of its task."""

    name, version, parameters = "watched", 1, {}

    def __init__(self) -> None:
        self.stepped = threading.Event()

    def compute(self, block: Block) -> pk.metrics.Variables:
        assert self.stepped.wait(60)
        return {"watched": (("node",), np.zeros(block.nodes))}


class WatchedSamples(Watched):
    """The same of whole rows, which waits after the first of them."""

    compute = None

    def compute_samples(self, samples: pk.metrics.Samples) -> pk.metrics.Variables:
        for _ in samples.batches():
            pass
        assert self.stepped.wait(60)
        return {"watched": ((), np.zeros(()))}


@pytest.mark.parametrize("kind", [Watched, WatchedSamples])
def test_progress_goes_on_within_a_task(kind: type[Watched], x: np.ndarray, y: np.ndarray) -> None:
    metric = kind()

    def progress(items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
        for item in items:
            metric.stepped.set()
            yield item

    pk.measure(tree_of(y, relu=x), metric, progress=progress)


class Steps:
    """A progress that counts its steps; others wait for a number of them."""

    def __init__(self) -> None:
        self.taken, self.totals, self._changed = 0, list[int | None](), threading.Condition()

    def __call__(self, items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
        self.totals.append(total)
        for item in items:
            yield item
            with self._changed:
                self.taken += 1
                self._changed.notify_all()

    def reached(self, number: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.taken >= number, timeout=60)


class Finalized:
    """A streaming metric that takes three times as long to `finalize` as to update, and tells how far that is."""

    name, version, parameters = "finalized", 1, {}

    def __init__(self, scope: str, steps: Steps, expected: tuple[int, int]) -> None:
        self.scope, self._steps, self._expected = scope, steps, expected

    def init(self, spec: Any) -> pk.metrics.State:
        return {"count": torch.zeros(1)}

    def update(self, state: pk.metrics.State, x: Any, y: torch.Tensor) -> pk.metrics.State:
        return {"count": state["count"] + len(y)}

    def merge(self, a: pk.metrics.State, b: pk.metrics.State) -> pk.metrics.State:
        return {"count": a["count"] + b["count"]}

    def seconds(self, spec: Any, samples: int) -> tuple[float, float]:
        return 1e6, 3e6

    def finalize(self, state: pk.metrics.State) -> pk.metrics.Variables:
        for number in in_turn(self._expected):
            assert self._steps.reached(number)
            assert self._steps.taken == number
        return {"finalized": ((), np.zeros(()))}


@pytest.mark.parametrize(
    ("scope", "expected", "total"),
    [
        ("node", (100, 250), 400),  # what follows the only task has as many steps more as it takes longer
        ("site", (25, 62), 100),
        ("sites", (25, 62), 100),
    ],
)
def test_what_follows_the_updates_has_its_fair_share_of_the_steps(
    scope: str, expected: tuple[int, int], total: int, x: np.ndarray, y: np.ndarray
) -> None:
    steps = Steps()
    found = pk.measure(tree_of(y, relu=x[:, :2]), Finalized(scope, steps, expected), progress=steps)
    assert (found if scope == "sites" else found["relu"])["finalized"] == 0
    assert (steps.taken, steps.totals) == (total, [total])


def test_eigenvalues_have_their_fair_share_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, decompose = list[int](), torch.linalg.eigvalsh
    # For n samples of N nodes, n N² multiplications and the time of 2 N³; or n² N and 2 n³. A value takes that of 200.
    for samples, nodes, expected in ((400, 200, 66), (60, 240, 89)):
        steps = Steps()

        def watched(table: torch.Tensor, steps: Steps = steps, expected: int = expected) -> torch.Tensor:
            begun.append(steps.taken if steps.reached(expected) else -1)
            return decompose(table)

        monkeypatch.setattr(torch.linalg, "eigvalsh", watched)
        pk.measure(tree_of(np.zeros(samples, int), a=np.eye(samples, nodes)), "stable_rank", progress=steps)
    assert begun == [66, 89]


def test_progress_counts_tasks_and_torch_keeps_its_threads(x: np.ndarray, y: np.ndarray) -> None:
    seen: list[tuple[str, int | None]] = []

    def progress(items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
        taken = list(items)
        seen.append((description, total))
        assert total == len(taken)
        yield from taken

    threads = torch.get_num_threads()
    pk.measure(tree_of(y, a=x, b=x), ALL, memory="600KiB", progress=progress)
    assert seen[0][0] == f"measure ({format_size(2 * x.nbytes)})"
    assert seen[0][1] > 2
    assert torch.get_num_threads() == threads


def test_a_single_site_keeps_all_cores_busy(monkeypatch: pytest.MonkeyPatch, x: np.ndarray, y: np.ndarray) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    widths: list[int] = []

    class Widths:
        """Notes the blocks that it is given."""

        name, version, parameters = "widths", 1, {}

        def compute(self, block: Block) -> pk.metrics.Variables:
            widths.append(block.nodes)
            return {"widths": (("node",), np.zeros(block.nodes))}

    pk.measure(tree_of(y, relu=x), Widths())
    assert len(widths) == 2


def test_an_own_dim_has_the_values_that_its_metric_says(x: np.ndarray, y: np.ndarray) -> None:
    found = pk.measure(tree_of(y, relu=x), "quantile:0.25, 0.75")["relu"]["quantile"]
    assert found.dims == ("label", "q", "node")
    expected = np.quantile(x[y == 1], 0.75, axis=0)
    np.testing.assert_array_equal(found.sel(q=0.75, label=1).values, expected)


@pytest.mark.parametrize(("kind", "type_", "near"), [("output", "Sigmoid", 0.95), ("operation", "relu", np.inf)])
def test_a_site_of_a_bounded_module_has_its_bounds(
    x: np.ndarray, y: np.ndarray, kind: str, type_: str, near: float
) -> None:
    x = np.clip(x / 2, 0, 1)
    tree = tree_of(y, act=x)
    tree["act"].attrs |= {"kind": kind, "type": type_}
    expected = ((x <= np.float32(0.05)) | (x >= np.float32(near))).mean(axis=0)
    np.testing.assert_allclose(pk.measure(tree, "saturation")["act"]["saturation_node"].values, expected)
    tree["act"].attrs["kind"] = "gradient"
    with pytest.raises(pk.errors.PluginError, match="the bounds of the activation aren't known"):
        pk.measure(tree, "saturation")
