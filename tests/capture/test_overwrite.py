"""Replacing a store: what is no store stays, and so does a store where no other can take its place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr
from torch import nn

import probekit as pk
from probekit.errors import ProbekitError, StoreError
from tests.stores import contents, three_sites


def test_only_a_store_itself_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = three_sites(tmp_path / "real.zarr")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    for name, target in (("link.zarr", "real.zarr"), ("dangling", "nowhere"), ("to-mine", "mine")):
        (tmp_path / name).symlink_to(target)
    before, names = contents(store), sorted(tmp_path.iterdir())

    def never() -> Any:
        pytest.fail("the model's data were read")
        yield

    for out, message in {
        "dangling": r"dangling isn't a store: it is a link to what isn't there",
        "to-mine": r"to-mine isn't a store: it is a folder without a zarr\.json",
        "mine": r"mine isn't a store",
        "/": r"^/ isn't a store",
        ".": r"^\. isn't a store",
        "real.zarr/0": r"isn't a store of probekit's",
    }.items():
        with pytest.raises(StoreError, match=message):
            pk.capture(nn.ReLU(), never(), out, overwrite=True)
    assert contents(store) == before
    assert sorted(tmp_path.iterdir()) == names


@pytest.mark.parametrize("out", [".", "../real.zarr", "../link.zarr"])
def test_what_is_not_the_stores_stays(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = three_sites(tmp_path / "real.zarr")
    (tmp_path / "link.zarr").symlink_to("real.zarr")
    (store / "notes.txt").write_text("mine")
    (store / "figures").mkdir()
    (store / "figures" / "a.png").write_text("mine")
    xr.Dataset({"x": ("y", [1.0])}).to_zarr(tmp_path / "mine.zarr", zarr_format=3, consolidated=False)
    shutil.copytree(tmp_path / "mine.zarr", store / "mine")
    monkeypatch.chdir(store)
    pk.capture(nn.ReLU(), torch.ones(5, 3), out, overwrite=True)
    assert list(pk.open(".").children) == ["(root)"]
    assert pk.verify(store)
    own = {"zarr.json", "(root)", "sample_id", "inputs_crc32c"}
    assert {entry.name for entry in store.iterdir()} == {*own, "notes.txt", "figures", "mine"}
    assert (store / "figures" / "a.png").read_text() == (store / "notes.txt").read_text() == "mine"
    assert (tmp_path / "link.zarr").is_symlink()


def test_the_root_has_room() -> None:
    assert pk.plan(nn.ReLU(), torch.ones(5, 3), out="/").bytes == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [({"columns": {"my split": [0] * 5}}, "can't be called 'my split'"), ({"memory": 1}, "memory")],
)
def test_a_store_stays_where_no_other_can_take_its_place(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    store = three_sites(tmp_path / "real.zarr")
    before = contents(store)
    with pytest.raises(ProbekitError, match=message):
        pk.capture(nn.ReLU(), torch.ones(5, 3), store, overwrite=True, **options)
    assert contents(store) == before
