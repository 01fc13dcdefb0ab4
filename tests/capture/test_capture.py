import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.utils.data import DataLoader, Dataset

import probekit as pk
from probekit._store.local import LocalBackend
from probekit.errors import DataError, ProbekitError, SiteError, StoreError
from tests.stores import capture_into


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 4), nn.Sigmoid())


def data(rows=50, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, generator=generator), torch.randint(0, 3, (rows,), generator=generator)


def by_hand(model, x, batch_size):
    """What hooks written by hand record: a copy of each module's output, batch by batch."""
    kept = {str(index): [] for index in range(len(model))}
    hooks = [
        module.register_forward_hook(lambda m, a, out, name=name: kept[name].append(out.detach().clone()))
        for name, module in model.named_children()
    ]
    with torch.no_grad():
        for start in range(0, len(x), batch_size):
            model(x[start : start + batch_size])
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts).numpy() for name, parts in kept.items()}


@pytest.mark.parametrize("batch_size", [1, 7, 16, 50, 64])
def test_a_store_holds_what_hooks_written_by_hand_record(tmp_path, batch_size):
    model, (x, y) = net(), data()
    tree = pk.capture(model, (x, y), tmp_path / "a.zarr", batch_size=batch_size, memory=batch_size * 400)
    expected = by_hand(model, x, batch_size)
    assert sorted(tree.children) == ["(root)", "0", "1", "2", "3"]
    for name, values in expected.items():
        site = tree[name]["activation"]
        assert site.dims == ("sample", "node")
        assert site.dtype == np.float32
        np.testing.assert_array_equal(site.values, values)
        np.testing.assert_array_equal(site["label"].values, y)
        np.testing.assert_array_equal(site["sample_id"].values, np.arange(len(x)))


def test_plain_xarray_reads_a_store_with_nothing_of_ours(tmp_path):
    model, (x, y) = net(), data()
    pk.capture(model, (x, y), tmp_path / "a.zarr", sites="1", class_names=["ant", "bee", "cat"])
    code = """
import sys, xarray as xr
tree = xr.open_datatree(sys.argv[1], engine="zarr")
site = tree["1"].to_dataset(inherit="all_coords")
assert site["activation"].dims == ("sample", "node")
print(site["activation"].groupby("label").median().sizes, tree["class_name"].values.tolist())
assert "probekit" not in sys.modules
"""
    run = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "a.zarr")]
    printed = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert printed.stdout == "Frozen({'label': 3, 'node': 5}) ['ant', 'bee', 'cat']\n"


def test_batches_of_changing_size_straddle_chunk_rows(tmp_path):
    model, (x, y) = net(), data(40)
    cuts = [0, 8, 11, 19, 20, 28, 33, 40]
    pairs = [(x[a:b], y[a:b]) for a, b in pairwise(cuts)]
    tree = pk.capture(model, pairs, tmp_path / "a.zarr", sites="1", memory=8 * 2 * 20)
    assert tree["1"]["activation"].encoding["chunks"] == (8, 5)
    np.testing.assert_allclose(tree["1"]["activation"].values, by_hand(model, x, 40)["1"], rtol=1e-6)
    np.testing.assert_array_equal(tree["label"].values, y)


def test_feature_maps_have_named_dims(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(2), nn.Flatten(), nn.Unflatten(1, (1, 3, 1, 4)))
    tree = pk.capture(model, torch.randn(4, 1, 3, 3), tmp_path / "a.zarr", sites="*")
    dims = {name: site["activation"].dims for name, site in tree.children.items()}
    assert dims["0"] == ("sample", "channel", "y", "x")
    assert dims["1"] == ("sample", "channel", "position")
    assert dims["2"] == ("sample", "node")
    assert dims["3"] == ("sample", "channel", "z", "y", "x")
    assert "label" not in tree.coords  # the data had no labels


@pytest.mark.parametrize(
    ("made", "stored"),
    [
        (lambda x: x.half(), "float16"),
        (lambda x: x.bfloat16(), "float32"),
        (lambda x: x.double(), "float64"),
        (lambda x: (x * 100).long(), "int64"),
        (lambda x: x > 0, "bool"),
        (lambda x: x.to(torch.complex64), "complex64"),
        (lambda x: torch.stack([x.log(), x / 0, -x / 0, x * 0, x * 1e-42]), "float32"),
    ],
)
def test_values_are_kept_exactly(tmp_path, made, stored):
    class Make(nn.Module):
        def forward(self, x):
            out = made(x)
            return out.movedim(0, -1) if out.dim() > x.dim() else out

    x = torch.randn(20, 6)
    tree = pk.capture(Make(), x, tmp_path / "a.zarr")
    values, expected = tree["(root)"]["activation"].values, Make()(x)
    assert values.dtype == stored
    expected = (expected.float() if expected.dtype == torch.bfloat16 else expected).numpy()
    assert values.tobytes() == expected.tobytes()  # NaN, infinities, signed zeros and subnormals too


def test_chunks_of_zeros_are_files_like_any_other(tmp_path):
    pk.capture(nn.Identity(), torch.zeros(8, 2), tmp_path / "a.zarr", batch_size=4, memory=4 * 8 * 2)
    assert sorted(f.name for f in (tmp_path / "a.zarr/(root)/activation/c").iterdir()) == ["0", "1"]


def test_the_model_is_left_as_it_was(tmp_path):
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout()).train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pk.capture(model, data(), tmp_path / "a.zarr")
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.is_grad_enabled()


def test_a_store_that_exists_is_never_touched(tmp_path):
    out = tmp_path / "a.zarr"
    pk.capture(net(), data(), out, sites="1")
    with pytest.raises(StoreError, match="exists already and was left as it is"):
        pk.capture(net(), data(10), out)
    assert pk.open(out).sizes["sample"] == 50
    assert pk.capture(net(), data(10), out, overwrite=True).sizes["sample"] == 10


def test_overwrite_replaces_stores_only(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="isn't a store"):
        pk.capture(net(), data(), tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


class Failing(Dataset):
    def __init__(self, at, error):
        self.at, self.error = at, error

    def __len__(self):
        return 50

    def __getitem__(self, index):
        if index == self.at:
            raise self.error
        return data()[0][index], index % 3


@pytest.mark.parametrize("error", [ValueError("bad image"), KeyboardInterrupt()])
def test_what_was_complete_is_committed_when_the_data_fail(tmp_path, error):
    model, out = net(), tmp_path / "a.zarr"
    with pytest.raises(type(error)):
        pk.capture(model, Failing(33, error), out, batch_size=10, memory=10 * 2 * 20, sites="1")
    with pytest.warns(UserWarning, match="holds the first 30 of 50 samples"):
        tree = pk.open(out)
    np.testing.assert_array_equal(tree["1"]["activation"].values, by_hand(model, data()[0][:30], 10)["1"])
    plain = xr.open_zarr(out, group="1", consolidated=False)  # readers that ignore the record agree after the end
    assert plain.sizes["sample"] == 30


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"memory": "1KiB", "batch_size": 50}, StoreError, "One batch of 50 samples needs"),
        ({"memory": "lots"}, ProbekitError, "'lots' is not a size"),
        ({"dtype": "int3"}, StoreError, "dtype is 'int3'"),
        ({"sites": "layer"}, SiteError, "No site matches 'layer'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        pk.capture(net(), data(), tmp_path / "a.zarr", **options)
    assert list(tmp_path.iterdir()) == []


def test_data_without_samples_are_refused(tmp_path):
    with pytest.raises(DataError, match="no samples"):
        pk.capture(net(), [], tmp_path / "a.zarr")


class SmallDisk(LocalBackend):
    def free(self):
        return 99


def test_what_cannot_fit_on_the_disk_is_refused_first(tmp_path):
    with pytest.raises(StoreError, match=r"would take 1000 bytes for 50 samples .* has 99 bytes free"):
        capture_into(SmallDisk(tmp_path / "a.zarr"), net(), data(), sites="1")
    assert list(tmp_path.iterdir()) == []


def test_the_buffer_bounds_the_chunk_rows(tmp_path):
    tree = pk.capture(net(), data(5000), tmp_path / "a.zarr", sites="1", batch_size=8, memory=8 * 10 * 2 * 20)
    assert tree["1"]["activation"].encoding["chunks"] == (80, 5)


def test_loaders_with_forked_workers_work_though_zarr_runs_a_thread(tmp_path):
    model, (x, y) = net(), data()
    loader = DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=10, num_workers=2)
    for name in ("a.zarr", "b.zarr"):  # by the second time zarr's event loop has started
        tree = pk.capture(model, loader, tmp_path / name, sites="1")
    np.testing.assert_array_equal(tree["1"]["activation"].values, by_hand(model, x, 10)["1"])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_transformer_layers_are_listed_and_their_nested_tensors_refused_with_what_to_do(tmp_path):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)

        def forward(self, x, attention_mask):
            return self.layers(x, src_key_padding_mask=attention_mask == 0)

    torch.manual_seed(0)
    model, mask = Encoder(), (torch.arange(5) < torch.arange(12)[:, None] % 4 + 1).long()
    data, site = {"x": torch.randn(12, 5, 8), "attention_mask": mask}, "layers.layers.1"
    assert {site, "layers.layers.0.linear1"} <= set(pk.sites(model, data).names)
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(SiteError, match=r"nested tensor.*set_fastpath_enabled\(False\)"):
        pk.capture(model, data, tmp_path / "a", sites=site, reduce="tokens", batch_size=4)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        tree = pk.capture(model, data, tmp_path / "b", sites=site, reduce="tokens", batch_size=4)
        with torch.no_grad():
            expected = model.eval()(data["x"], mask)[mask.bool()]
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    np.testing.assert_allclose(tree[site]["activation"].values, expected, rtol=1e-5, atol=1e-5)
