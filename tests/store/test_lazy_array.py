"""With dask installed, the variables of an open store are dask arrays of its chunks; measuring doesn't use dask."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk

dask = pytest.importorskip("dask")
pytest.importorskip("dask.array")


@pytest.fixture
def path(tmp_path):
    torch.manual_seed(0)
    data = (torch.randn(95, 6), torch.arange(95) % 3)
    pk.capture(nn.Sequential(nn.Linear(6, 20), nn.ReLU()), data, tmp_path / "a.zarr", batch_size=5, memory=4_000)
    return tmp_path / "a.zarr"


def values(path):
    with torch.no_grad():
        torch.manual_seed(0)
        x = torch.randn(95, 6)
        return nn.Sequential(nn.Linear(6, 20), nn.ReLU())(x).numpy()


def test_chunks_are_those_of_the_store_and_nothing_is_read_before_it_is_computed(path):
    site = pk.open(path)["1"]["activation"]
    chunk = site.encoding["chunks"]
    assert chunk[0] < 95
    assert site.chunks[0] == (chunk[0],) * (95 // chunk[0]) + ((95 % chunk[0],) if 95 % chunk[0] else ())
    assert site.chunks[1] == (20,)
    for file in (path / "1/activation/c").rglob("*/*"):
        file.unlink()
    assert pk.open(path)["1"]["activation"].mean("sample").shape == (20,)


def test_plain_xarray_works_lazily(path):
    site = pk.open(path)["1"]["activation"]
    plain, labels = site.values, np.arange(95) % 3
    mean = site.mean("sample")
    assert mean.chunks
    np.testing.assert_allclose(mean.compute(), plain.mean(axis=0), rtol=1e-6)
    by_label = [plain[labels == label].mean(axis=0) for label in range(3)]
    np.testing.assert_allclose(site.groupby("label").mean().compute(), by_label, rtol=1e-5)
    np.testing.assert_array_equal(site.isel(sample=slice(None, None, -3), node=[4, 2]), plain[::-3][:, [4, 2]])
    np.testing.assert_array_equal(site.isel(sample=labels == 1), plain[labels == 1])
    np.testing.assert_array_equal(site.set_xindex("label").sel(label=2), plain[labels == 2])


def test_an_open_tree_pickles(path):
    tree = pk.open(path)
    again = pickle.loads(pickle.dumps(tree))
    np.testing.assert_array_equal(again["1"]["activation"].values, tree["1"]["activation"].values)
    np.testing.assert_array_equal(pk.as_dataset(again["1"])[:][0], tree["1"]["activation"].values)


def test_two_opens_of_a_store_that_grew_are_not_taken_for_one(path):
    assert pk.open(path)["1"]["activation"].data.name != pk.open(path)["1"]["activation"].data.name


@pytest.mark.parametrize("opened", [False, True])
def test_measuring_and_rows_leave_dask_aside(path, opened):
    def refuse(*args, **options):
        raise AssertionError("went through dask")

    store = pk.open(path) if opened else path
    expected = pk.open(path)["1"].to_dataset().load()
    labels = expected["label"].values
    site = pk.open(path)["1"].to_dataset().drop_vars("label").assign_coords(label=("sample", labels))
    loaded = pk.open(path)
    for name in ("label", "sample_id", "class_name"):
        loaded[name].load()
    with dask.config.set(scheduler=refuse):
        np.testing.assert_array_equal(pk.as_dataset(site)[:][0], expected["activation"].values)
        if opened:
            measured = pk.measure(loaded, ["median", "mean"])
    if not opened:
        measured = pk.measure(store, ["median", "mean"])
    for label in range(3):
        theirs = np.median(expected["activation"].values[labels == label], axis=0)
        np.testing.assert_array_equal(measured["1"]["median"].sel(label=label), theirs)


def test_what_was_changed_since_it_was_opened_is_measured_as_changed(path):
    tree = pk.open(path)
    tree["1"]["activation"] = tree["1"]["activation"] * 2
    changed = pk.measure(tree, "median")
    np.testing.assert_allclose(changed["1"]["median"], 2 * pk.measure(path, "median")["1"]["median"])
    backwards = tree["0"].to_dataset().isel(sample=slice(None, None, -1))
    np.testing.assert_array_equal(pk.as_dataset(backwards)[:][0], backwards["activation"].values)
