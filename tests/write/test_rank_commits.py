"""One store written by several processes, as torchrun starts them: the same bits for any number of them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, TensorDataset

import probekit as pk
from probekit._write.commits import RecordFile
from probekit.errors import DataError, StoreError
from tests import processes
from tests.models import mlp, samples
from tests.stores import chunks, contents, opened

ROOT = Path(__file__).parents[2]
NEVER = "9-0-never"  # no process has the rank 9

STUDY = """
import sys
from tests.write.test_rank_commits import captured
captured(*sys.argv[1:])
"""


class Dying(nn.Sequential):
    """Dies in the process of a rank, at a sample."""

    dies = NEVER

    def forward(self, x: Tensor) -> Tensor:
        rank, sample, how = self.dies.split("-")
        if int(rank) == dist.get_rank() and bool((x == X[int(sample), 0]).any()):
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("no such thing")
        return super().forward(x)


X, Y = samples()
OPTIONS: dict[str, Any] = {"sites": ["1", "2"], "columns": {"thirds": Y // 32}, "predictions": True}


def captured(out: str | Path, dies: str = NEVER) -> None:
    """What each of the processes does."""
    dist.init_process_group("gloo")
    model, data = Dying(*mlp(30)), TensorDataset(X, Y)
    model.dies = dies
    loader = DataLoader(data, batch_size=5, sampler=pk.ChunkSampler(data, chunk_rows=10))
    assert pk.capture(model, loader, out, resume=True, **OPTIONS).sizes["sample"] == 95
    dist.destroy_process_group()


def torchrun(tmp_path: Path, count: int, out: Path, dies: str = NEVER) -> subprocess.CompletedProcess[str]:
    (tmp_path / "study.py").write_text(STUDY)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return subprocess.run(
        [*command, str(tmp_path / "study.py"), str(out), dies],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def forked(count: int, out: Path, dies: str = NEVER) -> set[int]:
    return processes.group(count, captured, out, dies)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("alone")
    assert forked(1, folder / "a") == {0}
    return contents(folder / "a")


@pytest.mark.parametrize("count", [2, *(pytest.param(n, marks=pytest.mark.long) for n in (3, 4))])
def test_the_store_is_the_same_for_any_number_of_processes(tmp_path: Path, alone: dict[str, bytes], count: int) -> None:
    assert forked(count, tmp_path / "a") == {0}
    assert contents(tmp_path / "a") == alone


@pytest.mark.slow
def test_torchrun_starts_processes_that_write_one_store(tmp_path: Path, alone: dict[str, bytes]) -> None:
    done = torchrun(tmp_path, 2, tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "a") == alone


@pytest.mark.parametrize(
    ("count", "dies", "then"),
    [
        (3, "1-70-killed", 2),
        pytest.param(2, "0-80-killed", 1, marks=pytest.mark.long),
        pytest.param(4, "3-70-killed", 3, marks=pytest.mark.long),
        pytest.param(1, "0-50-killed", 4, marks=pytest.mark.long),
    ],
)
def test_after_a_process_died_another_number_of_them_finishes(
    tmp_path: Path, alone: dict[str, bytes], count: int, dies: str, then: int
) -> None:
    assert -signal.SIGKILL in forked(count, tmp_path / "a", dies)
    assert_finished_by(then, tmp_path / "a", alone)


@pytest.mark.long
def test_a_process_that_fails_is_named_by_the_others(tmp_path: Path, alone: dict[str, bytes]) -> None:
    first = torchrun(tmp_path, 3, tmp_path / "a", "1-70-fails")
    assert first.returncode != 0
    assert "StoreError: Process 1 failed: " in first.stderr
    assert_finished_by(1, tmp_path / "a", alone)


def assert_finished_by(count: int, out: Path, alone: dict[str, bytes]) -> None:
    """A stopped capture is one that so many processes finish."""
    with pytest.warns(UserWarning, match="its capture is running or was stopped"):
        assert pk.open(out).sizes["sample"] < 95
    assert forked(count, out) == {0}
    assert contents(out) == alone


def test_the_rows_are_those_of_a_capture_without_a_sampler(tmp_path: Path, alone: dict[str, bytes]) -> None:
    # A slice of X may lie across cache lines, where torch adds up in another order.
    data = DataLoader(TensorDataset(X, Y), batch_size=5)
    ours = pk.capture(mlp(30), data, tmp_path / "a", memory=2 * 10 * 33 * 4, **OPTIONS)
    ours_alone = {name: content for name, content in alone.items() if not name.endswith("zarr.json")}
    assert chunks(tmp_path / "a") == ours_alone
    np.testing.assert_allclose(ours["2"]["activation"].values, mlp(30)(X).detach(), rtol=1e-5, atol=1e-6)


def loader(**options: object) -> DataLoader[object]:
    data = TensorDataset(torch.zeros(20, 6), torch.zeros(20, dtype=torch.long))
    return DataLoader(data, batch_size=5, sampler=pk.ChunkSampler(data, **{"rank": 0, "world": 1, **options}))


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no process group. Start with torchrun"):
        pk.capture(nn.Linear(6, 3), loader(world=2), tmp_path / "a")
    with pytest.raises(StoreError, match="chunk_rows is 7, which must be a multiple of the batch size, 5"):
        pk.capture(nn.Linear(6, 3), loader(chunk_rows=7), tmp_path / "a")
    with pytest.raises(StoreError, match=r"takes 468.8 KiB of row buffers .* memory is 300 KiB"):
        pk.capture(nn.Linear(6, 3000), loader(chunk_rows=20), tmp_path / "a", memory="300KiB")
    with pytest.raises(DataError, match="the rank below the number of processes"):
        loader(rank=2, world=2)
    assert list(tmp_path.iterdir()) == []
    failing = nn.Sequential(nn.Linear(6, 3), nn.ReLU())
    failing[0].register_forward_hook(lambda *given: 1 / 0 if given[1][0][0, 0] else None)
    batches = [(torch.full((5, 6), value), torch.zeros(5, dtype=torch.long)) for value in (0.0, 0.0, 0.0, 1.0)]
    with pytest.raises(ZeroDivisionError):
        pk.capture(failing, batches, tmp_path / "b")
    with pytest.raises(StoreError, match="has chunk rows of 8195 samples, and the ChunkSampler has 10"):
        pk.capture(failing, loader(chunk_rows=10), tmp_path / "b", resume=True)
    pk.capture(nn.Linear(6, 3), loader(chunk_rows=10), tmp_path / "a")
    with pytest.raises(DataError, match="append= takes data in order"):
        pk.capture(nn.Linear(6, 3), loader(chunk_rows=10), tmp_path / "a", append="samples")


class Failing(Dataset[Any]):
    """Sixty samples, of which one can't be read."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == self.stop:
            raise ZeroDivisionError
        return torch.full((6,), 1.0 + index), index % 3


def in_chunk_rows(out: Path, data: Dataset[Any], *, batch_size: int = 5, **group: int) -> None:
    sampler = pk.ChunkSampler(data, chunk_rows=10, **{"rank": 0, "world": 1, **group})
    pk.capture(mlp(30), DataLoader(data, batch_size, sampler=sampler), out, resume=True)


def test_one_process_writes_anew_what_several_have_marked(tmp_path: Path) -> None:
    in_chunk_rows(tmp_path / "whole", Failing())
    out = tmp_path / "a"
    with pytest.raises(ZeroDivisionError):
        in_chunk_rows(out, Failing(15))
    record = (out / "zarr.json").read_bytes()
    with pytest.raises(ZeroDivisionError):
        in_chunk_rows(out, Failing(45))
    (out / "zarr.json").write_bytes(record)  # as if others had marked the chunk rows that this record doesn't count
    with pytest.raises(ZeroDivisionError):
        pk.capture(mlp(30), DataLoader(Failing(15), 5), out, resume=True)
    in_chunk_rows(out, Failing())
    assert pk.verify(out)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_capture_that_was_killed_when_all_was_published_vouches_for_the_last_chunks(
    tmp_path: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = TensorDataset(X, Y)
    options = {**OPTIONS, "resume": True}

    def capture() -> None:
        sampler = pk.ChunkSampler(data, chunk_rows=10, rank=0, world=1)
        pk.capture(mlp(30), DataLoader(data, 5, sampler=sampler), tmp_path / "a", **options)

    with monkeypatch.context() as patch:
        patch.setattr(RecordFile, "close", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            capture()
    assert opened(tmp_path / "a").sizes["sample"] == 95
    capture()
    found = contents(tmp_path / "a")
    checksums = [json.loads(each["zarr.json"])["consolidated_metadata"]["chunk_crc32c"] for each in (found, alone)]
    assert checksums[0] == checksums[1]


def test_a_batch_sampler_around_a_chunk_sampler_gives_the_same_rows(tmp_path: Path) -> None:
    batches = BatchSampler(pk.ChunkSampler(60, chunk_rows=10, rank=0, world=1), 5, drop_last=False)
    tree = pk.capture(mlp(30), DataLoader(Failing(), batch_sampler=batches), tmp_path / "a", sites="2")
    np.testing.assert_array_equal(tree["2"]["sample_id"], np.arange(60))


def test_a_process_whose_only_batch_is_short_takes_part(tmp_path: Path) -> None:
    data = TensorDataset(X[:3], Y[:3])
    in_chunk_rows(tmp_path / "a", data)
    assert pk.open(tmp_path / "a").sizes["sample"] == 3
