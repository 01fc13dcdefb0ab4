"""Models in wrappers: scripted, parallel, without weights."""

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

import probekit as pk
from probekit.errors import ModelError, SiteError

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def outputs(model, prefix=""):
    with pk.Probe(model, f"{prefix}*") as probe:
        model(X)
        return {name.removeprefix(prefix): tensor for name, tensor in probe.take().items() if name != "(root)"}


def same(found, model):
    return found.keys() == {"0", "1", "2"} and all(torch.equal(found[str(n)], model[: n + 1](X)) for n in range(3))


def test_data_parallel_gives_what_its_module_gives():
    model = make()
    assert same(outputs(nn.DataParallel(model), "module."), model)


@pytest.fixture
def alone(tmp_path):
    """A group of one process."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_fully_sharded_models_give_what_their_modules_give(tmp_path, alone):
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    for name, wrapped, prefix in (
        ("in_place", torch.distributed.fsdp.fully_shard(make(), mesh=mesh), ""),
        ("wrapper", FullyShardedDataParallel(make(), device_id=torch.device("cpu")), "_fsdp_wrapped_module."),
    ):
        found = outputs(wrapped, prefix)
        assert all(torch.equal(found[str(n)], make()[: n + 1](X)) for n in range(3))
        tree = pk.capture(wrapped, X, tmp_path / name, sites=f"{prefix}0")
        assert torch.equal(torch.from_numpy(tree[f"{prefix}0"]["activation"].values), make()[0](X))


def test_distributed_data_parallel_gives_what_its_module_gives(alone):
    model = make()
    assert same(outputs(nn.parallel.DistributedDataParallel(model), "module."), model)


def test_exported_programs_are_refused_with_what_to_do():
    program = torch.export.export(make().eval(), (X,))
    for exported in (program, program.module()):
        for use in (pk.Probe, lambda model: pk.sites(model, X)):
            with pytest.raises(SiteError, match=r"exported, or torch.export.unflatten\(program\)"):
                use(exported)
    assert same(outputs(torch.export.unflatten(program)), make())
    assert same(outputs(torch.fx.symbolic_trace(make())), make())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make_script", [torch.jit.script, lambda model: torch.jit.trace(model, X)])
def test_scripted_and_traced_modules_are_refused_with_what_to_do(make_script):
    for model in (make_script(make()), nn.Sequential(make_script(make()))):
        with pytest.raises(SiteError, match="Probe the model before it is scripted or traced"):
            pk.Probe(model)


def test_a_model_without_weights_has_sites_but_no_activations(tmp_path):
    model, x = make().to("meta"), torch.empty(5, 4, device="meta")
    assert pk.sites(model, x).names == ["0", "1", "2", "(root)"]
    with pytest.raises(ModelError, match="hold no numbers"):
        pk.capture(model, x, tmp_path / "a")


def test_autocast_gives_its_own_dtype_and_a_store_keeps_it_exactly(tmp_path):
    model = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tree = pk.capture(model, X, tmp_path / "a", sites="0")
        with torch.no_grad():
            expected = model[0](X)
    assert expected.dtype == torch.bfloat16
    assert tree["0"].attrs["dtype"] == "bfloat16"
    assert tree["0"]["activation"].dtype == "float32"
    assert torch.equal(torch.from_numpy(tree["0"]["activation"].values), expected.float())


def test_on_request_values_are_rounded_to_bfloat16(tmp_path):
    tree = pk.capture(make(), X, tmp_path / "a", sites="0", dtype="bfloat16")
    assert torch.equal(torch.from_numpy(tree["0"]["activation"].values), make()[0](X).detach().bfloat16().float())
