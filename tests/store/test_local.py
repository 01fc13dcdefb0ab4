"""Stores in folders: what is on the disk, and what cannot be."""

import os

import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk
from probekit._store.local import LocalBackend
from probekit.errors import StoreError


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't be created"):
        pk.capture(nn.Identity(), torch.zeros(2, 2), tmp_path / "file" / "a.zarr")


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


def test_content_larger_than_one_write_takes(tmp_path):
    folder = LocalBackend(tmp_path)
    folder.make_room(["a/c"])
    values = np.arange(200_000).reshape(-1, 8) * (1 - 2j)
    folder.write("a/c/0", [values, values.tobytes(), values[:0], b"end"])
    assert (tmp_path / "a/c/0").read_bytes() == 2 * values.tobytes() + b"end"
