"""Stores of which a user has consolidated the metadata with zarr: they open, verify, resume and grow as before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from torch import nn
from torch.utils.data import Dataset

import probekit as pk
from probekit.cli import main
from probekit.errors import StoreError
from tests import processes
from tests.models import TokenLayers
from tests.stores import contents, opened

SAMPLES, BATCH, STOP = 60, 10, 45
NAMES = ["ant", "bee fly", "cat"]
IDS = torch.arange(SAMPLES)[:, None] + torch.arange(5)
MASK = (torch.arange(5) <= torch.arange(SAMPLES)[:, None] % 5).long()


class Samples(Dataset[Any]):
    """Of a known number, with string labels, which are named as they appear; at sample `stop` the process is killed."""

    def __init__(self, out: Path, stop: int | None) -> None:
        self._out, self._stop = out, stop

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        if index == self._stop:
            kill_once_committed(self._out)
        return IDS[index].float(), NAMES[index % 2 if index < 25 else index % 3]


def kill_once_committed(out: Path, rows: int = 3 * BATCH) -> None:
    while json.loads((out / "zarr.json").read_bytes())["attributes"]["rows"] < rows:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def stream(out: Path, stop: int | None, **columns: torch.Tensor) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of texts, of which nobody knows how many there will be."""
    for start in range(0, SAMPLES, BATCH):
        if stop is not None and start + BATCH > stop:
            kill_once_committed(out)
        yield {name: values[start : start + BATCH] for name, values in columns.items()}


class Texts(TokenLayers):
    def __init__(self) -> None:
        super().__init__(nn.Embedding(100, 4), nn.ReLU())
        nn.init.normal_(self[0].weight, generator=torch.Generator().manual_seed(0))


def write(out: Path, kind: str, stop: int | None = None) -> None:
    """Capture, or resume a capture of, samples of a `kind`."""
    options = {"batch_size": BATCH, "memory": 1300, "resume": True}
    with warnings.catch_warnings(action="ignore"):
        if kind == "known":
            pk.capture(nn.Sequential(nn.ReLU(), nn.Tanh()), Samples(out, stop), out, **options)
        elif kind == "unlabelled":
            data = (batch["x"] for batch in stream(out, stop, x=IDS.float()))
            pk.capture(nn.Sequential(nn.ReLU(), nn.Tanh()), data, out, **options)
        else:
            columns = {"input_ids": IDS, "attention_mask": MASK}
            columns |= {"label": torch.arange(SAMPLES) % 3} if kind == "tokens" else {}
            data = stream(out, stop, **columns)
            named = {"class_names": NAMES} if kind == "tokens" else {}
            pk.capture(Texts(), data, out, sites=["0", "1"], reduce={"0": "tokens", "1": "mean"}, **named, **options)


def consolidate(out: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        zarr.consolidate_metadata(out)


KINDS = ["known", "unlabelled", "tokens", "unlabelled tokens"]


@pytest.fixture(scope="module", params=KINDS)
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A kind of data, a whole store of them, and one whose capture was killed."""
    folder, kind = tmp_path_factory.mktemp("killed"), request.param
    assert processes.run(write, folder / "part", kind, STOP).status == -signal.SIGKILL
    write(folder / "whole", kind)
    return kind, folder / "whole", folder / "part"


def test_a_prefix_opens_as_before(killed: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, _, part = killed
    before = opened(part).load()
    rows = before.sizes["sample"]
    assert 3 * BATCH <= rows < SAMPLES
    out = Path(shutil.copytree(part, tmp_path / "part"))
    consolidate(out)
    found = pk.verify(out)
    assert [damage.name for damage in found.damages] == ["commit record"]
    assert "zarr.consolidate_metadata wrote over it" in str(found)
    with pytest.warns(UserWarning, match=rf"holds the first {rows} of"):
        xr.testing.assert_identical(pk.open(out).load(), before)
    with warnings.catch_warnings(action="ignore"):
        assert pk.info(out).classes == pk.info(part).classes
        pk.measure(out, "mean")


def test_a_repair_brings_the_record_back(killed: tuple[str, Path, Path], tmp_path: Path) -> None:
    kind, whole, part = killed
    out = Path(shutil.copytree(part, tmp_path / "part"))
    consolidate(out)
    rows = opened(part).sizes["sample"]
    repaired = pk.verify(out, repair=True)
    assert repaired.kept == repaired.rows == rows
    assert pk.verify(out)
    plain = xr.open_datatree(out, engine="zarr").load()
    expected = xr.open_datatree(part, engine="zarr").load()
    xr.testing.assert_identical(plain, expected)
    write(out, kind)
    assert contents(out) == contents(whole)


def test_a_capture_resumes(killed: tuple[str, Path, Path], tmp_path: Path) -> None:
    kind, whole, part = killed
    out = Path(shutil.copytree(part, tmp_path / "part"))
    consolidate(out)
    write(out, kind)
    assert contents(out) == contents(whole)


def test_a_whole_store_stays_whole(killed: tuple[str, Path, Path], tmp_path: Path) -> None:
    kind, whole, _ = killed
    before = pk.open(whole).load()
    out = Path(shutil.copytree(whole, tmp_path / "whole"))
    consolidate(out)
    assert pk.verify(out)
    xr.testing.assert_identical(pk.open(out).load(), before)
    write(out, kind)  # which finds it complete
    assert pk.verify(out, repair=True)
    if kind == "known":
        tanh = nn.Sequential(nn.ReLU(), nn.Tanh())
        pk.capture(tanh, Samples(out, None), out, batch_size=BATCH, memory=1300, append="samples")
        assert pk.open(out).sizes["sample"] == 2 * SAMPLES
        assert pk.verify(out)


def add_a_site(out: Path, stop: int | None = None) -> None:
    def data() -> Iterator[Any]:
        for start in range(0, SAMPLES, BATCH):
            if stop is not None and start > stop:
                os.kill(os.getpid(), signal.SIGKILL)
            yield IDS[start : start + BATCH].float()

    model = nn.Sequential(nn.ReLU(), nn.Tanh())
    pk.capture(model, data(), out, sites="1", batch_size=BATCH, memory=400, append="sites")


def test_a_site_that_was_being_added_is_not_there(tmp_path: Path) -> None:
    out = tmp_path / "acts.zarr"
    pk.capture(nn.Sequential(nn.ReLU(), nn.Tanh()), IDS.float(), out, sites="0", batch_size=BATCH, memory=400)
    before = pk.open(out).load()
    assert processes.run(add_a_site, out, STOP).status == -signal.SIGKILL
    assert (out / "1").exists()
    consolidate(out)
    xr.testing.assert_identical(pk.open(out).load(), before)
    assert pk.verify(out, repair=True).kept == SAMPLES
    add_a_site(out)
    assert list(pk.open(out).children) == ["0", "1"]
    np.testing.assert_allclose(pk.open(out)["1"]["activation"], np.tanh(IDS.numpy().astype(float)), rtol=1e-6)
    assert pk.verify(out)


@pytest.mark.parametrize("killed", ["tokens"], indirect=True)
@pytest.mark.parametrize(
    ("lost", "fault"),
    [
        ("class_name/c/0", "the names of its 3 classes are missing"),
        ("label/c/1", r"c/1 is missing"),
        ("0/position/c/2", "the rows of '0' are not those of its"),
    ],
)
def test_what_can_not_be_found_any_more_is_said(
    killed: tuple[str, Path, Path], lost: str, fault: str, tmp_path: Path
) -> None:
    _, _, part = killed
    out = Path(shutil.copytree(part, tmp_path / "part"))
    consolidate(out)
    (out / lost).unlink()
    for use in (pk.open, pk.verify, lambda path: pk.verify(path, repair=True)):
        with pytest.raises(StoreError, match=rf"consolidate_metadata has written over .*{fault}.*overwrite=True"):
            use(out)


@pytest.mark.parametrize("rows", [10, 50, 70])
def test_a_record_that_zarr_did_not_write_is_still_refused(
    killed: tuple[str, Path, Path], rows: int, tmp_path: Path
) -> None:
    for store in killed[1:]:
        out = Path(shutil.copytree(store, tmp_path / store.name))
        record = json.loads((out / "zarr.json").read_bytes())
        record["attributes"]["rows"] = rows
        (out / "zarr.json").write_text(json.dumps(record))
        with pytest.raises(StoreError, match=r"isn't a store of probekit's, or is damaged"):
            pk.open(out)


def test_the_command_line_says_what_to_do(
    killed: tuple[str, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(killed[2], tmp_path / "part"))
    consolidate(out)
    for arguments, code, text in (
        ([], 1, f"probekit verify {out} --repair"),
        (["--repair"], None, "samples kept"),
        ([], None, "all sound"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["verify", str(out), *arguments])
        printed = "".join(capsys.readouterr()).replace("\n", "")
        assert (end.value.code or None, text in printed) == (code, True)
