import json
import pickle
import shutil

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from torch import nn

import probekit as pk
from probekit.errors import StoreError


@pytest.fixture
def store(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "a.zarr"
    x, y = torch.randn(30, 6), torch.arange(30) % 3
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    pk.capture(model, (x, y), path, batch_size=4, memory=4 * 2 * 3 * 40, class_names=["ant", "bee fly", "2"])
    return path


def test_open_attaches_labels_and_ids_to_each_site(store):
    site = pk.open(store)["1"]["activation"]
    assert set(site.coords) == {"label", "sample_id"}
    assert site.groupby("label").mean().sizes == {"label": 3, "node": 5}


def test_opening_reads_no_chunk(store):
    for file in store.glob("*/activation/c"):
        shutil.rmtree(file)
    assert pk.open(store)["1"]["activation"].shape == (30, 5)


def test_the_names_of_classes_are_stored(store):
    raw = xr.open_datatree(store, engine="zarr")
    assert raw["class_name"].values.tolist() == ["ant", "bee fly", "2"]
    assert raw["label"].attrs == {"flag_values": [0, 1, 2], "flag_meanings": "ant bee_fly 2"}


def test_the_record_and_each_arrays_own_metadata_agree_in_the_end(store):
    consolidated = zarr.open_group(store, mode="r", use_consolidated=True)
    plain = zarr.open_group(store, mode="r", use_consolidated=False)
    for name in ("1/activation", "(root)/activation", "label", "sample_id", "class_name"):
        np.testing.assert_array_equal(consolidated[name][:], plain[name][:])


def test_every_chunk_carries_a_checksum(store):
    chunk = next((store / "1/activation/c").glob("*/*"))
    damaged = bytearray(chunk.read_bytes())
    damaged[3] ^= 1
    chunk.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"1/activation of .* can't be read: .*checksum.* `probekit verify"):
        pk.open(store)["1"]["activation"].load()


def test_a_chunk_that_is_missing_is_no_zeros(store):
    chunk = next((store / "1/activation/c").glob("*/*"))
    chunk.unlink()
    with pytest.raises(StoreError, match=r"1/activation of .* can't be read: .* is missing"):
        pk.open(store)["1"]["activation"].load()
    (store / "label/c/0").unlink()
    with pytest.raises(StoreError, match=r"label of .* can't be read: .* is missing"):
        pk.info(store)


def test_an_open_store_can_be_sent_to_another_process(store):
    tree = pk.open(store)
    xr.testing.assert_identical(
        pickle.loads(pickle.dumps(tree["1"].to_dataset())).load(), tree["1"].to_dataset().load()
    )


def test_classes_of_one_name_are_counted_together(tmp_path):
    pk.capture(nn.Identity(), (torch.zeros(7, 2), torch.arange(7) % 3), tmp_path / "a", class_names=["x", "y", "x"])
    assert pk.info(tmp_path / "a").classes == {"x": 5, "y": 2}


def test_info_says_what_a_store_holds(store):
    found = pk.info(store)
    assert (found.rows, found.complete) == (30, True)
    assert found.classes == {"ant": 10, "bee fly": 10, "2": 10}
    site = next(site for site in found.sites if site.name == "1")
    assert (site.type, site.dims, site.shape, site.dtype) == ("ReLU", ("sample", "node"), (30, 5), "float32")
    # the rows are padded to whole chunks on disk; each chunk has four bytes of checksum
    chunks = -(-30 // site.chunk[0])
    files = [file for file in (store / "1").rglob("*") if file.is_file() and file.name != "zarr.json"]
    assert sum(file.stat().st_size for file in files) == chunks * (site.chunk[0] * 5 * 4 + 4)
    assert found.attrs["batch_size"] == 4
    assert found.attrs["model"] == "torch.nn.modules.container.Sequential"


def test_what_is_no_store_is_said_to_be_none(store, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    for name, message in {
        "b.zarr": "There is no store at .*b.zarr. Near: 'a.zarr'",
        "empty": "a folder without a zarr.json",
        "file": "is a file|isn't a store",
        "other.zarr": "isn't a store of probekit's",
    }.items():
        with pytest.raises(StoreError, match=message):
            pk.open(tmp_path / name)


def test_a_newer_format_is_refused_with_what_to_do(store):
    record = json.loads((store / "zarr.json").read_text())
    record["attributes"]["probekit_format"] = 3
    (store / "zarr.json").write_text(json.dumps(record))
    with pytest.raises(StoreError, match=r"store format 3; this probekit reads up to 2\. Upgrade"):
        pk.open(store)


def test_readers_see_a_consistent_prefix_while_a_writer_runs(tmp_path):
    path = tmp_path / "a.zarr"
    seen = []

    def batches():
        for start in range(0, 400, 10):
            yield torch.arange(start, start + 10.0)[:, None].expand(10, 4), torch.arange(start, start + 10)
            if path.exists():
                tree = xr.open_datatree(path, engine="zarr")
                labels, values = tree["label"].values, tree["(root)"]["activation"].values
                assert len(values) == len(labels)
                np.testing.assert_array_equal(labels, np.arange(len(labels)))
                np.testing.assert_array_equal(values[:, 0], labels)
                seen.append(len(labels))

    pk.capture(nn.Identity(), batches(), path, memory=10 * 2 * 16)
    assert seen == sorted(seen)
    assert len(set(seen)) > 3


@pytest.mark.parametrize("compression", ["fast", "small"])
def test_a_compressed_store_is_smaller_and_holds_the_same(tmp_path, compression):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 400), nn.ReLU())
    data = torch.randn(300, 6), torch.arange(300) % 3
    plain = pk.capture(model, data, tmp_path / "plain", batch_size=50)
    tree = pk.capture(model, data, tmp_path / "small", batch_size=50, compression=compression)
    ours = xr.open_datatree(tmp_path / "small", engine="zarr")
    for site in ("0", "1"):
        np.testing.assert_array_equal(tree[site]["activation"].values, plain[site]["activation"].values)
        np.testing.assert_array_equal(ours[site]["activation"].values, plain[site]["activation"].values)
    sizes = [
        next(site.bytes for site in pk.info(tmp_path / name).sites if site.name == "1") for name in ("plain", "small")
    ]
    assert sizes[1] < 0.95 * sizes[0]
