"""The tree of results: what its variables say of themselves, errors for a metric's author, and the store written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import probekit as pk
from probekit.metrics import Block, Histogram, Overlap, Std, Variables, median
from tests.stores import three_sites


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
        "bins": None,
        "null": "permute",
        "min_count": 10,
        "pairs": None,
        "corrected": True,
    }
    null = {"of": "overlap", "null": "permute", "repeats": 1, "seed": 0, "together": "sample"}
    about = {"metric": "overlap", "version": 3, "n": 200, "classes": 3, "activation_dtype": "float32", "approximate": 0}
    about |= {"corrected": 1, "bins": 12}  # 2 ⌈√(2n) / 2⌉, for classes of 66 samples
    assert attrs == about | null
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
    assert (counted == np.bincount(tree["label"].values)[:, None]).all()


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


def test_what_compares_sites_is_written_at_the_root(tmp_path: Path) -> None:
    store = three_sites(tmp_path / "acts.zarr")
    found = pk.measure(
        store, ["cka:biased=True", "rsa", "effective_rank", "linear_probe", "mean"], out=tmp_path / "m.zarr"
    )
    opened = xr.open_datatree(tmp_path / "m.zarr", engine="zarr")
    xr.testing.assert_identical(opened.load(), found)
    assert found["site"].values.tolist() == ["0", "1", "2"]
    values = [xr.open_datatree(store, engine="zarr")[site]["activation"].values for site in ("0", "1")]
    x, y = (value.astype(float) - value.mean(0, dtype=float) for value in values)
    expected = ((x.T @ y) ** 2).sum() / np.sqrt(((x.T @ x) ** 2).sum() * ((y.T @ y) ** 2).sum())
    assert found["cka"].sel(site="0", site_b="1").item() == pytest.approx(expected, rel=1e-6)
