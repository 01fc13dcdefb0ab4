import json
import os
import pickle
import shutil
import time

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from torch import nn

import probekit as pk
from probekit._store.codec import ChunkCodec
from probekit._store.layout import ArraySpec
from probekit.errors import StoreError
from tests.stores import opened


@pytest.fixture
def store(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "a.zarr"
    x, y = torch.randn(30, 6), torch.arange(30) % 3
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    pk.capture(model, (x, y), path, batch_size=4, memory=4 * 2 * 3 * 40, class_names=["ant", "bee fly"])
    return path


def test_open_attaches_labels_and_ids_to_each_site(store):
    site = pk.open(store)["1"]["activation"]
    assert set(site.coords) == {"label", "sample_id"}
    assert site.groupby("label").mean().sizes == {"label": 3, "node": 5}


def test_opening_reads_no_chunk(store):
    for file in store.glob("*/activation/c"):
        shutil.rmtree(file)
    assert pk.open(store)["1"]["activation"].shape == (30, 5)


def test_classes_are_named_as_far_as_names_were_given(store):
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


def test_the_weights_digest_tells_weights_apart(tmp_path):
    model = nn.Linear(2, 2)
    digests = []
    for name in "abc":
        pk.capture(model, torch.zeros(2, 2), tmp_path / name)
        digests.append(pk.info(tmp_path / name).attrs["weights"])
        if name == "b":
            model.weight.data[0, 0] += 1e-6
    assert digests[0] == digests[1] != digests[2]


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
    record["attributes"]["probekit_format"] = 2
    (store / "zarr.json").write_text(json.dumps(record))
    with pytest.raises(StoreError, match=r"store format 2; this probekit reads up to 1\. Upgrade"):
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


def test_the_writer_stops_with_the_cause_when_the_disk_changes_under_it(tmp_path):
    path = tmp_path / "a.zarr"

    def batches():
        for start in range(0, 400, 10):
            yield torch.full((10, 4), float(start))
            if start == 200:
                while opened(path).attrs["rows"] < 210:  # until the writer is at rest
                    time.sleep(0.01)
                shutil.rmtree(path / "(root)/activation/c")
                (path / "(root)/activation/c").write_text("in the way")

    with pytest.raises(StoreError, match=r"Writing .*a.zarr failed: .*\. Its first \d+ samples are committed"):
        pk.capture(nn.Identity(), batches(), path, memory=10 * 2 * 16)
    assert opened(path).sizes["sample"] == 210


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't be created"):
        pk.capture(nn.Identity(), torch.zeros(2, 2), tmp_path / "file" / "a.zarr")


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


def test_a_durable_capture_has_everything_on_the_disk_before_a_record_counts_on_it(tmp_path, monkeypatch):
    synced, entries, records = set(), set(), []
    fsync, replace = os.fsync, os.replace

    def name(descriptor):
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def logged_fsync(descriptor):
        synced.add(name(descriptor))
        entries.difference_update({entry for entry in entries if os.path.dirname(entry) == name(descriptor)})
        fsync(descriptor)

    def logged_replace(source, target):
        assert str(source) in synced, f"{source} is renamed before it is on the disk"
        if str(target) == str(tmp_path / "a.zarr/zarr.json"):
            assert not entries, f"the record counts on {entries}, whose folders aren't on the disk"
            records.append(str(target))
        entries.add(str(target))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    data = torch.zeros(95, 6), torch.arange(95) % 3
    pk.capture(nn.ReLU(), data, tmp_path / "a.zarr", batch_size=10, memory=2 * 20 * 6 * 4, durable=True)
    assert len(records) == 6  # five chunk rows, and the end
    assert not entries


def test_zarr_reads_chunks_of_text_and_would_write_the_same(tmp_path):
    names = ["cat", "", "dög", "日本", "a" * 1000, "\n", "🦊"]
    codec = ChunkCodec(ArraySpec("names", ("sample",), (), np.dtype(np.str_), (7,)))
    (tmp_path / "names/c").mkdir(parents=True)
    (tmp_path / "names/zarr.json").write_text(json.dumps(codec.metadata(7)))
    chunk = tmp_path / "names/c/0"
    written = b"".join(bytes(part) for part in codec.encode(np.array(names, object)))
    chunk.write_bytes(written)
    array = zarr.open_array(tmp_path / "names")
    assert array[:].tolist() == names
    chunk.unlink()
    array[:] = np.array(names, object)
    assert chunk.read_bytes() == written
