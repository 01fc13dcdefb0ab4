"""A writer stops with the cause, and what it committed stays."""

import shutil
import time

import pytest
import torch
from torch import nn

import probekit as pk
from probekit.errors import StoreError
from tests.stores import opened


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
