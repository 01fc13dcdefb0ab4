"""The digest of a model's weights: the same for the same numbers, whatever kind of tensor holds them."""

import copy
import io
import re

import pytest
import torch
from torch import nn

import probekit as pk
from probekit.errors import ModelError


def test_the_weights_digest_tells_weights_apart(tmp_path):
    model = nn.Linear(2, 2)
    digests = []
    for name in "abc":
        pk.capture(model, torch.zeros(2, 2), tmp_path / name)
        digests.append(pk.info(tmp_path / name).attrs["weights"])
        if name == "b":
            model.weight.data[0, 0] += 1e-6
    assert digests[0] == digests[1] != digests[2]


def test_the_digest_of_plain_weights_is_what_stores_hold_of_them():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(3, 2).half(), nn.Embedding(2, 3))
    for number, tensor in enumerate(model.state_dict().values()):
        tensor.copy_((torch.arange(tensor.numel()) * (number + 1)).reshape(tensor.shape))
    assert pk.weights_digest(model) == "c040486efad7b36fdf89b0e52eab4e8e"


class Holds(nn.Module):
    """A model of one tensor."""

    def __init__(self, tensor):
        super().__init__()
        self.register_buffer("held", tensor)


def quantized(scale, *, by_channel=False, shift=0.0):
    values = torch.arange(6.0).reshape(2, 3) / 10 * (scale / 0.1) + shift
    if by_channel:
        return torch.quantize_per_channel(values, torch.tensor([scale, 0.1]), torch.tensor([0, 0]), 0, torch.qint8)
    return torch.quantize_per_tensor(values, scale, 0, torch.quint8)


Z = torch.complex(torch.arange(4.0), torch.ones(4)).reshape(2, 2)
PAIRS = {  # what makes two of a kind that hold other numbers
    "sparse": lambda: (torch.eye(3).to_sparse(), 2 * torch.eye(3).to_sparse()),
    "sparse, elsewhere": lambda: (torch.eye(3).to_sparse(), torch.eye(3).flip(0).to_sparse()),
    "csr": lambda: (torch.eye(3).to_sparse_csr(), 2 * torch.eye(3).to_sparse_csr()),
    "csc": lambda: (torch.eye(3).to_sparse_csc(), torch.eye(3).flip(0).to_sparse_csc()),
    "bsr": lambda: (torch.eye(4).to_sparse_bsr((2, 2)), 2 * torch.eye(4).to_sparse_bsr((2, 2))),
    "conjugate": lambda: (Z.conj(), Z),
    "negative": lambda: (Z.conj().imag, Z.imag),
    "quantized": lambda: (quantized(0.1), quantized(0.1, shift=0.1)),
    "its scale": lambda: (quantized(0.1), quantized(0.2)),
    "by channel": lambda: (quantized(0.1, by_channel=True), quantized(0.2, by_channel=True)),
    "mkldnn": lambda: (torch.ones(3).to_mkldnn(), torch.zeros(3).to_mkldnn()),
    "float8": lambda: (torch.ones(3).to(torch.float8_e4m3fn), torch.zeros(3).to(torch.float8_e4m3fn)),
    "nested": lambda: (ragged(1.0), ragged(2.0)),
    "jagged": lambda: (ragged(1.0, layout=torch.jagged), ragged(2.0, layout=torch.jagged)),
}


def ragged(value, **options):
    return torch.nested.nested_tensor([torch.full((2,), value), torch.ones(1)], **options)


@pytest.mark.filterwarnings("ignore")  # of torch's own: sparse and nested tensors are a prototype
@pytest.mark.parametrize("kind", PAIRS)
def test_the_digest_tells_tensors_of_any_kind_apart(kind):
    one, other = PAIRS[kind]()
    assert pk.weights_digest(Holds(one)) == pk.weights_digest(Holds(PAIRS[kind]()[0]))
    assert pk.weights_digest(Holds(one)) != pk.weights_digest(Holds(other))


def test_a_conjugate_view_has_the_digest_of_its_numbers():
    assert pk.weights_digest(Holds(Z.conj())) == pk.weights_digest(Holds(Z.conj().resolve_conj()))


class Halves(torch.Tensor):
    """A wrapper around two tensors, as torchao's quantised weights are."""

    @staticmethod
    def __new__(cls, low, high, activations=None):
        return torch.Tensor._make_wrapper_subclass(cls, (2, *low.shape), dtype=low.dtype)

    def __init__(self, low, high, activations=None):
        self.low, self.high, self.activations = low, high, activations

    def __tensor_flatten__(self):
        return ["low", "high"], {"activations": self.activations}

    @classmethod
    def __tensor_unflatten__(cls, inner, context, size, stride):
        return cls(inner["low"], inner["high"], **context)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].low, args[0].high, args[0].activations)
        raise NotImplementedError(str(func))


def test_a_wrapper_of_tensors_is_told_apart_by_what_is_in_it():
    digests = [pk.weights_digest(Holds(Halves(torch.ones(2), torch.full((2,), value)))) for value in (1.0, 1.0, 2.0)]
    assert digests[0] == digests[1] != digests[2]


def test_a_wrapper_of_tensors_is_told_apart_by_how_it_is_used():
    ways = [None, "int8", object(), object()]  # objects are shown with their addresses
    digests = [pk.weights_digest(Holds(Halves(torch.ones(2), torch.ones(2), way))) for way in ways]
    assert len(set(digests)) == 3
    assert digests[2] == digests[3]


@pytest.mark.filterwarnings("ignore")  # torch's own quantisation says that it moves to torchao
@pytest.mark.parametrize("make", [lambda: nn.Linear(8, 4), lambda: nn.LSTM(8, 4, batch_first=True)])
def test_dynamically_quantised_weights_are_told_apart(make, tmp_path):
    def model(seed):
        torch.manual_seed(seed)
        plain = nn.Sequential(make()).eval()
        return torch.ao.quantization.quantize_dynamic(plain, {nn.Linear, nn.LSTM})

    digests = [pk.weights_digest(model(seed)) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    pk.capture(model(0), torch.ones(3, 2, 8), tmp_path / "a", sites=re.compile(r"0(\[0\])?"))
    assert pk.info(tmp_path / "a").attrs["weights"] == digests[0]


class Extra(nn.Module):
    def __init__(self, state):
        super().__init__()
        self.state = state

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


STATES = [
    {"scale": torch.ones(2)},
    {"scale": torch.zeros(2)},
    {"scale": 1.0},
    {"scale": 2},
    [torch.ones(2), "text"],
    [torch.ones(2), None],
    torch.ones(2).numpy(),
    b"bytes",
    io.BytesIO(b"others"),
]


def test_extra_state_counts():
    digests = [pk.weights_digest(Extra(state)) for state in STATES]
    assert len(set(digests)) == len(STATES)
    assert digests == [pk.weights_digest(Extra(copy.deepcopy(state))) for state in STATES]
    assert isinstance(pk.weights_digest(Extra(object())), str)  # what can't be read as numbers doesn't count


@pytest.mark.filterwarnings("ignore")  # that lazy modules are new
@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 2, device="meta"), lambda: nn.LazyLinear(2)])
def test_weights_that_hold_no_numbers_are_named(make):
    model = nn.Sequential(nn.Linear(2, 2), make())
    with pytest.raises(ModelError, match=r"The numbers of '1.weight' in the state_dict of Sequential.* can't be read"):
        pk.weights_digest(model)
