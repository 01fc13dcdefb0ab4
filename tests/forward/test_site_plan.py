"""Which reduction goes to which site."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.tensor import distribute_tensor

import probekit as pk
from probekit.errors import SiteError


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


X = torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_reductions_go_to_the_sites_that_their_selectors_pick(tmp_path):
    net = model()
    reduce = {"1": "mean", nn.Conv2d: [lambda t: t[:, :2], "max"], "**": slice(0, 2)}
    tree = pk.capture(net, X, tmp_path / "a", sites=["0", "1", "3"], reduce=reduce)
    maps = net[0](X)
    expected = {"0": maps[:, :2].amax((2, 3)), "1": maps.relu().mean((2, 3)), "3": net(X)[:, :2]}
    for site, values in expected.items():
        assert tree[site]["activation"].dims == ("sample", "node")
        np.testing.assert_allclose(tree[site]["activation"].values, values.detach(), rtol=1e-6, atol=1e-7)
    assert tree["1"].attrs["reduce"] == '["mean"]'
    assert tree["1"].attrs["original_shape"] == [50, 4, 2, 2]


def test_a_projection_is_the_same_in_every_store(tmp_path):
    kept = [pk.capture(model(), X, tmp_path / n, sites="3", reduce=pk.Projection(2, seed=5)) for n in "ab"]
    assert kept[0]["3"]["activation"].shape == (50, 2)
    np.testing.assert_array_equal(kept[0]["3"]["activation"], kept[1]["3"]["activation"])


class As(nn.Module):
    """Gives what a function makes of a linear layer's output."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.function = nn.Linear(16, 3), function

    def forward(self, x):
        return self.function(self.linear(x))


KINDS = {  # what a model gives, the words for it, and what makes an ordinary tensor of it
    "float8": (lambda y: y.to(torch.float8_e4m3fn), "values of dtype torch.float8_e4m3fn", lambda t: t.float()),
    "half complex": (lambda y: torch.complex(y, y).to(torch.complex32), "complex32", lambda t: t.to(torch.complex64)),
    "quantised": (
        lambda y: torch.quantize_per_tensor(y, 0.1, 9, torch.quint8),
        r"quantised values \(torch.quint8\)",
        lambda t: t.dequantize(),
    ),
    "sparse": (lambda y: y.relu().to_sparse(), "a tensor of layout torch.sparse_coo", lambda t: t.to_dense()),
    "compressed": (lambda y: y.to_sparse_csr(), "a tensor of layout torch.sparse_csr", lambda t: t.to_dense()),
    "mkldnn": (lambda y: y.to_mkldnn(), "a tensor of layout torch._mkldnn", lambda t: t.to_dense()),
}


@pytest.mark.filterwarnings("ignore")  # of torch's own: compressed tensors are a prototype
@pytest.mark.parametrize("kind", KINDS)
def test_what_files_do_not_know_is_refused_before_the_first_byte_or_converted_by_a_callable(kind, tmp_path):
    make, words, convert = KINDS[kind]
    model, x = As(make), X.flatten(1)
    options = {"sites": ["linear", "(root)"], "batch_size": 20, "labels": False}
    message = rf"\(root\) \(As\) gives .*{words}.*That can't be kept as it is. Convert it: reduce="
    for use in (
        lambda: pk.capture(model, x, tmp_path / "a", **options),
        lambda: pk.plan(model, x, **options),
        lambda: pk.measure_live(model, x, "mean", **options),
    ):
        with pytest.raises(SiteError, match=message):
            use()
    assert not (tmp_path / "a").exists()
    tree = pk.capture(model, x, tmp_path / "b", reduce={"(root)": convert}, **options)
    found = [convert(make(model.linear(batch).detach())) for batch in x.split(20)]
    assert np.array_equal(tree["(root)"]["activation"], torch.cat(found))
    with pk.Probe(model, "(root)") as probe:
        model(x)
        assert torch.equal(convert(probe.take()["(root)"]), convert(make(model.linear(x).detach())))


def test_float8_is_kept_in_a_dtype_that_is_asked_for(tmp_path):
    model, x = As(lambda y: y.to(torch.float8_e5m2)), X.flatten(1)
    tree = pk.capture(model, x, tmp_path / "a", sites="(root)", dtype="float32", labels=False)
    assert np.array_equal(tree["(root)"]["activation"], model(x).detach().float())


def test_the_conjugate_of_a_value_is_kept_as_it_is(tmp_path):
    model, x = As(lambda y: torch.complex(y, y + 1).conj()), X.flatten(1)
    tree = pk.capture(model, x, tmp_path / "a", sites="(root)", labels=False)
    assert np.array_equal(tree["(root)"]["activation"], model(x).detach().resolve_conj())


def test_a_sharded_tensor_is_gathered(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        model = As(lambda y: distribute_tensor(y.detach(), mesh))
        tree = pk.capture(model, X.flatten(1), tmp_path / "a", sites="(root)", labels=False, batch_size=20)
        np.testing.assert_allclose(tree["(root)"]["activation"], model.linear(X.flatten(1)).detach(), atol=1e-6)
    finally:
        torch.distributed.destroy_process_group()
