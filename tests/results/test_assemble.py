"""The tree of results: what its variables say of themselves, errors for a metric's author, and the store written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import xarray as xr

import probekit as pk
from probekit.metrics import Block, Histogram, Mean, Overlap, Sparsity, Std, Variables, median

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 200)


@pytest.fixture
def tree() -> xr.DataTree:
    """Two sites: one without ties, and a ReLU whose node 5 has two more atoms."""
    x = RNG.normal(size=(200, 40)).astype(np.float32)
    relu = np.maximum(x, 0)
    relu[:60, 5], relu[60:110, 5] = 1, 2
    root = xr.Dataset(
        {"class_name": ("label", ["ant", "bee", "cat"])},
        {"label": ("sample", LABELS)},
        {"model": "tests.Net", "created": "2026-01-01", "probekit_format": 1},
    )
    sites = {"layers.0": x, "relu": relu}
    children = {
        key: xr.Dataset({"activation": (("sample", "node"), v)}, attrs={"type": "T"}) for key, v in sites.items()
    }
    return xr.DataTree.from_dict({"/": root, **children})


class Column:
    """A column metric of a test's own making."""

    version, parameters = 1, {}

    def __init__(self, name: str, compute: Callable[[Block], Variables]) -> None:
        self.name, self.compute = name, compute


def test_every_variable_says_what_it_is(tree: xr.DataTree) -> None:
    results = pk.measure(tree, [Std(ddof=1), Overlap(null="permute")])
    assert list(results.children) == ["layers.0", "relu"]
    assert results["relu"].attrs == {"site": "relu", "type": "T"}
    assert results.attrs == {
        "probekit_version": pk.__version__,
        "by": "label",
        "model": "tests.Net",
        "created": "2026-01-01",
    }
    attrs = results["relu"]["overlap_null"].attrs
    assert json.loads(attrs.pop("parameters")) == {
        "bins": 32,
        "null": "permute",
        "seed": 0,
        "min_count": 10,
        "pairs": None,
    }
    assert attrs == {"metric": "overlap", "version": 1, "n": 200, "dtype": "float32", "approximate": 0}
    assert json.loads(results["relu"]["std"].attrs["parameters"]) == {"ddof": 1}


def test_classes_are_coordinates_of_single_and_paired_results(tree: xr.DataTree) -> None:
    result = pk.measure(tree, [median, Overlap()])["relu"]
    assert result["overlap_pairs"].dims == ("label", "label_b", "node")
    assert set(result["median"].coords) == {"label", "class_name"}
    assert set(result["overlap_pairs"].coords) == {"label", "class_name", "label_b", "class_name_b"}
    assert result["overlap_pairs"].sel(label=0, label_b=2)["class_name_b"].item() == "cat"


def test_blocks_with_fewer_atoms_are_padded(tree: xr.DataTree) -> None:
    narrow = pk.measure(tree, Histogram(bins=4), memory="150KiB")["relu"]
    atom = narrow["histogram_atom"]
    assert atom.dims == ("node", "atom")
    np.testing.assert_array_equal(atom[[4, 5]], [[0, np.nan, np.nan], [0, 1, 2]])
    np.testing.assert_array_equal(narrow["histogram_atoms"].sum("label")[4, 1:], [0, 0])
    assert narrow["histogram_atoms"].dtype == np.int64
    counted = narrow["histogram"].sum("bin") + narrow["histogram_atoms"].sum("atom")
    assert (counted == np.bincount(LABELS)[:, None]).all()


def test_the_store_written_is_the_tree_returned_and_opens_in_xarray(tree: xr.DataTree, tmp_path: Path) -> None:
    out = tmp_path / "new" / "metrics.zarr"
    metrics = [Mean(), Std(), Sparsity(), median, Histogram(), Overlap(null="permute")]
    returned = pk.measure(tree, metrics, out=out)
    opened = xr.open_datatree(out, engine="zarr")
    xr.testing.assert_identical(opened.load(), returned)
    assert [path.name for path in out.parent.iterdir()] == ["metrics.zarr"]


def test_results_without_any_atom_can_be_written(tree: xr.DataTree, tmp_path: Path) -> None:
    pk.measure(tree, Histogram(), sites="layers.0", out=tmp_path / "m.zarr")
    assert xr.open_datatree(tmp_path / "m.zarr", engine="zarr")["layers.0"]["histogram_atoms"].shape == (3, 40, 0)


def test_what_stands_at_out_is_never_replaced(tree: xr.DataTree, tmp_path: Path) -> None:
    (tmp_path / "m.zarr").write_text("mine")
    with pytest.raises(pk.errors.StoreError, match=r"m\.zarr exists already"):
        pk.measure(tree, median, out=tmp_path / "m.zarr")
    assert (tmp_path / "m.zarr").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_found_before_measuring(tree: xr.DataTree, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    never = Column("never", lambda block: pytest.fail("measured before the output was checked"))
    with pytest.raises(pk.errors.StoreError, match=r"can't be written to .*file"):
        pk.measure(tree, never, out=tmp_path / "file" / "m.zarr")


def stopping(error: type[BaseException]) -> Any:
    """A progress that raises `error` after the first task."""

    def stop(items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
        yield next(iter(items))
        raise error

    return stop


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_measurement_of_an_open_tree_that_is_stopped_leaves_nothing(
    tree: xr.DataTree, tmp_path: Path, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        pk.measure(tree, median, out=tmp_path / "m.zarr", progress=stopping(error))
    assert list(tmp_path.iterdir()) == []


class Counted(Column):
    """A column metric that keeps count of the nodes that it was given."""

    seen: ClassVar[list[int]] = []

    def __init__(self, version: int = 1) -> None:
        super().__init__("counted", self.count)
        self.version = version

    def count(self, block: Block) -> Variables:
        self.seen.append(block.nodes)
        return {"counted": (("node",), block.values[:, -1])}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three sites of 8 nodes."""
    return captured(tmp_path / "acts.zarr")


def captured(path: Path, **options: Any) -> Path:
    model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
    pk.capture(model, (torch.randn(50, 8), torch.arange(50) % 2), path, sites=["0", "1", "2"], **options)
    return path


def stopped(store: Path, metrics: Any) -> Path:
    """A measurement that is stopped after its first task; the path where it would have written."""
    with pytest.raises(KeyboardInterrupt):
        pk.measure(store, metrics, out=store.parent / "m.zarr", progress=stopping(KeyboardInterrupt))
    assert not (store.parent / "m.zarr").exists()
    return store.parent / "m.zarr"


def test_a_measurement_that_was_stopped_goes_on(store: Path) -> None:
    Counted.seen.clear()
    metrics = [Counted(), "std", "overlap"]
    out = stopped(store, metrics)
    done = len(Counted.seen)
    found = pk.measure(store, metrics, out=out)
    # The task in progress when the first measurement stopped may have ended after it.
    assert 1 <= done <= 3
    assert len(Counted.seen) <= 2 + done
    assert {path.name for path in out.parent.iterdir()} == {"acts.zarr", "m.zarr"}
    xr.testing.assert_identical(found, pk.measure(store, metrics))


@pytest.mark.parametrize(
    ("metrics", "options"),
    [([Counted(version=2)], {}), ([Counted()], {"by": None}), ([Counted()], {"where": {"label": 1}})],
)
def test_another_measurement_has_nothing_of_one_that_was_stopped(store: Path, metrics: Any, options: Any) -> None:
    out = stopped(store, [Counted()])
    Counted.seen.clear()
    found = pk.measure(store, metrics, out=out, **options)
    assert len(Counted.seen) == 3
    xr.testing.assert_identical(found, pk.measure(store, metrics, **options))


def test_the_store_that_was_captured_again_is_measured_anew(store: Path) -> None:
    out = stopped(store, [Counted()])
    Counted.seen.clear()
    captured(store, overwrite=True)
    pk.measure(store, [Counted()], out=out)
    assert len(Counted.seen) == 3


def test_two_measurements_into_one_place_are_refused(store: Path) -> None:
    def second(items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
        with pytest.raises(pk.errors.StoreError, match="Another process is measuring into"):
            pk.measure(store, "mean", out=store.parent / "m.zarr")
        yield from items

    pk.measure(store, "mean", out=store.parent / "m.zarr", progress=second)


def test_two_metrics_of_one_variable_are_both_named(tree: xr.DataTree) -> None:
    other = Column("middle", lambda block: {"median": (("node",), block.values[:, 0])})
    with pytest.raises(pk.errors.PluginError, match="'median' and 'middle' both give a variable 'median'"):
        pk.measure(tree, [median, other])


def test_own_dims_of_two_lengths_are_named(tree: xr.DataTree) -> None:
    other = Column("coarse", lambda block: {"coarse": (("node", "bin"), np.zeros((block.nodes, 3)))})
    with pytest.raises(pk.errors.PluginError, match=r"'coarse' gives 'coarse' a dim 'bin' of length 3.*length 32"):
        pk.measure(tree, [Histogram(), other])


@pytest.mark.parametrize(
    ("dims", "shape", "message"),
    [
        (
            ("label", "node"),
            (3,),
            r"shape \(3,\) at site 'layers.0', nodes \d+ to \d+; its dims ask for \(label: 3, node: \d+\)",
        ),
        (("label", "node"), (3, 7), r"shape \(3, 7\)"),
        (("label",), (3,), r"must give 'odd' a dim 'node'"),
    ],
)
def test_a_result_that_does_not_fit_its_dims_goes_to_its_author(
    tree: xr.DataTree, dims: tuple[str, ...], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(pk.errors.PluginError, match=f"(?s)'odd'.*{message}.*author"):
        pk.measure(tree, Column("odd", lambda block: {"odd": (dims, np.zeros(shape))}), sites="layers.0")


@pytest.mark.parametrize("returned", [np.zeros((3, 40)), None, {"odd": np.zeros((3, 40))}])
def test_a_metric_that_returns_no_variables_is_told_so(tree: xr.DataTree, returned: object) -> None:
    with pytest.raises(pk.errors.PluginError, match=f"'odd' returned {type(returned).__name__} at .*author"):
        pk.measure(tree, Column("odd", lambda block: returned))


def test_a_metric_that_fails_is_named_with_its_site(tree: xr.DataTree) -> None:
    def fail(block: Block) -> Variables:
        raise ZeroDivisionError("no luck")

    with pytest.raises(
        pk.errors.PluginError, match=r"'unlucky' failed at site 'relu', nodes \d+ to \d+: ZeroDivisionError: no luck"
    ) as found:
        pk.measure(tree, Column("unlucky", fail), sites="relu")
    assert isinstance(found.value.__cause__, ZeroDivisionError)


def test_what_compares_sites_is_written_at_the_root(store: Path) -> None:
    found = pk.measure(store, ["cka", "rsa", "effective_rank", "linear_probe", "mean"], out=store.parent / "m.zarr")
    opened = xr.open_datatree(store.parent / "m.zarr", engine="zarr")
    xr.testing.assert_identical(opened.load(), found)
    assert found["site"].values.tolist() == ["0", "1", "2"]
    values = [xr.open_datatree(store, engine="zarr")[site]["activation"].values for site in ("0", "1")]
    x, y = (value.astype(float) - value.mean(0, dtype=float) for value in values)
    expected = ((x.T @ y) ** 2).sum() / np.sqrt(((x.T @ x) ** 2).sum() * ((y.T @ y) ** 2).sum())
    assert found["cka"].sel(site="0", site_b="1").item() == pytest.approx(expected, rel=1e-6)


def test_a_metric_that_was_typed_in_is_never_taken_for_another(store: Path) -> None:
    def typed(shift: float) -> Any:
        """The class Typed, as a prompt gives it: of no module whose source can be read."""
        code = "class Typed:\n    name, version, parameters = 'typed', 1, {}\n"
        code += (
            f"    def compute(self, block):\n        return {{'typed': (('node',), block.values[:, 0] * 0 + {shift})}}"
        )
        names: dict[str, Any] = {"__name__": "__typed__"}
        exec(code, names)
        return names["Typed"]()

    out = stopped(store, [typed(1.0)])
    found = pk.measure(store, [typed(2.0)], out=out)
    assert {float(value) for site in found.children.values() for value in site["typed"].values} == {2.0}
