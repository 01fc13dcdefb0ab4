"""Sites with a row for each token in a store of several processes: the same files for any number of them."""

import itertools
import os
import shutil
import signal
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import xarray as xr
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import probekit as pk
from probekit._store.local import LocalBackend
from probekit._write.rank_commits import RankCommits
from probekit.errors import DataError, StoreError
from tests import processes
from tests.models import TokenLayers
from tests.stores import chunks, contents, opened

ROWS, CHUNK_ROWS, BATCH, POSITIONS = 37, 8, 4, 7
NEVER = (9, 0)  # no process has the rank 9


class Texts(Dataset[dict[str, Any]]):
    """Texts of one to seven tokens, padded."""

    def __init__(self) -> None:
        self.lengths = np.random.default_rng(0).integers(1, POSITIONS + 1, ROWS)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Any]:
        mask = torch.arange(POSITIONS) < int(self.lengths[index])
        ids = (torch.arange(POSITIONS) + 3 * index) % 50 * mask
        return {"input_ids": ids, "attention_mask": mask.long(), "label": index % 3, "split": "ab"[index % 2] * index}


class Encoder(TokenLayers):
    """Dies in the process of a rank at a sample."""

    dies = NEVER

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        rank, sample = self.dies
        if dist.is_initialized() and dist.get_rank() == rank and bool((input_ids[:, 0] == 3 * sample % 50).any()):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(input_ids, attention_mask)


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(OrderedDict(embed=nn.Embedding(50, 5), mix=nn.Linear(5, 4), norm=nn.LayerNorm(4)))


# Rows for the real tokens, rows for all positions, and rows for samples.
REDUCE = {"mix": "tokens", "embed": "tokens", "norm": "mean"}
OPTIONS: dict[str, Any] = {
    "sites": ["embed", "mix", "norm"],
    "reduce": REDUCE,
    "mask": {"embed": False},
    "columns": {"split": "split"},
    "memory": 2400,
}


def shared(out: Path | str, model: nn.Module | None = None, data: Texts | None = None, **options: Any) -> None:
    """What each of the processes captures."""
    data = data or Texts()
    loader = DataLoader(data, BATCH, sampler=pk.ChunkSampler(data, chunk_rows=CHUNK_ROWS))
    pk.capture(model or encoder(), loader, out, **OPTIONS | {"resume": True} | options)


def captured(out: Path, dies: tuple[int, int]) -> None:
    dist.init_process_group("gloo")
    model = encoder()
    model.dies = dies
    shared(out, model=model)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("alone") / "a"
    shared(out)
    assert pk.verify(out)
    return contents(out)


def test_the_rows_are_those_of_a_capture_without_a_sampler(tmp_path: Path, alone: dict[str, bytes]) -> None:
    tree = pk.capture(encoder(), DataLoader(Texts(), BATCH), tmp_path / "a", **OPTIONS)
    assert opened(tmp_path / "a").attrs["token_rows"] == 11
    assert opened(tmp_path / "a").attrs["chunk_rows"] != CHUNK_ROWS
    tokens = {name: content for name, content in chunks(tmp_path / "a").items() if name[:4] in ("mix/", "embe")}
    assert {name: content for name, content in alone.items() if name in tokens} == tokens
    assert len(tree["mix"]["activation"]) == Texts().lengths.sum()
    assert len(tree["embed"]["activation"]) == ROWS * POSITIONS


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.long), 4])
def test_the_store_is_the_same_for_any_number_of_processes(tmp_path: Path, alone: dict[str, bytes], count: int) -> None:
    assert processes.group(count, captured, tmp_path / "a", NEVER) == {0}
    assert contents(tmp_path / "a") == alone


@pytest.mark.parametrize(
    ("count", "dies", "then"),
    [(3, (1, 33), 2), pytest.param(2, (0, 18), 4, marks=pytest.mark.long), (4, (3, 30), 1)],
)
def test_after_a_process_died_another_number_of_them_finishes(
    tmp_path: Path, alone: dict[str, bytes], count: int, dies: tuple[int, int], then: int
) -> None:
    assert -signal.SIGKILL in processes.group(count, captured, tmp_path / "a", dies)
    assert processes.group(then, captured, tmp_path / "a", NEVER) == {0}
    assert contents(tmp_path / "a") == alone


class Killed(BaseException):
    """Stands for kill -9."""


def killed_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have everything that changes the store end at that change."""
    count = itertools.count()
    for name in ("write", "delete"):

        def change(self: Any, key: str, *given: Any, act: Any = getattr(LocalBackend, name)) -> None:
            if next(count) >= number:
                raise Killed
            act(self, key, *given)

        monkeypatch.setattr(LocalBackend, name, change)


def ends(monkeypatch: pytest.MonkeyPatch, out: Path, number: int) -> bool:
    """Whether a capture ends that is killed at that change."""
    with monkeypatch.context() as patch:
        killed_at(patch, number)
        try:
            shared(out)
        except (Killed, StoreError):
            return False
    return True


def test_killed_anywhere_it_keeps_what_is_committed_and_resumes(
    tmp_path: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared(tmp_path / "whole")
    whole, ended, number = pk.open(tmp_path / "whole").load(), False, 0
    while not ended:
        number += 29
        out = tmp_path / f"{number}"
        ended = ends(monkeypatch, out, number)
        if not ended:
            committed = opened(out)
            assert pk.verify(out)
            for site in ("embed", "mix"):
                rows = len(committed[site]["activation"])
                for name in ("activation", "sample_id", "position", "split"):
                    np.testing.assert_array_equal(committed[site][name].values, whole[site][name].values[:rows])
                np.testing.assert_array_equal(np.unique(committed[site]["sample_id"]), committed["sample_id"].values)
        shared(out)
        assert contents(out) == alone
    assert number > 300


@pytest.mark.parametrize("options", [{"compression": "fast"}, {"durable": True}], ids=str)
def test_fragments_are_put_together_whatever_the_files_are(tmp_path: Path, options: dict[str, Any]) -> None:
    shared(tmp_path / "a", **options)
    alone = pk.capture(encoder(), DataLoader(Texts(), BATCH), tmp_path / "b", **OPTIONS | options)
    for site in ("embed", "mix", "norm"):
        xr.testing.assert_identical(pk.open(tmp_path / "a")[site].to_dataset(), alone[site].to_dataset())
    assert pk.verify(tmp_path / "a")


def test_in_a_bucket_it_is_the_same(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/a.zarr"
    shared(url)
    shared(tmp_path / "a")
    assert pk.verify(url)
    xr.testing.assert_identical(pk.open(url)["mix"].to_dataset(), pk.open(tmp_path / "a")["mix"].to_dataset())


def test_one_process_completes_what_several_began(
    tmp_path: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not ends(monkeypatch, tmp_path / "a", 250)
    assert 0 < opened(tmp_path / "a").sizes["sample"] < ROWS
    pk.capture(encoder(), DataLoader(Texts(), BATCH), tmp_path / "a", **OPTIONS, resume=True)
    assert contents(tmp_path / "a") == alone


def test_a_store_that_one_process_stopped_within_a_chunk_row_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "a"
    pk.capture(encoder(), DataLoader(Texts(), BATCH), out, **OPTIONS)
    rows = pk.open(out).attrs["chunk_rows"]
    shutil.rmtree(out)
    batches = list(DataLoader(Texts(), BATCH))[:1]

    def stopped() -> Iterator[Any]:
        yield from batches
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pk.capture(encoder(), stopped(), out, **OPTIONS)
    sampler = pk.ChunkSampler(ROWS, chunk_rows=rows, rank=0, world=1)
    with pytest.raises(
        StoreError, match=r"was stopped within a chunk row.*Let one process complete it, without a Chunk"
    ):
        pk.capture(encoder(), DataLoader(Texts(), BATCH, sampler=sampler), out, **OPTIONS, resume=True)


def test_data_with_other_numbers_of_tokens_are_refused(tmp_path: Path) -> None:
    class Changing(Texts):
        """The text number 20 has another length each time, as a random transform gives it."""

        def __getitem__(self, index: int) -> dict[str, Any]:
            self.lengths[20] = self.lengths[20] % POSITIONS + (index == 20)
            return super().__getitem__(index)

    message = (
        r"mix gave \d+ rows for the 4 samples from number 20 on, and the mask 'attention_mask' of the same samples"
    )
    with pytest.raises(DataError, match=message):
        shared(tmp_path / "a", data=Changing())
    assert opened(tmp_path / "a").sizes["sample"] == 16


def test_rows_that_no_mask_counts_must_be_as_many_for_each_sample(tmp_path: Path) -> None:
    class Shorter(Encoder):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            last = bool((input_ids[:, 0] == 3 * 20 % 50).any())
            return super().forward(input_ids[:, :6] if last else input_ids, attention_mask)

    torch.manual_seed(0)
    model = Shorter(OrderedDict(embed=nn.Embedding(50, 5)))
    message = r"embed gave 24 rows for the 4 samples from number 20 on, and in the first batch 7 for each.*mask="
    with pytest.raises(DataError, match=message):
        shared(tmp_path / "a", model=model, sites="embed", reduce="tokens", mask=False)
    assert opened(tmp_path / "a").sizes["sample"] == 16


def begun(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with markers of its first four chunk rows, none of which is committed."""
    model = encoder()
    model.embed.register_forward_hook(lambda module, args, output: 1 / 0 if 3 * 33 % 50 in args[0][:, 0] else None)
    with monkeypatch.context() as patch:
        patch.setattr(RankCommits, "_publish_prefix", lambda self: None)  # as if the first process were behind
        with pytest.raises(ZeroDivisionError):
            shared(out, model)
    assert opened(out).sizes["sample"] == 0


def test_marked_rows_that_do_not_follow_the_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(tmp_path / "a", monkeypatch)
    (tmp_path / "a/.done/2").unlink()  # as if the process that had this chunk row was killed
    data = Texts()
    data.lengths[16] = data.lengths[16] % POSITIONS + 1
    with pytest.raises(StoreError, match=r"before number 24 had another number of tokens when sample 24 was captured"):
        shared(tmp_path / "a", data=data)


def test_a_chunk_row_whose_fragment_is_damaged_is_captured_again(
    tmp_path: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path / "a", monkeypatch)
    [*_, fragment] = sorted((tmp_path / "a/.done/fragments/mix/activation").iterdir())
    fragment.write_bytes(fragment.read_bytes()[:-1] + b"x")
    with pytest.raises(
        StoreError, match=rf"/{fragment.name}, which another .* \(wrong checksum\); the samples .* again\. I"
    ):
        shared(tmp_path / "a")
    shared(tmp_path / "a")
    assert contents(tmp_path / "a") == alone
