"""What metrics need beside the samples counts in `memory`: it decides the tasks, and what doesn't fit is refused."""

from __future__ import annotations

import gc
import os
import re
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import Dataset

import probekit as pk
from probekit._measure.site_source import Source
from probekit.errors import ProbekitError
from probekit.metrics import Block, Samples, Spec, State, Variables
from tests import processes


def tree_of(x: np.ndarray, classes: int) -> xr.DataTree:
    root = xr.Dataset(coords={"label": ("sample", np.arange(len(x)) % classes)})
    return xr.DataTree.from_dict({"/": root, "wide": xr.Dataset({"activation": (("sample", "node"), x)})})


def never(items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
    raise AssertionError("a task was begun")


def enough(error: BaseException) -> str:
    return str(error).split("memory='")[1].split("'")[0]


@pytest.mark.parametrize(
    ("spec", "tables"), [("effective_rank", 3), ("participation_ratio", 3), ("linear_probe:method='ridge'", 4)]
)
@pytest.mark.parametrize("nodes", [12_000, 60_000])
def test_pairs_of_nodes_that_do_not_fit_are_refused_before_anything_runs(spec: str, tables: int, nodes: int) -> None:
    # Tables, which outweigh a batch of 2,048 samples in float64; and for each node a chunk of 4,096 samples, twice.
    metric, least = spec.partition(":")[0], (tables * 8 * nodes**2 + 2 * 4 * 4096 * nodes) / 2**30
    x = np.broadcast_to(np.float32(0), (nodes + 1, nodes))  # fewer samples than nodes are multiplied instead
    with pytest.raises(ProbekitError) as found:
        pk.measure(tree_of(x, 2), spec, memory="256MiB", progress=never)
    message = str(found.value)
    needed = re.match(rf"The metric '{metric}' at the {nodes} nodes of site 'wide' needs ([\d.]+) GiB, and", message)
    assert needed, message
    assert 0.99 * least <= float(needed[1]) <= 1.1 * least + 0.1
    for part in ("memory is 256 MiB", "sites=", "reduce=", f"or measure without {metric}."):
        assert part in message
    assert found.value.arguments == ("memory", "by", "sites", "reduce")


@pytest.mark.parametrize("metric", ["effective_rank", "linear_probe", "cka", "neural_collapse", "silhouette"])
def test_the_memory_that_is_asked_for_is_enough(metric: str) -> None:
    x = np.random.default_rng(0).normal(size=(300, 400)).astype(np.float32)
    with pytest.raises(ProbekitError) as found:
        pk.measure(tree_of(x, 20), metric, memory="64KiB", progress=never)
    measured = pk.measure(tree_of(x, 20), metric, memory=enough(found.value))
    xr.testing.assert_identical(measured, pk.measure(tree_of(x, 20), metric, memory="8GiB"))


asks_linux = pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak is asked of Linux")


def added(run: Callable[[], Any]) -> tuple[int, Any]:
    """The bytes that this process holds at the peak of a call beyond those before it, and what it gives."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on
    before = _held("VmRSS")
    found = run()
    return _held("VmHWM") - before, found


def _held(kind: str) -> int:
    found = re.search(kind + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def used(metrics: list[str], memory: list[str], nodes: int) -> list[int]:
    """What each of the metrics adds."""
    torch.set_num_threads(1)
    x = np.random.default_rng(0).normal(size=(1600, nodes)).astype(np.float32)
    pk.measure(tree_of(x[:, :9], 3), metrics)  # imports
    each = zip(metrics, memory, strict=True)
    return [added(lambda: pk.measure(tree_of(x, 3), metric, memory=bound))[0] for metric, bound in each]  # noqa: B023


@pytest.mark.slow
@asks_linux
def test_no_more_memory_is_used_than_was_asked_for() -> None:
    nodes, metrics, memory = 1500, ["effective_rank", "linear_probe:method='ridge'"], []  # 18 MB for all pairs of nodes
    for metric in metrics:
        with pytest.raises(ProbekitError) as found:
            pk.measure(tree_of(np.zeros((1600, nodes), np.float32), 3), metric, memory="1MiB", progress=never)
        memory.append(enough(found.value))
    for found, bound in zip(processes.call(used, metrics, memory, nodes), memory, strict=True):
        assert 8 * nodes**2 < found < float(bound.removesuffix(" MiB")) * 2**20


@pytest.mark.slow
@asks_linux
def test_states_and_temporaries_are_within_what_was_asked_for() -> None:
    metrics, memory = ["neural_collapse", "separability", "silhouette", "coactivation", "node_correlation", "svcca"], []
    for metric in metrics:
        with pytest.raises(ProbekitError) as found:
            pk.measure(tree_of(np.zeros((1600, 1500), np.float32), 3), metric, memory="1MiB", progress=never)
        memory.append(enough(found.value))
    for metric, found, bound in zip(metrics, processes.call(used, metrics, memory, 1500), memory, strict=True):
        assert found < 1.25 * float(bound.removesuffix(" MiB")) * 2**20, metric


def beside_the_results(metric: str, written: Path) -> list[int]:
    """What measurements of 96 MB for all pairs of classes add beside them, in memory and `written`."""
    torch.set_num_threads(1)
    x, found = np.random.default_rng(0).normal(size=(2000, 300)).astype(np.float32), []
    pk.measure(tree_of(x[:, :9], 3), metric)  # imports
    for out in (None, written):
        more, results = added(lambda: pk.measure(tree_of(x, 200), metric, memory="48MiB", out=out))  # noqa: B023
        found.append(more - results.nbytes)
        del results
    return found


@pytest.mark.slow
@asks_linux
@pytest.mark.parametrize("metric", ["auroc:pairs=True", "dprime:pairs=True"])
def test_a_large_table_of_results_is_held_once(metric: str, tmp_path: Path) -> None:
    in_memory, written = processes.call(beside_the_results, metric, tmp_path / "results.zarr")
    assert in_memory < 1.25 * 48 * 2**20
    assert written < 1.25 * 48 * 2**20


@pytest.mark.parametrize("metric", ["effective_rank", "rankme", "participation_ratio"])
def test_few_samples_of_many_nodes_need_what_they_are(metric: str) -> None:
    x = np.broadcast_to(np.float32(0), (500, 16_384))
    with pytest.raises(ProbekitError) as found:
        pk.measure(tree_of(x, 2), metric, memory="1MiB", progress=never)
    # They are kept, twice while they are added; a chunk of them is read, twice; and all pairs of samples.
    needed = 1.01 * (4 * x.nbytes + 3 * 8 * 500**2 + 2 * 8 * 500 * 1024) / 2**20
    assert 0.95 * needed <= float(enough(found.value).removesuffix(" MiB")) <= 1.05 * needed


def used_by_shuffles() -> int:
    torch.set_num_threads(1)
    x = np.random.default_rng(0).normal(size=(1600, 1500)).astype(np.float32)
    metrics: Any = ["std", "skewness"]
    pk.measure(tree_of(x[:, :9], 3), metrics, null="permute", repeats=20)  # imports
    return added(lambda: pk.measure(tree_of(x, 20), metrics, null="permute", repeats=120, memory="160MiB"))[0]


@pytest.mark.slow
@asks_linux
def test_the_states_of_shuffles_stay_within_the_memory() -> None:
    all_at_once = 120 * 20 * 1500 * 8 * (3 + 5)
    assert processes.call(used_by_shuffles) < 160 * 2**20 < all_at_once


def test_a_null_that_does_not_fit_is_refused_and_given_what_it_needs_measured_in_several_passes() -> None:
    x = np.random.default_rng(0).normal(size=(300, 400)).astype(np.float32)
    with pytest.raises(
        ProbekitError, match=r"One repeat of the null of std, fisher at site 'wide', nodes 0 to 399 needs [\d.]+ MiB"
    ) as found:
        pk.measure(tree_of(x, 20), ["std", "fisher"], null="permute", repeats=20, memory="2MiB", progress=never)
    memory = enough(found.value)
    few = pk.measure(tree_of(x, 20), ["std", "fisher"], null="permute", repeats=20, memory=memory)
    all_at_once = pk.measure(tree_of(x, 20), ["std", "fisher"], null="permute", repeats=20)
    for name in ("std_p", "std_q", "std_p_site", "fisher_p", "fisher_p_site"):
        np.testing.assert_array_equal(few["wide"][name], all_at_once["wide"][name])


@pytest.mark.parametrize(
    ("metrics", "options"),
    [
        (["fisher"], {"null": "permute"}),
        (["median", "fisher", "mean"], {"null": "permute", "ci": "bootstrap"}),
        (["overlap", "separability", "std"], {"null": "permute", "ci": "jackknife"}),
        (["sparsity", "fisher", "skewness"], {"null": "permute"}),  # in two ways to see positions
        (["rsa", "effective_rank", "linear_probe"], {"ci": "jackknife"}),
        (["svcca", "dprime"], {"ci": "bootstrap"}),
    ],
    ids=" ".join,
)
def test_what_is_asked_for_is_enough_for_every_site_and_step(metrics: list[str], options: dict[str, Any]) -> None:
    rng, shapes = np.random.default_rng(0), {"few": (3,), "many": (90,), "maps": (12, 4, 4)}
    dims = {1: ("sample", "node"), 3: ("sample", "channel", "y", "x")}
    root = xr.Dataset(coords={"label": ("sample", np.arange(120) % 6)})
    sites = {
        name: xr.Dataset({"activation": (dims[len(shape)], rng.random((120, *shape)))})
        for name, shape in shapes.items()
    }
    tree, asked = xr.DataTree.from_dict({"/": root, **sites}), {"repeats": 20, **options}
    with pytest.raises(ProbekitError) as found:
        pk.measure(tree, metrics, memory="1KiB", progress=never, **asked)
    measured = pk.measure(tree, metrics, memory=enough(found.value), **asked)
    # The sums over repeats are of other parts of them.
    xr.testing.assert_allclose(measured, pk.measure(tree, metrics, **asked), rtol=1e-9)


def test_comparisons_that_are_repeated_read_the_store_again_only_where_it_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng, held, found = np.random.default_rng(0), list[str](), []
    x = {name: rng.normal(size=(400, 30)).astype(np.float32) for name in "ab"}
    root = xr.Dataset(coords={"label": ("sample", np.arange(400) % 4)})
    sites = {name: xr.Dataset({"activation": (("sample", "node"), each)}) for name, each in x.items()}
    tree, hold = xr.DataTree.from_dict({"/": root, **sites}), Source.held
    with pytest.raises(ProbekitError) as raised:
        pk.measure(tree, "rsa", memory="1KiB", progress=never)
    monkeypatch.setattr(Source, "held", lambda source: held.append(source.key) or hold(source))
    for memory in ("1GiB", enough(raised.value)):
        found.append(pk.measure(tree, "rsa", ci="jackknife", repeats=20, memory=memory))
        assert bool(held) == (memory == "1GiB")
        held.clear()
    xr.testing.assert_identical(*found)


def test_auroc_of_thousands_of_classes_takes_no_table_of_their_pairs() -> None:
    rng = np.random.default_rng(0)
    x = np.round(rng.normal(size=(42_000, 2)), 1)
    y = np.arange(len(x)) % 4000
    tree = tree_of(x, 4000)
    tracemalloc.start()
    found = pk.measure(tree, "auroc", memory="64MiB")["wide"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20 < 8 * 4000**2
    assert "auroc" not in found
    for code in (0, 7, 3999):
        expected = [roc_auc_score(y == code, x[:, node]) for node in range(2)]
        np.testing.assert_allclose(found["auroc_rest"].sel(label=code), expected, rtol=1e-12)


def test_auroc_of_each_class_is_the_same_with_and_without_pairs() -> None:
    rng = np.random.default_rng(0)
    x, y = np.round(rng.normal(size=(700, 9)), 1), np.concatenate([np.arange(660) % 6, np.arange(40) % 8])
    block = Block.from_samples(x, y, 9)
    pairs, none = (pk.metrics.AUROC(pairs=keep).compute(block) for keep in (True, False))
    assert list(none) == ["auroc_rest", "auroc_constant"]
    for name in none:
        np.testing.assert_array_equal(none[name][1], pairs[name][1])
    assert np.isnan(none["auroc_rest"][1][6:]).all(), "too few samples"


@pytest.mark.parametrize("metric", ["ks", "wasserstein:pairs=True", "dprime:pairs=True", "auroc:pairs=True"])
def test_pairs_of_classes_that_do_not_fit_are_refused(metric: str) -> None:
    x = np.zeros((8000, 3), np.float32)
    with pytest.raises(ProbekitError) as found:
        pk.measure(tree_of(x, 8000), ["mean", metric], memory="256MiB", progress=never)
    name = metric.split(":")[0]
    assert re.match(
        rf"The metric '{name}' at one node of site 'wide', with 8000 observations of 8000 classes, needs [\d.]+ GiB, "
        rf"and memory is 256 MiB\. Give memory='[\d.]+ GiB' or more, .*by=.*or measure without {name}\.",
        str(found.value),
    )


def test_blocks_are_as_narrow_as_pairs_of_classes_make_them() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2200, 16)).astype(np.float32)
    y, tree, tasks = np.arange(2200) % 200, tree_of(x, 200), list[int]()

    def progress(items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
        tasks.append(total or 0)
        yield from items

    few = pk.measure(tree, "ks:pairs=True,corrected=False", memory="16MiB", progress=progress)
    xr.testing.assert_identical(few, pk.measure(tree, "ks:pairs=True,corrected=False", progress=progress))
    assert tasks[0] > tasks[1]
    column = x[:, 5].astype(float)  # scipy answers in the values' own precision, rounded in its own way
    expected = ks_2samp(column[y == 3], column[y == 9]).statistic
    np.testing.assert_allclose(few["wide"]["ks"].sel(label=3, label_b=9, node=5), expected, rtol=1e-14)


@dataclass(frozen=True)
class Table:
    """A metric of whole rows that says what it needs."""

    bytes: int
    name: ClassVar[str] = "table"
    version: ClassVar[int] = 1
    parameters: ClassVar[dict[str, Any]] = {}

    def memory(self, spec: Spec, samples: int) -> int:
        return self.bytes * spec.nodes * samples

    def compute_samples(self, samples: Samples) -> Variables:
        return {"table": ((), np.zeros(()))}


@dataclass(frozen=True)
class Square:
    """A metric of whole rows that doesn't say what it needs: a state of all pairs of nodes."""

    on_cpu: bool
    name: ClassVar[str] = "square"
    version: ClassVar[int] = 1
    parameters: ClassVar[dict[str, Any]] = {}
    scope: ClassVar[str] = "site"

    def init(self, spec: Spec) -> State:
        assert not self.on_cpu or float(torch.zeros((), device=spec.device)) == 0, "needs a device with memory"
        return {"square": torch.zeros(spec.nodes, spec.nodes, dtype=torch.float64, device=spec.device)}

    def update(self, state: State, x: torch.Tensor, y: torch.Tensor) -> State:
        return {"square": state["square"] + x.double().T @ x.double()}

    def merge(self, a: State, b: State) -> State:
        return {"square": a["square"] + b["square"]}

    def finalize(self, state: State) -> Variables:
        return {"square": ((), state["square"].sum().numpy())}


@pytest.mark.parametrize("metric", [Table(10**5), Square(on_cpu=False), Square(on_cpu=True)], ids=repr)
def test_a_metric_of_your_own_counts(metric: Any) -> None:
    x = np.ones((40, 3000), np.float32)
    needed = r"11\.\d+ GiB" if isinstance(metric, Table) else r"1\d\d\.\d MiB"
    with pytest.raises(ProbekitError, match=f"The metric '{metric.name}' at the 3000 nodes of .* needs {needed}"):
        pk.measure(tree_of(x, 2), metric, memory="100MiB", progress=never)
    assert float(pk.measure(tree_of(x, 2), metric, memory="20GiB")["wide"][metric.name]) in (0, 40 * 3000**2)


def test_a_metric_that_fails_to_say_what_it_needs_is_named() -> None:
    class Failing(Table):
        def memory(self, spec: Spec, samples: int) -> int:
            raise ValueError("too hard")

    class Field(Table):
        memory: ClassVar[Any] = "256MiB"  # something else than a method

    x = np.ones((40, 3), np.float32)
    with pytest.raises(pk.errors.PluginError, match=r"'table' failed at site 'wide'.* when it was asked .*too hard"):
        pk.measure(tree_of(x, 2), Failing(1), progress=never)
    assert "table" in pk.measure(tree_of(x, 2), Field(1))["wide"]


def test_a_metric_without_a_need_of_its_own_is_measured_as_before() -> None:
    @pk.metric
    def lowest(values: np.ndarray) -> np.ndarray:
        """Smallest value."""
        return values[0]

    x = np.random.default_rng(0).normal(size=(500, 6))
    found = pk.measure(tree_of(x, 2), lowest, memory="100KiB")["wide"]["lowest"]
    np.testing.assert_array_equal(found, [x[0::2].min(0), x[1::2].min(0)])


class Endless(Dataset[tuple[torch.Tensor, int]]):
    """So many samples that they are sure to be counted."""

    def __len__(self) -> int:
        return 10**12

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.ones(1), index % 256


RAN: list[int] = []  # the rows of each pass


class Repeating(nn.Module):
    """A module of so many nodes that the states of no metric of their pairs fit anywhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        RAN.append(len(x))
        return x.expand(-1, 500_000)


@pytest.mark.parametrize(
    ("metrics", "what"),
    [
        ("effective_rank", "The metric 'effective_rank' at site '0' with 500000 nodes"),
        (["mean", "cka"], "The metric 'cka' over the 1 sites"),
        (["median", "mean", "auroc"], "The sketch for 'median', 'auroc' at site '0' with 500000 nodes"),
    ],
)
def test_live_states_that_cannot_fit_are_refused_before_the_model_is_measured(metrics: Any, what: str) -> None:
    RAN.clear()
    model = nn.Sequential(Repeating())
    with pytest.raises(ProbekitError) as found:
        pk.measure_live(model, Endless(), metrics, sites="0", class_names=[str(n) for n in range(256)])
    message = str(found.value)
    assert re.match(
        rf"{what} needs up to [\d.]+ [GT]iB for 256 classes and \d+ rows while the model runs, all together need "
        r"[\d.]+ [GT]iB, and memory is [\d.]+ GiB \(cpu\)\. .*sites=.*reduce=.*probekit\.capture",
        message,
    ), message
    assert 0 < max(RAN) < 256, "a whole batch went through the model"


def test_few_live_samples_of_many_classes_take_what_they_are() -> None:
    """1,000 classes at 60 nodes would be 2 GB of counts."""
    x, y = torch.rand(3000, 60), torch.arange(3000) % 1000
    found = pk.measure_live(nn.Sequential(nn.Identity()), (x, y), "median", sites="0")["0"]["median"]
    np.testing.assert_array_equal(found, x.view(3, 1000, 60).median(0).values)
