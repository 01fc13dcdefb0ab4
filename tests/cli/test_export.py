"""`probekit export`, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import probekit as pk
from tests.cli.conftest import Call


@pytest.fixture
def store(call: Call, model: str) -> str:
    call("capture", model, "digits", "acts.zarr", "--sites", "2", "--limit", "40")
    return "acts.zarr"


def test_a_store_is_exported_by_site_and_class(call: Call, store: str) -> None:
    code, out, err = call("export", store, "out", "--format", "npy", "--where", "label=3", "--where", "label=4")
    assert code == 0, err
    assert "2" in out
    assert "KiB" in out
    site = pk.open(store)["2"]
    kept = np.isin(site["label"], [3, 4])
    np.testing.assert_array_equal(np.load("out/2/activation.npy"), site["activation"].values[kept])


def test_json_counts_bytes(call: Call, store: str) -> None:
    code, out, _ = call("export", store, "out", "-f", "parquet", "--json")
    assert code == 0
    assert json.loads(out) == [{"file": "2.parquet", "bytes": Path("out/2.parquet").stat().st_size}]


def test_what_is_there_stays(call: Call, store: str) -> None:
    Path("out").mkdir()
    code, _, err = call("export", store, "out", "-f", "npy")
    assert code == 1
    assert "out exists already" in err


def test_a_format_has_to_be_named(call: Call, store: str) -> None:
    assert call("export", store, "out")[0] == 2
    assert call("export", store, "out", "-f", "hdf5")[0] == 2
    assert not Path("out").exists()
