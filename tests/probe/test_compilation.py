"""Models that torch.compile has compiled, whole or in parts, before and after they have run."""

import sys

import pytest
import torch
from torch import nn

import probekit as pk

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's own, about its own


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()


class Around(nn.Module):
    """A model around a part that is compiled."""

    def __init__(self, part, function=None):
        super().__init__()
        self.part, self.function = part, function or torch.sin

    def forward(self, x):
        return self.function(self.part(x))


def whole(model, **options):
    return torch.compile(model, backend="eager", **options), "_orig_mod."


def in_place(model, **options):
    model.compile(backend="eager", **options)
    return model, ""


def submodule(model, **options):
    return Around(torch.compile(model, backend="eager", **options)), "part._orig_mod."


def forward(model, **options):
    model.forward = torch.compile(model.forward, backend="eager", **options)
    return model, ""


def function(model, **options):
    return Around(model, torch.compile(lambda x: x.relu() + 1, backend="eager", **options)), "part."


WAYS = (whole, in_place, submodule, forward, function)


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_compiled_model_has_all_its_sites(way, warm, fullgraph, tmp_path):
    model, prefix = way(make(), fullgraph=fullgraph)
    if warm:
        with torch.no_grad():
            for rows in (5, 3, 2, 4):
                model(X[:rows])
    plain, sites = make(), [f"{prefix}{number}" for number in range(3)]
    assert set(sites) <= set(pk.sites(model, X).names)
    with pk.Probe(model, sites) as probe:
        model(X)
        found = probe.take()
    tree = pk.capture(model, X, tmp_path / "a", sites=sites, batch_size=2)
    for number, site in enumerate(sites):
        expected = plain[: number + 1](X)
        assert torch.equal(found[site], expected)
        torch.testing.assert_close(torch.from_numpy(tree[site]["activation"].values), expected)
    torch.testing.assert_close(model(X), model(X))


def test_operations_and_gradients_of_a_compiled_model():
    model = Around(make())
    compiled = torch.compile(model, backend="eager")
    compiled(X)
    with pk.Probe(compiled, ["_orig_mod~sin_0", "_orig_mod.part.0:grad"]) as probe:
        probe.backward(compiled(X).sum())
        found = probe.take()
    h = model.part[0](X).detach().requires_grad_()
    (expected,) = torch.autograd.grad(torch.sin(model.part[2](h.relu())).sum(), h)
    torch.testing.assert_close(found["_orig_mod.part.0:grad"], expected)
    torch.testing.assert_close(found["_orig_mod~sin_0"], model(X))


def compiles():
    """Whether what torch.compile has compiled runs so."""
    seen = []
    torch._dynamo.reset()
    torch.compile(lambda x: x + 1, backend=lambda graph, inputs: seen.append(graph) or graph.forward)(X)
    return bool(seen)


def test_compiled_models_run_compiled_again_after_the_block():
    model = make()
    first, second = pk.Probe(model), pk.Probe(model)
    with torch.compiler.set_stance("default"):
        first.__enter__()
        assert not compiles()
        second.__enter__()
        first.__exit__(None, None, None)  # blocks in two threads may end in any order
        assert not compiles()
        second.__exit__(None, None, None)
        assert compiles()
    with pytest.raises(KeyboardInterrupt), first:
        raise KeyboardInterrupt
    assert compiles()


def test_a_stance_of_the_users_own_is_put_back():
    with torch.compiler.set_stance("force_eager"):
        with pk.Probe(make()):
            pass
        assert not compiles()
    assert compiles()


@pytest.mark.slow
def test_a_probe_and_a_capture_import_no_compiler(python, tmp_path):
    code = """
import sys, torch, probekit as pk
model = torch.nn.Linear(2, 2)
with pk.Probe(model) as probe:
    model(torch.ones(1, 2))
pk.capture(model, torch.ones(4, 2), sys.argv[1])
print("torch._dynamo" in sys.modules)
"""
    done = python(code, str(tmp_path / "a"))
    assert done.stdout.strip() == "False", done.stderr
    assert "torch._dynamo" in sys.modules  # here, where models are compiled
