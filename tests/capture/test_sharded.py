"""Models that several processes run together: their parameters are shared out (fully_shard), or their work."""

import copy
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.utils.data import DataLoader, TensorDataset

import probekit as pk
from probekit.errors import DataError, ModelError, ProbekitError, SiteError
from tests import processes
from tests.models import samples
from tests.stores import contents, opened

X, Y = samples(50)
HIDDEN = 8
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 4), nn.LayerNorm(4), nn.Linear(4, 4))


def fsdp() -> nn.Module:
    model = plain()
    for layer in (model[0], model[2]):
        fully_shard(layer)
    return fully_shard(model)


def tensor_parallel(**plan: Any) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return parallelize_module(plain(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel(), **plan})


def with_dtensors() -> nn.Module:
    whole = {"0": ColwiseParallel(use_local_output=False), "2": RowwiseParallel()}
    return tensor_parallel(**whole, **{"4": ColwiseParallel(use_local_output=False)})


def both() -> nn.Module:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    whole = {"0": ColwiseParallel(use_local_output=False), "2": RowwiseParallel()}
    return fully_shard(parallelize_module(plain(), mesh["tensor"], whole), mesh=mesh["data"])


def in_group(work: Callable[..., None], *arguments: Any) -> None:
    dist.init_process_group("gloo")
    work(*arguments)
    dist.destroy_process_group()


def run(count: int, work: Callable[..., None], *arguments: Any) -> None:
    assert processes.group(count, in_group, work, *arguments) == {0}


def captured(make: Callable[[], nn.Module], out: Path, sites: Any = "*", **options: Any) -> None:
    """All processes capture; the store is that of the model in one process."""
    tree = pk.capture(make(), (X, Y), out, sites=sites, batch_size=10, **options)
    assert tree.attrs["complete"]
    if dist.get_rank() == 0:
        alone = pk.capture(plain(), (X, Y), f"{out}.alone", sites=sites, batch_size=10, **options)
        for name in alone.children:
            ours, theirs = tree[name].to_dataset(), alone[name].to_dataset()
            np.testing.assert_allclose(ours["activation"], theirs["activation"], rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(ours["label"], theirs["label"])
        assert tree.attrs["weights"] == alone.attrs["weights"] == pk.weights_digest(plain())
        assert alone.children.keys() == tree.children.keys()
        assert pk.verify(out)
    dist.barrier()


WHOLE = ["2", "3", "4", "0:input", "2:input"]  # in every process, also where the output of '0' is a part


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("make", "sites"), [(fsdp, "*"), (tensor_parallel, WHOLE), (with_dtensors, "*")], ids=["fsdp", "tensor", "dtensor"]
)
def test_the_first_process_writes_what_one_process_would(
    tmp_path: Path, make: Callable[[], nn.Module], sites: Any, count: int
) -> None:
    run(count, captured, make, tmp_path / "a", sites)


def test_sharded_in_two_ways_it_is_the_same(tmp_path: Path) -> None:
    run(4, captured, both, tmp_path / "a")


def all_options(out: Path) -> None:
    for number, make in enumerate((fsdp, with_dtensors)):
        captured(make, Path(f"{out}{number}"), ["0", "3:grad", "2"], predictions=True)
    captured(with_dtensors, Path(f"{out}2"), ["2", "0"], reduce={"0": [0, 5]}, dtype="float16")


def test_predictions_gradients_and_reductions_are_of_the_whole(tmp_path: Path) -> None:
    run(2, all_options, tmp_path / "a")


def refuses(error: type[ProbekitError], match: str, *given: Any, **options: Any) -> None:
    with pytest.raises(error, match=match):
        pk.capture(*given, **options)


def parts_refused(out: Path) -> None:
    part = r"{} is another tensor in each of the processes .* here of shape \({}\), so each has a part .*use_local"
    local, names = HIDDEN // dist.get_world_size(), {"0": r"0 \(Linear\)", "1": r"1 \(ReLU\)"}
    for site, name in names.items():
        refuses(SiteError, part.format(name, f"3, {local}"), tensor_parallel(), X, out, sites=site)
    sequence = nn.Sequential(nn.Identity(), nn.LayerNorm(6))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    halves = PrepareModuleOutput(output_layouts=Replicate(), desired_output_layouts=Shard(1))
    parallelize_module(sequence, mesh, {"0": halves, "1": SequenceParallel(use_local_output=True)})
    refuses(SiteError, part.format(r"1 \(LayerNorm\)", "3, 2, 6"), sequence, X[:48].view(12, 4, 6), out, sites="1")
    vocabulary = tensor_parallel(**{"4": ColwiseParallel()})
    refuses(
        ModelError, "The logits of Sequential are another tensor", vocabulary, (X, Y), out, sites="2", predictions=True
    )
    refuses(ModelError, "The logits of Sequential are another tensor", vocabulary, (X, Y), out, sites="2:grad")
    nothing = tensor_parallel()
    for parameter in nothing.parameters():
        nn.init.zeros_(parameter)  # whose parts are alike
    refuses(SiteError, part.format(names["0"], f"3, {local}"), nothing, X, out, sites="0")
    assert not out.exists()


def test_a_part_of_an_activation_is_refused(tmp_path: Path) -> None:
    run(2, parts_refused, tmp_path / "a")


def data_refused(out: Path) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    refuses(
        DataError,
        "is sharded over several processes, which run it together, and their data differ",
        fsdp(),
        X[rank:],
        out,
    )
    sampler = pk.ChunkSampler(50, chunk_rows=10)
    shared = DataLoader(TensorDataset(X, Y), 10, sampler=sampler)
    refuses(
        DataError, r"parts of what the modules of Sequential give \(parallelize_module\)", with_dtensors(), shared, out
    )
    few = DataLoader(TensorDataset(X[:14], Y[:14]), 10, sampler=pk.ChunkSampler(14, chunk_rows=10))
    if world == 2:
        refuses(
            DataError, "their first batches have 10, 4 samples. Choose the ChunkSampler's chunk_rows", fsdp(), few, out
        )
    assert not out.exists()


def test_data_that_do_not_fit_the_sharding_are_refused(tmp_path: Path) -> None:
    run(2, data_refused, tmp_path / "a")


def in_chunk_rows(out: Path, dies: int | None, model: Callable[[], nn.Module] = fsdp) -> None:
    data = TensorDataset(X, Y)
    made = model()
    made.register_forward_pre_hook(lambda module, args: _die(dies, args[0]))
    sampler = pk.ChunkSampler(data, chunk_rows=10)
    tree = pk.capture(made, DataLoader(data, 5, sampler=sampler), out, sites=["0", "2"], resume=True)
    assert tree.sizes["sample"] == 50


def _die(sample: int | None, x: Tensor) -> None:
    if sample is not None and bool((x == X[sample, 0]).any()):
        signal.raise_signal(signal.SIGKILL)


@pytest.mark.parametrize("count", [2, 4])
def test_fully_sharded_processes_each_write_chunk_rows_of_their_own(tmp_path: Path, count: int) -> None:
    # Five chunk rows, so that some processes run along in passes of the others.
    assert -signal.SIGKILL in processes.group(count, in_group, in_chunk_rows, tmp_path / "a", 47)
    run(count, in_chunk_rows, tmp_path / "a", None)
    assert pk.verify(tmp_path / "a")
    tree = pk.open(tmp_path / "a")
    expected = copy.deepcopy(plain())
    with torch.no_grad():
        np.testing.assert_allclose(tree["0"]["activation"], expected[:1](X), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(tree["2"]["activation"], expected[:3](X), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(tree["2"]["label"], Y)


def resumed(out: Path, dies: int | None) -> None:
    made = with_dtensors()
    made.register_forward_pre_hook(lambda module, args: _die(dies, args[0]))
    pk.capture(made, (X, Y), out, sites="*", batch_size=5, memory=20 * 200, resume=True)


def test_a_capture_in_step_resumes(tmp_path: Path) -> None:
    run(2, resumed, tmp_path / "whole", None)
    assert -signal.SIGKILL in processes.group(2, in_group, resumed, tmp_path / "a", 37)
    assert 0 < opened(tmp_path / "a").sizes["sample"] < 50
    run(2, resumed, tmp_path / "a", None)
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")


def digests() -> None:
    world = dist.get_world_size()
    for model in (fsdp(), tensor_parallel(), with_dtensors(), *([both()] if world == 4 else [])):
        assert pk.weights_digest(model) == pk.weights_digest(plain())


@pytest.mark.parametrize("count", [2, 4])
def test_the_digest_is_that_of_the_model_in_one_process(count: int) -> None:
    run(count, digests)
