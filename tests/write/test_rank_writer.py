"""One store written by several processes, which torchrun starts: the same bits for any number of them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import probekit as pk
from probekit.errors import DataError, StoreError

STUDY = """
import os, sys, torch, torch.distributed as dist, probekit as pk
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
out, dies = sys.argv[1], sys.argv[2]
dist.init_process_group("gloo")
x = torch.randn(95, 6, generator=torch.Generator().manual_seed(0))
data = TensorDataset(x, torch.arange(95) % 4)
torch.manual_seed(0)
class Study(nn.Sequential):
    def forward(self, x):
        rank, sample, how = dies.split("-")
        if int(rank) == dist.get_rank() and (x == data.tensors[0][int(sample), 0]).any():
            if how == "killed":
                os.kill(os.getpid(), 9)
            raise ValueError("no such thing")
        return super().forward(x)
model = Study(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 3))
loader = DataLoader(data, batch_size=5, sampler=pk.ChunkSampler(data, chunk_rows=10))
columns = {"thirds": torch.arange(95) // 32}
tree = pk.capture(model, loader, out, sites=["1", "2"], resume=True, columns=columns, predictions=True)
assert tree.sizes["sample"] == 95
dist.destroy_process_group()
"""


def torchrun(tmp_path: Path, processes: int, out: Path, dies: str = "9-0-never") -> subprocess.CompletedProcess[str]:
    study = tmp_path / "study.py"
    study.write_text(STUDY)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([*command, str(study), str(out), dies], capture_output=True, text=True, timeout=120)


def files(store: Path) -> dict[str, bytes]:
    """Every file of a store; of the record, all but the time of its making."""
    found = {str(file.relative_to(store)): file.read_bytes() for file in store.rglob("*") if file.is_file()}
    head, _, tail = found["zarr.json"].partition(b'"created": "')
    return found | {"zarr.json": head + tail[25:]}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("alone")
    done = torchrun(folder, 1, folder / "a")
    assert done.returncode == 0, done.stderr
    return files(folder / "a")


@pytest.mark.parametrize("processes", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))])
def test_the_store_is_the_same_for_any_number_of_processes(
    tmp_path: Path, alone: dict[str, bytes], processes: int
) -> None:
    done = torchrun(tmp_path, processes, tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "a") == alone


@pytest.mark.parametrize(
    ("processes", "dies", "then"),
    [
        (3, "1-70-killed", 2),
        pytest.param(2, "0-80-killed", 1, marks=pytest.mark.slow),
        pytest.param(3, "1-70-fails", 1, marks=pytest.mark.slow),
        pytest.param(4, "3-70-killed", 3, marks=pytest.mark.slow),
        pytest.param(1, "0-50-killed", 4, marks=pytest.mark.slow),
    ],
)
def test_after_a_process_died_another_number_of_them_finishes(
    tmp_path: Path, alone: dict[str, bytes], processes: int, dies: str, then: int
) -> None:
    first = torchrun(tmp_path, processes, tmp_path / "a", dies)
    assert first.returncode != 0
    if dies.endswith("fails"):
        assert "StoreError: Process 1 failed: " in first.stderr
    with pytest.warns(UserWarning, match="its capture is running or was stopped"):
        rows = pk.open(tmp_path / "a").sizes["sample"]
    assert rows < 95
    done = torchrun(tmp_path, then, tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "a") == alone


def test_the_rows_are_those_of_a_capture_without_a_sampler(tmp_path: Path, alone: dict[str, bytes]) -> None:
    x = torch.randn(95, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 3))
    options = {
        "columns": {"thirds": torch.arange(95) // 32},
        "batch_size": 5,
        "memory": 2 * 10 * 33 * 4,
        "predictions": True,
    }
    ours = pk.capture(model, (x, torch.arange(95) % 4), tmp_path / "a", sites=["1", "2"], **options)
    chunks = {name: content for name, content in files(tmp_path / "a").items() if "/c/" in name}
    assert chunks == {name: content for name, content in alone.items() if "/c/" in name}
    np.testing.assert_allclose(ours["2"]["activation"].values, model(x).detach(), rtol=1e-5, atol=1e-6)


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
    with pytest.raises(StoreError, match="has chunk rows of 8195 samples, and the ChunkSampler of 10"):
        pk.capture(failing, loader(chunk_rows=10), tmp_path / "b", resume=True)
    pk.capture(nn.Linear(6, 3), loader(chunk_rows=10), tmp_path / "a")
    with pytest.raises(DataError, match="append= takes data in order"):
        pk.capture(nn.Linear(6, 3), loader(chunk_rows=10), tmp_path / "a", append="samples")
