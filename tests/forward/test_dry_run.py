"""The dry run finds the axis of the batch, or refuses by name what has none, and changes nothing."""

import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk
from probekit.errors import ModelError, SiteError


class TimeFirst(nn.Module):
    """Gives what is (time, batch, node) from (batch, time, feature)."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 3)
        self.scaled = nn.Identity()

    def forward(self, x):
        return self.scaled(self.lstm(x.transpose(0, 1))[0] * 2).transpose(0, 1)


def test_an_axis_that_is_the_batch_can_be_named(tmp_path):
    net, x = TimeFirst(), torch.randn(10, 4, 2)
    with pytest.raises(SiteError, match="batch_dim="):
        pk.capture(net, x, tmp_path / "a", sites="scaled")
    tree = pk.capture(net, x, tmp_path / "a", sites=["scaled", "(root)"], batch_dim={"scaled": 1}, batch_size=3)
    np.testing.assert_array_equal(tree["scaled"]["activation"], tree["(root)"]["activation"])


def test_an_axis_that_is_as_long_as_the_batch_by_chance_is_refused(tmp_path):
    with pytest.raises(SiteError, match=r"Axis 0 of scaled \(Identity\) is not the batch, although it is as long"):
        pk.capture(TimeFirst(), torch.randn(3, 3, 2), tmp_path / "a", sites="scaled")
    tree = pk.capture(TimeFirst(), torch.randn(3, 3, 2), tmp_path / "a", sites="scaled", batch_dim=1)
    assert tree["scaled"]["activation"].shape == (3, 3, 3)


@pytest.mark.parametrize("reduce", [None, "mean", "last"])
def test_axis_0_that_is_not_the_batch_is_refused_by_name(tmp_path, reduce):
    net = nn.Sequential(nn.Flatten(0, 1))  # of sample × channel; sample × position would be unfolded
    with pytest.raises(SiteError, match=r"Axis 0 of 0 \(Flatten\) is not the batch"):
        pk.capture(net, torch.randn(2, 4, 6, 6), tmp_path / "a.zarr", reduce=reduce)
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
def test_what_recurrent_layers_give_has_its_batch_found(tmp_path, make, batch_first):
    """Output and state, whichever axis is the batch of each."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = make(4, 5, num_layers=2, batch_first=batch_first)

        def forward(self, x):
            return self.rnn(x if batch_first else x.transpose(0, 1))[0].sum()

    net, x = Net().eval(), torch.randn(8, 6, 4)
    state = "rnn[1][0]" if make is nn.LSTM else "rnn[1]"
    tree = pk.capture(net, x, tmp_path / "a", sites=["rnn[0]", state], batch_size=2, reduce={state: "last"})
    with torch.no_grad():
        output, hidden = net.rnn(x if batch_first else x.transpose(0, 1))
    hidden = hidden[0] if make is nn.LSTM else hidden
    output = output if batch_first else output.transpose(0, 1)
    np.testing.assert_allclose(tree["rnn[0]"]["activation"], output, atol=1e-6)
    np.testing.assert_allclose(tree[state]["activation"], hidden[-1], atol=1e-6)  # of the last layer


def test_attention_with_the_time_first_has_its_batch_found(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2)

        def forward(self, x):
            return self.attention(*[x.transpose(0, 1)] * 3)[0].mean()

    x = torch.randn(5, 3, 4)
    tree = pk.capture(Net(), x, tmp_path / "a", sites=["attention[0]", "attention[1]"])
    assert tree["attention[0]"]["activation"].shape == (5, 3, 4)
    assert tree["attention[1]"]["activation"].shape == (5, 3, 3)


def test_single_images_in_a_list_are_not_batches(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    images = [torch.rand(3, 8, 8) for _ in range(6)]
    for run in (pk.plan, lambda *given, **sites: pk.capture(*given, tmp_path / "a", **sites)):
        with pytest.raises(SiteError, match=r"can't be told: Sequential takes batches of 3, neither fewer nor twice"):
            run(net, images, sites="(root)")


def test_time_first_inputs_as_long_as_the_batch_are_refused(tmp_path):
    with pytest.raises(SiteError, match="has the time first, as batch_first=False says"):
        pk.capture(nn.LSTM(4, 5), [(torch.randn(6, 6, 4), torch.arange(6) % 2)], tmp_path / "a", sites="(root)[0]")


class Fixed(nn.Module):
    """Takes batches of four alone."""

    def __init__(self):
        super().__init__()
        self.add = nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        return x + self.add


def test_a_model_of_one_batch_size_is_told_its_batch(tmp_path):
    x = torch.randn(8, 3)
    with pytest.raises(SiteError, match=r"say so: batch_dim=\{'\*\*': 0\}"):
        pk.capture(Fixed(), x, tmp_path / "a", batch_size=4)
    tree = pk.capture(net := Fixed(), x, tmp_path / "a", batch_size=4, batch_dim=0)
    np.testing.assert_allclose(tree["(root)"]["activation"], x + torch.cat([net.add, net.add]).detach())


def test_a_single_sample_is_checked_by_doubling_it(tmp_path):
    tree = pk.capture(nn.Linear(4, 3), torch.randn(1, 4), tmp_path / "a")
    assert tree["(root)"]["activation"].shape == (1, 3)
    with pytest.raises(SiteError, match="is not the batch, although it is as long"):
        pk.capture(nn.Unflatten(0, (1, -1)), torch.randn(1, 4), tmp_path / "b")


# A dry run changes nothing


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(4, 3)

    def forward(self, x):
        x -= 0.5
        x /= 0.25
        return self.f(x)


class ByData(InPlace):
    def forward(self, x):
        x.data.mul_(2)
        return self.f(x)


@pytest.mark.parametrize("make", [InPlace, ByData])
@pytest.mark.parametrize("data", [lambda x: x, lambda x: [*x.split(8)], lambda x: torch.utils.data.DataLoader(x, 8)])
def test_a_model_that_writes_to_its_inputs_leaves_the_users_data(tmp_path, make, data):
    net, x = make().eval(), torch.rand(20, 4)
    given = x.clone()
    with torch.no_grad():
        expected = net(x.clone())
    pk.sites(net, x)
    pk.plan(net, data(x), batch_size=8)
    tree = pk.capture(net, data(x), tmp_path / "a", sites="f", batch_size=8)
    live = pk.measure_live(net, data(x), "mean", sites="f", batch_size=8, labels=False)
    watch = pk.Watch(net, data(x), "mean", sites="f", batch_size=8, labels=False)
    np.testing.assert_allclose(tree["f"]["activation"], expected, atol=1e-6)
    np.testing.assert_allclose(live["f"]["mean"], expected.mean(0), atol=1e-6)
    np.testing.assert_allclose(watch(0)["f"]["mean"], expected.mean(0), atol=1e-6)
    assert torch.equal(x, given)


class Merging(nn.Linear):
    """Merges weights in eval mode, as adapters do."""

    merged = False

    def train(self, mode=True):
        super().train(mode)
        if not mode and not self.merged:
            self.weight.data += 1
            self.merged = True
        return self


def test_a_models_own_train_is_never_called(tmp_path):
    net = nn.Sequential(Merging(4, 3)).train()
    before, x = net[0].weight.clone(), torch.randn(8, 4)
    pk.sites(net, x)
    tree = pk.capture(net, x, tmp_path / "a", sites="0")
    pk.measure_live(net, x, "mean", labels=False)
    assert torch.equal(net[0].weight, before)
    assert net.training
    assert not net[0].merged
    np.testing.assert_allclose(tree["0"]["activation"], (x @ before.T + net[0].bias).detach(), atol=1e-6)


def test_flags_can_be_left_as_they_are(tmp_path):
    net = nn.Sequential(nn.BatchNorm1d(4).eval(), nn.Dropout(0.5))
    net[1].train()
    tree = pk.capture(net, torch.ones(40, 4), tmp_path / "a", mode="as is")
    assert set(tree["0"]["activation"].values.ravel().round(3)) == {1.0}  # by the running statistics
    assert set(tree["1"]["activation"].values.ravel().round(3)) == {0.0, 2.0}
    assert tree.attrs["mode"] == "as is"


class Odd(nn.Module):
    """Has a buffer `b`, which its forward may replace or change."""

    def __init__(self, b, change=None):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("b", b)
        self.change = change

    def forward(self, x):
        if self.change is not None:
            self.change(self, x)
        return self.linear(x)


def replaced(module, x):
    module.b = torch.zeros_like(x)


def added(module, x):
    module.b += 1


ODD_BUFFERS = {
    "expanded": (lambda: torch.ones(1, 4).expand(2, -1), None),
    "expanded and written": (lambda: torch.ones(1, 4).expand(2, -1), lambda m, x: m.b[:1].add_(1)),
    "as long as the batch": (lambda: torch.zeros(0), replaced),
    "changed": (lambda: torch.tensor([1.0, torch.nan]), added),
    "made without gradients": (lambda: inference(torch.ones(3)), None),
    "made without gradients, changed": (lambda: inference(torch.ones(3)), replaced),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), None),
    "empty": (lambda: None, None),
    "first set": (lambda: None, replaced),
    "complex": (lambda: torch.ones(2, dtype=torch.complex64), added),
    "boolean": (lambda: torch.ones(2, dtype=torch.bool), None),
}


def inference(tensor):
    with torch.inference_mode():
        return tensor.clone()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("name", ODD_BUFFERS)
def test_buffers_of_any_kind_are_put_back(tmp_path, name):
    make, change = ODD_BUFFERS[name]
    net, x = Odd(make(), change), torch.randn(6, 4)
    buffer, held = net.b, None if net.b is None else dense(net.b)
    pk.sites(net, x)
    tree = pk.capture(net, x, tmp_path / "a", sites="linear")
    assert net.b is buffer
    if held is not None:
        torch.testing.assert_close(dense(buffer), held, equal_nan=True, rtol=0, atol=0)
    np.testing.assert_allclose(tree["linear"]["activation"], net.linear(x).detach(), atol=1e-6)


def dense(tensor):
    tensor = tensor.dequantize() if tensor.is_quantized else tensor
    return tensor.to_dense().clone()


class Spiking(nn.Module):
    """Keeps its membrane in a plain attribute, from one pass to the next."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.membrane = None
        self.history = []

    def forward(self, x):
        current = self.linear(x)
        self.membrane = current if self.membrane is None else self.membrane * 0.5 + current
        self.history.append(float(self.membrane.detach().mean()))
        return self.membrane


def clear(net):
    net.membrane = None


def test_a_state_in_attributes_is_cleared_before_each_pass(tmp_path):
    net, x = Spiking(), torch.randn(10, 4)
    expected = net.linear(x).detach()
    options = {"sites": "(root)", "batch_size": 4, "labels": False}
    message = r"keep tensors from one pass to the next: membrane \(4, 3\)\. If .* give reset="
    with pytest.raises(ModelError, match=message):
        pk.capture(net, x, tmp_path / "a", **options)
    assert net.membrane is None
    assert net.history == []
    tree = pk.capture(net, x, tmp_path / "b", reset=clear, **options)
    np.testing.assert_allclose(tree["(root)"]["activation"], expected, atol=1e-6)
    live = pk.measure_live(net, x, "mean", reset=clear, **options)
    np.testing.assert_allclose(live["(root)"]["mean"], expected.mean(0), atol=1e-6)
    assert len(pk.plan(net, x, reset=clear, **options).sites) == 1


def test_a_state_in_attributes_survives_a_watch_in_training():
    net, x = Spiking(), torch.randn(8, 4)
    net(x)
    before, held = net.membrane, net.membrane.clone()
    watch = pk.Watch(net, x, "mean", sites="(root)", labels=False, batch_size=8, batch_dim=0)
    watch(0)
    assert net.membrane is before
    assert torch.equal(before, held)
    assert len(net.history) == 1


class Force(nn.Module):
    def __init__(self, enable):
        super().__init__()
        self.linear, self.enable = nn.Linear(3, 1), enable

    def forward(self, x):
        with torch.set_grad_enabled(self.enable or torch.is_grad_enabled()):
            x = x.detach().requires_grad_()
            energy = self.linear(x).sum()
            return torch.autograd.grad(energy, x)[0]


def test_a_forward_that_takes_gradients_runs_or_says_which_line_to_change(tmp_path):
    tree = pk.capture(net := Force(enable=True), torch.randn(5, 3), tmp_path / "a", sites="(root)")
    np.testing.assert_allclose(tree["(root)"]["activation"], net.linear.weight.detach().expand(5, 3))
    with pytest.raises(ModelError, match=r"test_dry_run\.py, line \d+, run .* `with torch\.enable_grad\(\):`"):
        pk.sites(Force(enable=False), torch.randn(5, 3))


def test_what_recording_raises_is_not_the_models_failure(tmp_path):
    class Meta(nn.Module):
        def forward(self, x):
            return x.to(torch.float32) if len(x) < 4 else x.to(torch.float32).to("meta")

    with pytest.raises(SiteError, match=r"\(root\)@0 of Meta, of shape \(5, 3\)"):
        pk.capture(Meta(), torch.randn(5, 3), tmp_path / "a", reduce="mean")
