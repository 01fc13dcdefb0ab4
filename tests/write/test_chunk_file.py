"""Tiles that are filled in their files: the bytes of those filled in memory, whatever interrupts them."""

import ctypes
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from torch import nn

import probekit as pk
from probekit._store.backend import Folder, GrowingFile
from probekit._store.codec import TileCodec
from probekit._store.layout import ArraySpec
from probekit._write.chunk_buffers import Slot
from probekit._write.chunk_file import GrowingTile
from probekit._write.transfer import Copies
from probekit.errors import SiteError, StoreError

X = torch.randn(95, 6, generator=torch.Generator().manual_seed(0))


class InMemory(Copies):
    immediate = False


def files(store):
    return {
        str(file.relative_to(store)): file.read_bytes()
        for file in store.rglob("*")
        if file.is_file() and file.name != "zarr.json"
    }


class Forms(nn.Module):
    """Gives tensors whose memory isn't what they hold: strided, conjugated, negated, broadcast, of other dtypes."""

    def __init__(self):
        super().__init__()
        self.strided, self.conjugate, self.negative, self.broadcast, self.bfloat, self.flags, self.none = (
            nn.Identity() for _ in range(7)
        )

    def forward(self, x):
        z = torch.complex(x, x.flip(1))
        self.strided(torch.cat([x, x], 1)[:, ::2])
        self.conjugate(z.conj())
        self.negative(z.conj().imag)
        self.broadcast(x[:, :1].expand(-1, 5))
        self.bfloat(x.bfloat16())
        self.flags(x > 0)
        self.none(x[:, :0])
        return x


def wide():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 1111), nn.Unflatten(1, (11, 101)), nn.Conv1d(11, 3, 5))


@pytest.mark.parametrize("model", [Forms, wide])
@pytest.mark.parametrize("memory", [300_000, "256MiB"])
def test_a_store_is_that_of_tiles_in_memory(tmp_path, monkeypatch, model, memory):
    layout = import_module("probekit._store.layout")
    monkeypatch.setattr(layout, "TILE_BYTES", 3000)  # so that rows are split, the last tile being narrower
    monkeypatch.setattr(layout, "TILE_ROW_BYTES", 100)
    monkeypatch.setattr(import_module("probekit._write.writer"), "_OPEN_FILES", 1000)
    made = model()
    pk.capture(made, X, tmp_path / "growing", batch_size=10, memory=memory)
    monkeypatch.setattr(import_module("probekit._capture.capture"), "copies_for", lambda model: InMemory())
    pk.capture(made, X, tmp_path / "memory", batch_size=10, memory=memory)
    assert files(tmp_path / "growing") == files(tmp_path / "memory")
    if model is wide:
        with torch.no_grad():
            expected = made[0](X)
        assert len(list((tmp_path / "growing/0/activation/c/0").iterdir())) > 3
        np.testing.assert_allclose(pk.open(tmp_path / "growing")["0"]["activation"].values, expected, atol=1e-5)


def test_only_so_many_files_are_open_at_a_time(tmp_path, monkeypatch):
    begun = []
    begin = Slot.begin

    def counted(self, folder, row, rows):
        begin(self, folder, row, rows)
        begun.append(sum(map(len, self.growing.values())))

    monkeypatch.setattr(Slot, "begin", counted)
    for limit, expected in [(3, 0), (4, 4)]:  # with the model's own output four sites
        monkeypatch.setattr(import_module("probekit._write.writer"), "_OPEN_FILES", limit)
        begun.clear()
        pk.capture(wide(), X, tmp_path / str(limit), batch_size=95)
        assert begun == [expected]


SPEC = ArraySpec("a", ("sample", "node"), (3,), np.dtype(np.float32), (8, 3))


def grow(folder: Path) -> GrowingTile:
    (folder / "a/c").mkdir(parents=True, exist_ok=True)
    return GrowingTile(Folder(folder), TileCodec(SPEC), "a/c/0/0", 8)


def rows_of(folder: Path):
    return TileCodec(SPEC).decode((folder / "a/c/0/0").read_bytes())


@pytest.mark.parametrize(
    ("appended", "kept"),
    [(rows, kept) for rows in [(), (1,), (3, 5), (2, 2)] for kept in (0, 1, 4, 8) if kept <= sum(rows)],
)
def test_a_tile_ends_with_the_rows_that_count_and_zeros(tmp_path, appended, kept):
    values, tile = np.arange(24, dtype=np.float32).reshape(8, 3) + 1, grow(tmp_path)
    start = 0
    for rows in appended:
        tile.append(values[start : start + rows])
        start += rows
    assert not (tmp_path / "a/c/0/0").exists()
    tile.finish(kept)
    expected = np.zeros((8, 3), np.float32)
    expected[:kept] = values[:kept]
    np.testing.assert_array_equal(rows_of(tmp_path), expected)
    assert [file.name for file in (tmp_path / "a/c/0").iterdir()] == ["0"]


@pytest.mark.parametrize("written", [False, True])
def test_a_tile_that_was_interrupted_keeps_what_came_before(tmp_path, monkeypatch, written):
    values, tile = np.ones((8, 3), np.float32), grow(tmp_path)
    tile.append(values[:2])
    write = GrowingFile.write

    def interrupted(self, part):
        if written:
            write(self, part)
        raise KeyboardInterrupt

    monkeypatch.setattr(GrowingFile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tile.append(2 * values[:3])
    monkeypatch.undo()
    tile.finish(2)
    np.testing.assert_array_equal(rows_of(tmp_path), np.concatenate([values[:2], np.zeros((6, 3), np.float32)]))


def can_reserve(folder):
    with open(folder / "try", "wb") as file:
        found = import_module("probekit._store.backend")._fallocate
        return found is not None and found(file.fileno(), 1, ctypes.c_int64(0), ctypes.c_int64(4096)) == 0


@pytest.mark.parametrize("reserves", [False, True])
def test_a_tile_of_few_rows_takes_little_of_the_disk(tmp_path, monkeypatch, reserves):
    if not reserves:  # as where there is no fallocate
        monkeypatch.setattr(import_module("probekit._store.backend"), "_fallocate", None)
    spec = ArraySpec("a", ("sample", "node"), (256,), np.dtype(np.float32), (4096, 256))
    (tmp_path / "a/c").mkdir(parents=True)
    tile, values = GrowingTile(Folder(tmp_path), TileCodec(spec), "a/c/0/0", 4096), np.ones((40, 256), np.float32)
    tile.append(values)
    if reserves and can_reserve(tmp_path):
        assert (tmp_path / "a/c/0/0.partial").stat().st_blocks * 512 >= 4096 * 1024
    tile.finish(40)
    file = tmp_path / "a/c/0/0"
    np.testing.assert_array_equal(TileCodec(spec).decode(file.read_bytes())[:40], values)
    assert file.stat().st_size == 4096 * 1024 + 4
    assert file.stat().st_blocks * 512 < 2**18


def test_what_is_dropped_leaves_nothing(tmp_path):
    tile = grow(tmp_path)
    tile.append(np.ones((2, 3), np.float32))
    tile.drop()
    assert list((tmp_path / "a/c/0").iterdir()) == []


@pytest.mark.parametrize("call", ["begin", "write"])
@pytest.mark.parametrize("number", [0, 1, 5, 17])
def test_a_disk_that_refuses_names_itself_and_keeps_what_was_committed(tmp_path, monkeypatch, call, number):
    torch.manual_seed(0)
    model, out = nn.Sequential(nn.Linear(6, 300), nn.ReLU()), tmp_path / "a"
    owner = Folder if call == "begin" else GrowingFile
    real, calls = getattr(owner, call), iter(range(10**9))

    def failing(self, what):
        if (call == "write" or "activation" in what) and next(calls) == number:
            raise OSError(28, "No space left on device")
        return real(self, what)

    monkeypatch.setattr(owner, call, failing)
    with pytest.raises(StoreError, match=r"(No space left on device|can't be created)"):
        pk.capture(model, X, out, batch_size=5, memory=2 * 10 * 600 * 4)
    monkeypatch.undo()
    if out.exists():
        assert not list(out.rglob("*.partial"))
        assert pk.verify(out)
        pk.capture(model, X, out, batch_size=5, memory=2 * 10 * 600 * 4, resume=True)
        with torch.no_grad():
            expected = torch.cat([model(part) for part in X.split(5)])
        np.testing.assert_array_equal(zarr.open_array(out / "1/activation")[:], expected)


def test_a_site_that_gives_rows_twice_is_refused(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.runs = nn.Linear(6, 3), 0

        def forward(self, x):
            return self.net(x)

    model = Twice()

    def loss(output, labels):
        model.runs += 1
        return (output - model(X[: len(output)]) if model.runs > 1 else output).sum()

    data = (X, torch.zeros(95, dtype=torch.long))
    with pytest.raises(SiteError, match="net of Twice ran more often at batch 1 than in the first batch"):
        pk.capture(model, data, tmp_path / "a", sites=["net", "net:grad"], loss=loss, batch_size=10)


def test_a_part_larger_than_one_write_takes(tmp_path):
    folder = Folder(tmp_path)
    folder.make_room(["a/c"])
    values = np.arange(200_000).reshape(-1, 8) * (1 - 2j)
    folder.write("a/c/0", [values, values.tobytes(), values[:0], b"end"])
    assert (tmp_path / "a/c/0").read_bytes() == 2 * values.tobytes() + b"end"
