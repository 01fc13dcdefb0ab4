"""Damage that a checksum of its own doesn't show, what isn't a file, and what can't be read just now."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import probekit as pk
from probekit._store.backend import backend_of
from probekit._store.local import LocalBackend
from probekit._store.object_store import ObjectStoreBackend
from probekit._store.store import read_record
from probekit.errors import StoreError
from tests import processes
from tests.models import mlp, samples
from tests.stores import files, opened, stopped

X, Y = samples()
MEMORY = 2 * 20 * 33 * 4
OPTIONS: dict[str, Any] = {
    "sites": ["1", "2"],
    "batch_size": 10,
    "memory": MEMORY,
    "columns": {"name": ["ant", "bee"] * 47 + ["cat"]},
}


def capture(out: Path | str, seed: int = 0, **options: Any) -> None:
    pk.capture(mlp(30, seed=seed), (X, Y), out, **OPTIONS, **options)


@pytest.fixture(scope="module", params=[None, "fast"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "a.zarr"
    capture(out, compression=request.param)
    return out


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "a.zarr"))


@pytest.mark.parametrize("step", [41, pytest.param(1, marks=pytest.mark.long)])
def test_a_record_of_which_a_bit_has_changed_is_refused_or_says_the_same(store: Path, step: int) -> None:
    whole, file = read_record(backend_of(store)), store / "zarr.json"
    content, refused = file.read_bytes(), 0
    bits = range(0, 8 * len(content), step)
    for bit in bits:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        try:
            found = read_record(backend_of(store))
        except StoreError:
            refused += 1
        else:
            assert (found.attributes, found.nodes) == (whole.attributes, whole.nodes)
    assert refused > 0.99 * len(bits)


def places(store: Path) -> list[tuple[Path, Path]]:
    """Every two chunks of an array."""
    arrays = {
        file.parents[len(file.relative_to(store).parts) - file.relative_to(store).parts.index("c") - 1]
        for file in store.rglob("c/**/*")
        if file.is_file()
    }
    return [
        pair
        for array in sorted(arrays)
        for pair in itertools.combinations(
            sorted(f for f in array.rglob("*") if f.is_file() and f.name != "zarr.json"), 2
        )
    ]


def swapped(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def doubled(one: Path, other: Path) -> None:
    one.write_bytes(other.read_bytes())


@pytest.mark.parametrize("change", [swapped, doubled])
def test_chunks_in_each_others_place_are_found(store: Path, change: Callable[[Path, Path], None]) -> None:
    pairs = places(store)
    assert len(pairs) > 40
    for one, other in pairs:
        before = one.read_bytes(), other.read_bytes()
        if before[0] == before[1]:
            continue
        change(one, other)
        found = pk.verify(store)
        assert {damage.what for damage in found.damages} <= {
            "sound, and another chunk than the one that was committed here"
        }
        assert one.relative_to(store).as_posix().startswith(found.damages[0].array)
        with pytest.raises(StoreError, match="another chunk than the one that was committed"):
            opened(store)[found.damages[0].array].load()
        one.write_bytes(before[0])
        other.write_bytes(before[1])
    assert pk.verify(store)


def test_a_chunk_of_another_capture_is_found_dropped_and_made_again(store: Path, made: Path, tmp_path: Path) -> None:
    compression = "fast" if "blosc" in (store / "zarr.json").read_text() else None
    capture(tmp_path / "other", 1, compression=compression)
    tree = pk.open(store)
    shutil.copy(tmp_path / "other/1/activation/c/2/0", store / "1/activation/c/2/0")
    with pytest.raises(StoreError, match="another chunk than the one that was committed"):
        pk.measure(tree, "mean")
    assert pk.verify(store, repair=True).kept == 40
    capture(store, resume=True, compression=compression)
    assert pk.verify(store)
    np.testing.assert_array_equal(pk.open(store)["1"]["activation"], pk.open(made)["1"]["activation"])


def test_a_tree_of_a_store_that_was_replaced_gives_nothing_of_the_new_one(store: Path) -> None:
    tree = pk.open(store)
    capture(store, 1, overwrite=True)
    with pytest.raises(StoreError, match="another chunk than the one that was committed"):
        pk.measure(tree, "mean")
    assert pk.measure(store, "mean")["1"]["mean"].shape == (4, 30)


@pytest.mark.parametrize("times", [1, 2, 1000])
def test_what_cannot_be_read_just_now_is_not_damaged(store: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    before, read, calls = files(store), LocalBackend.read, itertools.count()
    monkeypatch.setattr("probekit._store.integrity._WAITS", (0, 0))

    def timing_out(self: LocalBackend, key: str, most: int) -> bytes:
        if key == "1/activation/c/1/0" and next(calls) < times:
            raise OSError(110, "Connection timed out")
        return read(self, key, most)

    monkeypatch.setattr(LocalBackend, "read", timing_out)
    if times < 3:
        assert pk.verify(store, repair=True)
    else:
        [damage] = pk.verify(store).damages
        assert (damage.array, damage.what) == ("1/activation", "unreadable: Connection timed out")
        with pytest.raises(StoreError, match=r"left as it is: 1/activation couldn't be read .*Connection timed out"):
            pk.verify(store, repair=True)
    assert files(store) == before


def test_what_is_no_file_is_found_without_waiting_for_it(store: Path) -> None:
    chunk = store / "1/activation/c/1/0"
    content = chunk.read_bytes()
    chunk.unlink()
    os.mkfifo(chunk)
    assert [damage.what for damage in pk.verify(store).damages] == ["it is no file"]
    with pytest.raises(StoreError, match="it is no file"):
        pk.measure(store, "mean")
    assert pk.verify(store, repair=True).kept == 20
    assert not chunk.exists()
    chunk.parent.mkdir(exist_ok=True)
    chunk.write_bytes(content)
    record = store / "zarr.json"
    record.unlink()
    os.mkfifo(record)
    for read in (
        pk.open,
        pk.info,
        pk.verify,
        lambda path: pk.measure(path, "mean"),
        lambda path: capture(path, resume=True),
    ):
        with pytest.raises(StoreError, match="it is no file"):
            read(store)


@pytest.mark.parametrize("link", ["1/activation/c/1", "1/activation/c", "label/c"])
@pytest.mark.parametrize("write", ["repair", "overwrite", "resume"])
def test_nothing_is_removed_or_written_through_a_link_within(
    store: Path, tmp_path: Path, link: str, write: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (store / link).rename(elsewhere)
    (store / link).symlink_to(elsewhere)
    next(file for file in elsewhere.rglob("*") if file.is_file()).write_bytes(b"precious")
    before = {file: file.read_bytes() for file in elsewhere.rglob("*") if file.is_file()}
    with contextlib.suppress(StoreError):  # whether it says so or goes around the link
        pk.verify(store, repair=True) if write == "repair" else capture(store, 1, **{write: True})
    assert {file: file.read_bytes() for file in elsewhere.rglob("*") if file.is_file()} == before


class Stopping(Dataset[Any]):
    """Sixty samples, of which one can't be read."""

    def __init__(self, stop: int | None) -> None:
        self.stop = stop

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == self.stop:
            raise ZeroDivisionError
        return torch.full((4,), 1.0 + index), index % 3


def shared(out: Path | str, scale: float, stop: int | None = None, **options: Any) -> None:
    """The capture of the one process there is, which marks its chunk rows as several would."""
    data, model = Stopping(stop), nn.Linear(4, 2, bias=False)
    nn.init.constant_(model.weight, scale)
    sampler = pk.ChunkSampler(data, chunk_rows=10, rank=0, world=1)
    pk.capture(model, DataLoader(data, 10, sampler=sampler), out, **options)


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "a.zarr") if request.param == "folder" else f"memory://{tmp_path.name}/a.zarr"


class Killed(BaseException):
    """Stands for kill -9."""


def test_markers_of_a_store_that_was_replaced_count_for_nothing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LocalBackend if "://" not in place else ObjectStoreBackend
    shared(place, 1.0)
    record = opened(place).attrs["capture"]
    with pytest.raises(ZeroDivisionError):
        shared(place, 1.0, 45, overwrite=True)
    assert opened(place).attrs["capture"] != record
    delete, calls = backend.delete, itertools.count()
    for kill in itertools.count():
        calls = itertools.count()

        def killed(self: Any, key: str, calls: Iterator[int] = calls, kill: int = kill) -> None:
            if next(calls) == kill:
                raise Killed
            delete(self, key)

        monkeypatch.setattr(backend, "delete", killed)
        try:
            shared(place, 2.0 + kill, overwrite=True)
        except Killed:
            monkeypatch.setattr(backend, "delete", delete)
            shared(place, 2.0 + kill, resume=True)
        else:
            break
        finally:
            monkeypatch.setattr(backend, "delete", delete)
        expected = (2.0 + kill) * 4 * (1 + np.arange(60))
        np.testing.assert_array_equal(pk.open(place)["(root)"]["activation"].values[:, 0], expected)
        assert pk.verify(place)
        with pytest.raises(ZeroDivisionError):
            shared(place, 1.0, 45, overwrite=True)  # whose markers stay
    assert kill > 3


def test_a_repair_drops_the_markers_of_what_it_drops(place: str) -> None:
    with pytest.raises(ZeroDivisionError):
        shared(place, 1.0, 45)
    backend = backend_of(place)
    backend.delete("(root)/activation/c/1/0")
    assert pk.verify(place, repair=True).kept == 10
    shared(place, 1.0, resume=True)
    assert pk.verify(place)
    np.testing.assert_array_equal(pk.open(place)["(root)"]["activation"].values[:, 0], 4.0 * (1 + np.arange(60)))


def test_a_damaged_store_can_be_replaced_and_what_is_none_can_not(store: Path) -> None:
    record = store / "zarr.json"
    record.write_bytes(record.read_bytes().replace(b'"shape": [95', b'"shape": [94'))
    with pytest.raises(StoreError, match="its checksum is wrong"):
        pk.open(store)
    capture(store, 1, overwrite=True)
    assert pk.verify(store)
    record.write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}))
    with pytest.raises(StoreError, match="isn't a store of probekit's"):
        capture(store, 1, overwrite=True)


def test_few_files_may_be_open_at_a_time(tmp_path: Path) -> None:
    assert processes.run(wide, tmp_path / "a.zarr").status == 0
    assert pk.verify(tmp_path / "a.zarr")


def wide(out: Path) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(64)))
    pk.capture(model, torch.ones(30, 4), out, batch_size=10, sites="*")


def test_a_file_system_without_locks_is_said_to_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.warns(UserWarning, match="has no locks, so nothing keeps a second writer away"):
        pk.capture(nn.ReLU(), torch.ones(4, 2), tmp_path / "a.zarr")
    assert pk.verify(tmp_path / "a.zarr")


def test_adding_sites_to_a_full_disk_says_what_is_kept(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, begin = files(store), LocalBackend.begin

    def full(self: LocalBackend, key: str) -> Any:
        if key == "0/activation/c/1/0":
            raise OSError(errno.ENOSPC, "No space left on device")
        return begin(self, key)

    monkeypatch.setattr(LocalBackend, "begin", full)
    with pytest.raises(StoreError, match=r"No space left on device\. The sites that were there are as they were"):
        pk.capture(mlp(30), (X, Y), store, append="sites", **OPTIONS | {"sites": "0"})
    assert files(store) == before


def test_a_part_of_a_measurement_that_has_changed_is_measured_again(store: Path, tmp_path: Path) -> None:
    whole = pk.measure(store, ["mean", "median"])
    parts = stopped(store, ["mean", "median"], tmp_path / "r")
    for part, content in zip(parts, itertools.cycle([b"", None]), strict=False):
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 1
        part.write_bytes(data if content is None else content)
    found = pk.measure(store, ["mean", "median"], out=tmp_path / "r")
    for site in ("1", "2"):
        np.testing.assert_array_equal(found[site]["median"], whole[site]["median"])
        np.testing.assert_array_equal(found[site]["mean"], whole[site]["mean"])
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "r"]


def test_names_of_unknown_origin_give_a_terminal_no_orders(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = nn.ModuleDict({"a[/b]\x1b[31m": nn.Linear(4, 3)})
    model.forward = lambda x: model["a[/b]\x1b[31m"](x)  # type: ignore[method-assign]
    out = tmp_path / "c[/d]\x1b.zarr"
    pk.capture(model, (torch.ones(8, 4), torch.arange(8) % 2), out, class_names=["x\x07", "y"])
    from probekit.cli import main

    for command in (
        ["info", str(out)],
        ["verify", str(out)],
        ["measure", str(out), "-m", "median"],
        ["measure", str(out), "-m", "nothing"],
    ):
        with contextlib.suppress(SystemExit):
            main(command)
    shown = "".join(capfd.readouterr()) + repr(pk.verify(out)) + repr(pk.sites(model, torch.ones(1, 4)))
    assert "a[/b]" in shown
    assert not {"\x1b", "\x07"} & set(shown)
