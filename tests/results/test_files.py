"""The store that results are written into: whole or not there, and never in the place of another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import probekit as pk
from probekit._results.files import write
from probekit.metrics import Block, Histogram, Mean, Overlap, Sparsity, Std, Variables, median
from tests.stores import stopping


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


def test_a_path_that_cannot_be_written_is_found_before_measuring(tree: xr.DataTree, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    class Never:
        name, version, parameters = "never", 1, {}

        def compute(self, block: Block) -> Variables:
            pytest.fail("measured before the output was checked")

    with pytest.raises(pk.errors.StoreError, match=r"can't be written to .*file"):
        pk.measure(tree, Never(), out=tmp_path / "file" / "m.zarr")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_measurement_of_an_open_tree_that_is_stopped_leaves_nothing(
    tree: xr.DataTree, tmp_path: Path, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        pk.measure(tree, median, out=tmp_path / "m.zarr", progress=stopping(error))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(), (8,), (5, 7), (300, 400)])
def test_values_in_any_order_of_memory_are_written(shape: tuple[int, ...], tmp_path: Path) -> None:
    wide = np.random.default_rng(0).normal(size=(*shape, 2))
    dims = [f"d{axis}" for axis in range(len(shape))]
    names = np.array(list("abcdefgh"), object)
    found = {"strided": (dims, wide[..., 1]), "turned": (dims[::-1], wide[..., 0].T)}
    found |= {"names": ("name", names[::2]), "numbers": ("name", np.arange(8)[::-2])}
    write(xr.DataTree(xr.Dataset(found)), tmp_path / "a.zarr")
    xr.testing.assert_identical(
        xr.open_datatree(tmp_path / "a.zarr", engine="zarr").load(), xr.DataTree(xr.Dataset(found))
    )
