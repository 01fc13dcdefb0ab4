"""Chunks that are filled in their files: the bytes of those filled in memory, whatever interrupts them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from torch import nn

import probekit as pk
from probekit._files import PartialFile
from probekit._store.codec import ChunkCodec
from probekit._store.layout import ArraySpec
from probekit._store.local import LocalBackend
from probekit._write.chunk_file import ChunkFile
from probekit._write.transfer import Transfer
from probekit.errors import StoreError
from tests.models import samples
from tests.stores import capture_into, chunks

X, _ = samples()


class InMemory(Transfer):
    immediate = False


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
    return nn.Sequential(nn.Linear(6, 11 * 404), nn.Unflatten(1, (11, 404)), nn.Conv1d(11, 3, 5))


@pytest.mark.parametrize(("model", "samples"), [(Forms, 95), (wide, 995)])
@pytest.mark.parametrize("memory", ["4MiB", "256MiB"])
def test_a_store_is_that_of_chunks_in_memory(tmp_path, model, samples, memory):
    made, x = model(), X.repeat(11, 1)[:samples]
    pk.capture(made, x, tmp_path / "files", batch_size=10, memory=memory)
    capture_into(LocalBackend(tmp_path / "memory"), made, x, batch_size=10, memory=memory, transfer=InMemory())
    assert chunks(tmp_path / "files") == chunks(tmp_path / "memory")
    if model is wide and memory == "256MiB":
        with torch.no_grad():
            expected = made[0](x)
        assert len(list((tmp_path / "files/0/activation/c/0").iterdir())) > 3  # the last chunk being narrower
        np.testing.assert_allclose(pk.open(tmp_path / "files")["0"]["activation"].values, expected, atol=1e-5)


@pytest.mark.parametrize(("sites", "begun"), [(3, 4), (70, 0)])
def test_only_so_many_files_are_open_at_a_time(tmp_path, sites, begun):
    seen = []

    class Counting(nn.Sequential):
        def forward(self, x):
            seen.append(len(list(tmp_path.rglob("activation/**/*.partial"))))
            return super().forward(x)

    pk.capture(Counting(*(nn.Identity() for _ in range(sites))), X, tmp_path / "a", batch_size=40, memory="64MiB")
    assert seen[-1] == begun  # with the model's own output one site more


SPEC = ArraySpec("a", ("sample", "node"), (3,), np.dtype(np.float32), (8, 3))


def begin(folder: Path, kind: type[PartialFile] = PartialFile, spec: ArraySpec = SPEC) -> ChunkFile:
    (folder / "a/c/0").mkdir(parents=True, exist_ok=True)
    file = kind(str(folder / "a/c/0/0"), str(folder / "a/c/0/0.partial"))
    return ChunkFile(file, ChunkCodec(spec), spec.chunk[0])


def rows_of(folder: Path):
    return ChunkCodec(SPEC).decode((folder / "a/c/0/0").read_bytes())


@pytest.mark.parametrize(
    ("appended", "kept"),
    [(rows, kept) for rows in [(), (1,), (3, 5), (2, 2)] for kept in (0, 1, 4, 8) if kept <= sum(rows)],
)
def test_a_chunk_ends_with_the_rows_that_count_and_zeros(tmp_path, appended, kept):
    values, chunk = np.arange(24, dtype=np.float32).reshape(8, 3) + 1, begin(tmp_path)
    start = 0
    for rows in appended:
        chunk.append(values[start : start + rows])
        start += rows
    assert not (tmp_path / "a/c/0/0").exists()
    chunk.finish(kept)
    expected = np.zeros((8, 3), np.float32)
    expected[:kept] = values[:kept]
    np.testing.assert_array_equal(rows_of(tmp_path), expected)
    assert [file.name for file in (tmp_path / "a/c/0").iterdir()] == ["0"]


@pytest.mark.parametrize("written", [False, True])
def test_a_chunk_that_was_interrupted_keeps_what_came_before(tmp_path, written):
    class Interrupted(PartialFile):
        writes = 0

        def write(self, content):
            self.writes += 1
            if self.writes != 2 or written:
                super().write(content)
            if self.writes == 2:
                raise KeyboardInterrupt

    values, chunk = np.ones((8, 3), np.float32), begin(tmp_path, Interrupted)
    chunk.append(values[:2])
    with pytest.raises(KeyboardInterrupt):
        chunk.append(2 * values[:3])
    chunk.finish(2)
    np.testing.assert_array_equal(rows_of(tmp_path), np.concatenate([values[:2], np.zeros((6, 3), np.float32)]))


class Unreserved(PartialFile):
    """As where a file system can't reserve room."""

    def reserve(self, length):
        pass


def can_reserve(folder):
    file = PartialFile(str(folder / "try"), str(folder / "try.partial"))
    file.reserve(4096)
    blocks = (folder / "try.partial").stat().st_blocks
    file.drop()
    return blocks > 0


@pytest.mark.parametrize("kind", [PartialFile, Unreserved])
def test_a_chunk_of_few_rows_takes_little_of_the_disk(tmp_path, kind):
    spec = ArraySpec("a", ("sample", "node"), (256,), np.dtype(np.float32), (4096, 256))
    chunk, values = begin(tmp_path, kind, spec), np.ones((40, 256), np.float32)
    chunk.append(values)
    if kind is PartialFile and can_reserve(tmp_path):
        assert (tmp_path / "a/c/0/0.partial").stat().st_blocks * 512 >= 4096 * 1024
    chunk.finish(40)
    file = tmp_path / "a/c/0/0"
    np.testing.assert_array_equal(ChunkCodec(spec).decode(file.read_bytes())[:40], values)
    assert file.stat().st_size == 4096 * 1024 + 4
    assert file.stat().st_blocks * 512 < 2**18


def test_what_is_dropped_leaves_nothing(tmp_path):
    chunk = begin(tmp_path)
    chunk.append(np.ones((2, 3), np.float32))
    chunk.drop()
    assert list((tmp_path / "a/c/0").iterdir()) == []


class FullDisk(LocalBackend):
    """A disk that is full when so many chunks have been begun, or so many blocks written to them."""

    def __init__(self, path, call, number):
        super().__init__(path)
        self.call, self.left = call, number

    def begin(self, key):
        self.count("begin", "activation" in key)
        file = super().begin(key)
        write = file.write

        def counted(content):
            self.count("write", True)
            write(content)

        file.write = counted
        return file

    def count(self, call, counts):
        if call == self.call and counts:
            self.left -= 1
            if self.left == -1:
                raise OSError(28, "No space left on device")


@pytest.mark.parametrize("call", ["begin", "write"])
@pytest.mark.parametrize("number", [0, 1, 5, 17])
def test_a_disk_that_refuses_names_itself_and_keeps_what_was_committed(tmp_path, call, number):
    torch.manual_seed(0)
    model, out = nn.Sequential(nn.Linear(6, 300), nn.ReLU()), tmp_path / "a"
    with pytest.raises(StoreError, match=r"(No space left on device|can't be created)"):
        capture_into(FullDisk(out, call, number), model, X, batch_size=5, memory=2 * 10 * 600 * 4)
    if out.exists():
        assert not list(out.rglob("*.partial"))
        assert pk.verify(out)
        pk.capture(model, X, out, batch_size=5, memory=2 * 10 * 600 * 4, resume=True)
        with torch.no_grad():
            expected = torch.cat([model(part) for part in X.split(5)])
        np.testing.assert_array_equal(zarr.open_array(out / "1/activation")[:], expected)
