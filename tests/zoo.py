"""Small models by category, each with inputs that it runs on: what researchers bring, and what trips up hooks.

`ZOO` holds them by name. A specimen builds its model and its inputs from a seed, so that two builds are equal.
"""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

__all__ = ["ZOO", "Specimen", "call"]

ROWS = 5


class Specimen(NamedTuple):
    """A model's name, what makes the model, and what makes one example of its inputs.

    Inputs are a tensor, a tuple of positional arguments or a dict of keyword arguments, as `probekit.sites` takes them.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]

    def model(self) -> nn.Module:
        return _seeded(0, self.make)

    def example(self, seed: int = 1) -> Any:
        return _seeded(seed, self.inputs)


def _seeded(seed: int, build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if type(inputs) is tuple else model(inputs)


class Body(nn.Module):
    """A model written as a function of its parts and its inputs."""

    def __init__(self, run: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


rows = partial(torch.randn, ROWS, 4)
steps = partial(torch.randn, ROWS, 6, 4)  # (batch, time, features)
images = partial(torch.randn, 3, 2, 8, 8)
tokens = partial(torch.randint, 0, 11, (3, 7))


# --- in place -------------------------------------------------------------------------------------------------------


def adds(m: Body, x: Tensor) -> Tensor:
    h = m.first(x)
    h += 1
    return m.second(h)


def multiplies(m: Body, x: Tensor) -> Tensor:
    return m.second(m.first(x).mul_(-2).clamp_(min=0))


def writes_data(m: Body, x: Tensor) -> Tensor:
    h = m.first(x)
    out = m.second(h.clone())
    h.data.zero_()
    out.data.add_(3)
    return out


def writes_an_item(m: Body, x: Tensor) -> Tensor:
    h = m.first(x)
    h[:, 0] = 7
    return m.second(h)


def writes_through_a_view(m: Body, x: Tensor) -> Tensor:
    h = m.first(x)
    h.t()[1:3].zero_()
    h.view(-1)[::3].neg_()
    return m.second(h)


def overwrites_its_input(m: Body, x: Tensor) -> Tensor:
    x = m.alias(x * 1)
    x.zero_()
    return m.first(x) + m.alias(x)


# --- shared ---------------------------------------------------------------------------------------------------------


def thrice(m: Body, x: Tensor) -> Tensor:
    return m.act(m.second(m.act(m.first(m.act(x)))))


def tied() -> nn.Module:
    model = Body(lambda m, ids: m.decode(m.embed(ids)), embed=nn.Embedding(11, 4), decode=nn.Linear(4, 11))
    model.decode.weight = model.embed.weight
    return model


def two_names() -> nn.Module:
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    return Body(lambda m, x: m.b(m.a(x)), a=block, b=block)


class Tree(nn.Module):
    """Calls itself: the inner calls end before the outer one."""

    def __init__(self) -> None:
        super().__init__()
        self.leaf = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return self.leaf(x) if half == 1 else self(x[..., :half]) - self(x[..., half:])


# --- recurrent ------------------------------------------------------------------------------------------------------


def packs(m: Body, x: Tensor, lengths: Tensor) -> Tensor:
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(m.cell(packed)[0], batch_first=True)[0]


def unrolls(m: Body, x: Tensor) -> Tensor:
    h = x.new_zeros(len(x), 3)
    for step in x.unbind(1):
        h = m.cell(step, h)
    return m.head(h)


def unrolls_lstm(m: Body, x: Tensor) -> list[Tensor]:
    state, out = None, []
    for step in x.unbind(1):
        state = m.cell(step, state)
        out.append(state[0])
    return out


# --- nested outputs -------------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "left right")


@dataclass
class Output:
    hidden: Tensor
    rest: Any = None


class ModelOutput(OrderedDict):
    """A mapping whose items are attributes too, as transformers have it; what is None is left out."""

    def __init__(self, **items: Any) -> None:
        super().__init__((key, value) for key, value in items.items() if value is not None)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "tuple": lambda h: (h, h + 1),
    "tuple of one": lambda h: (h,),
    "list": lambda h: [h, h * 2, h * 3],
    "dict": lambda h: {"hidden": h, "logits": h + 1},
    "dict with keys that are no words": lambda h: {0: h, (1, "a"): h + 1, "a.b": h + 2, "[x]": h + 3, "": h + 4},
    "namedtuple": lambda h: Pair(h, h + 1),
    "dataclass": lambda h: Output(h, h + 1),
    "ModelOutput": lambda h: ModelOutput(loss=None, last_hidden_state=h, hidden_states=(h, h + 1)),
    "UserDict": lambda h: UserDict(x=h),
    "return type of torch": lambda h: h.max(dim=1),
    "deep": lambda h: {"a": [Pair(h, (Output(h + 1, {"b": [[h + 2]]}),)), {}], "c": ()},
    "None leaves": lambda h: (None, h, [None, {"a": None, "b": h + 1}], 3, "text", 2.5, True),
    "nothing": lambda h: None,
    "the same tensor twice": lambda h: (h, [h]),
    "parameter": lambda h: (h, nn.Parameter(h.detach() + 1)),
}


def nested(build: Callable[[Tensor], Any]) -> nn.Module:
    """The nested output comes from a part and from the root, with a tensor between that is surely recorded."""
    return Body(lambda m, x: m.part(m.first(x)), first=nn.Linear(4, 4), part=Body(lambda m, h: build(h)))


# --- inputs, control flow, containers -------------------------------------------------------------------------------


class KeywordOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, *, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        return self.first(input=x) + self.second(y) * scale


def branches(m: Body, x: Tensor) -> Tensor:
    return m.long(x) if x.shape[-1] > 3 else m.short(x)


def loops(m: Body, x: Tensor) -> Tensor:
    """As many turns as the first value says."""
    for _ in range(int(x[0, 0].item())):
        x = m.act(m.step(x))
    return x


def counted(turns: int) -> Callable[[], Tensor]:
    return lambda: torch.cat([torch.full((ROWS, 1), float(turns)), torch.randn(ROWS, 3)], 1)


ODD_KEYS = ("a b", "a/b", "x[0]", "k@1", "k:input", "t~relu_0", "(root)", "*", "é", "0")


class Keyed(nn.Module):
    """Parts under the given keys, run in turn; the first key's part runs twice."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({key: nn.Linear(4, 4) for key in keys})
        self.first = keys[0]

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts.values():
            x = part(x)
        return self.parts[self.first](x)


def in_turn(m: Body, x: Tensor) -> list[Tensor]:
    out = [x]
    for part in m.parts:
        out.append(part(out[-1]) + out[-1])
    return out


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).t()


def parametrised() -> nn.Module:
    linear = nn.Linear(4, 4)
    parametrize.register_parametrization(linear, "weight", Symmetric())
    return nn.Sequential(linear, nn.ReLU(), linear)


def cached(m: Body, x: Tensor) -> Tensor:
    with parametrize.cached():
        return m.first(m.first(x))


# --- what a forward may do ------------------------------------------------------------------------------------------


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class Dirty(torch.autograd.Function):
    """Changes its input and says so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(3)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 3


class Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError(self.inside(x).shape)


def swallows(m: Body, x: Tensor) -> Tensor:
    try:
        return m.raises(x)
    except ValueError:
        return m.first(x)


def checkpoints(m: Body, x: Tensor) -> Tensor:
    return m.second(checkpoint(m.first, x, use_reentrant=False))


def unpools(m: Body, x: Tensor) -> Tensor:
    x, indices = m.pool(m.conv(x))
    return m.up(m.unpool(x, indices))


def own_hook() -> nn.Module:
    """The user's hook replaces what the module returned: a probe that comes later sees the replacement."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, output: output * 10)
    return model


def pair(run: Callable[..., Any]) -> Callable[[], nn.Module]:
    return lambda: Body(run, first=nn.Linear(4, 4), second=nn.Linear(4, 4))


def layers(*parts: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(part() for part in parts))


def body(run: Callable[..., Any], **parts: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Body(run, **{name: part() for name, part in parts.items()})


linear = partial(nn.Linear, 4, 4)
relu_ = partial(nn.ReLU, inplace=True)
conv = partial(nn.Conv2d, 2, 3, 3)
encoder_layer = partial(nn.TransformerEncoderLayer, 8, 2, 16, batch_first=True)
encoder = lambda: nn.TransformerEncoder(encoder_layer(), 2, enable_nested_tensor=False)
sequences = partial(torch.randn, 3, 7, 8)
half = partial(torch.randn, ROWS, 4, dtype=torch.bfloat16)
complex_rows = partial(torch.randn, ROWS, 4, dtype=torch.complex64)

ZOO = {
    name: Specimen(name, make, inputs)
    for name, make, inputs in [
        # perceptrons and feature maps that more than one test draws from
        ("mlp", layers(linear, nn.ReLU, partial(nn.Linear, 4, 6), nn.Sigmoid, partial(nn.Linear, 6, 2)), rows),
        (
            "cnn",
            layers(conv, nn.ReLU, partial(nn.MaxPool2d, 2), nn.Flatten, partial(nn.Linear, 27, 2)),
            images,
        ),
        ("elementwise", layers(nn.ReLU, nn.Tanh, nn.Softsign, nn.Hardswish), rows),
        # in place
        ("in-place relu", layers(linear, relu_, linear), rows),
        ("in-place relu first", layers(nn.Identity, relu_), rows),
        ("in-place adding", pair(adds), rows),
        ("in-place multiplying", pair(multiplies), rows),
        ("writes through .data", pair(writes_data), rows),
        ("writes an item", pair(writes_an_item), rows),
        ("writes through a view", pair(writes_through_a_view), rows),
        ("overwrites an alias", body(overwrites_its_input, alias=nn.Identity, first=linear), rows),
        # shared
        ("one relu thrice", body(thrice, act=nn.ReLU, first=linear, second=linear), rows),
        ("one in-place relu thrice", body(thrice, act=relu_, first=linear, second=linear), rows),
        ("tied weights", tied, tokens),
        ("one module of two names", two_names, rows),
        ("calls itself", Tree, partial(torch.randn, ROWS, 8)),
        # recurrent
        ("RNN", partial(nn.RNN, 4, 3), steps),
        ("LSTM", partial(nn.LSTM, 4, 3, batch_first=True), steps),
        ("LSTM of two layers, both ways", partial(nn.LSTM, 4, 3, 2, bidirectional=True), steps),
        ("GRU", partial(nn.GRU, 4, 3, batch_first=True), steps),
        (
            "packed sequences",
            body(packs, cell=partial(nn.GRU, 4, 3, batch_first=True)),
            lambda: (torch.randn(4, 6, 4), torch.tensor([3, 6, 1, 2])),
        ),
        ("GRUCell in a loop", body(unrolls, cell=partial(nn.GRUCell, 4, 3), head=partial(nn.Linear, 3, 2)), steps),
        ("LSTMCell in a loop", body(unrolls_lstm, cell=partial(nn.LSTMCell, 4, 3)), steps),
        # nested outputs
        *((f"gives {name}", partial(nested, build), rows) for name, build in OUTPUTS.items()),
        # inputs
        ("keyword-only", KeywordOnly, lambda: {"x": rows(), "y": rows(), "scale": 0.5}),
        ("a dict", pair(lambda m, b: m.first(b["x"]) * m.second(b["y"])), lambda: ({"x": rows(), "y": rows()},)),
        ("a list", pair(lambda m, b: m.first(b[0]) * m.second(b[1])), lambda: ([rows(), rows()],)),
        ("several inputs", body(lambda m, *x: m.mix(*x), mix=partial(nn.Bilinear, 4, 4, 3)), lambda: (rows(), rows())),
        ("None among the inputs", pair(lambda m, x, mask: m.first(x)), lambda: (rows(), None)),
        ("no inputs", pair(lambda m: m.first(torch.ones(2, 4))), tuple),
        # control flow
        ("conditional", body(branches, long=linear, short=partial(nn.Linear, 2, 2)), rows),
        ("loop of three", body(loops, step=linear, act=nn.Tanh), counted(3)),
        ("loop of one", body(loops, step=linear, act=nn.Tanh), counted(1)),
        ("loop of none", body(loops, step=linear, act=nn.Tanh), counted(0)),
        ("residual", pair(lambda m, x: x + m.second(F.relu(x + m.first(x)))), rows),
        ("swallows an exception", body(swallows, raises=Raises, first=linear), rows),
        # containers
        ("ModuleList", body(in_turn, parts=lambda: nn.ModuleList([linear(), linear()])), rows),
        ("ModuleDict", partial(Keyed, ["one", "two"]), rows),
        *((f"ModuleDict of {key!r}", partial(Keyed, [key, "plain"]), rows) for key in ODD_KEYS),
        ("ModuleDict of all odd keys", partial(Keyed, ODD_KEYS), rows),
        ("nested Sequential", layers(layers(linear, layers(nn.ReLU, linear)), layers(nn.Tanh)), rows),
        ("empty Sequential", nn.Sequential, rows),
        # parametrised
        ("weight norm", layers(lambda: parametrizations.weight_norm(linear()), nn.ReLU), rows),
        ("spectral norm in eval", lambda: layers(lambda: parametrizations.spectral_norm(linear()))().eval(), rows),
        ("own parametrisation, twice", parametrised, rows),
        ("own parametrisation, cached", lambda: Body(cached, first=parametrised()[0]), rows),
        # autograd
        ("straight-through function", pair(lambda m, x: m.second(StraightThrough.apply(m.first(x)))), rows),
        ("function that changes its input", pair(lambda m, x: m.second(Dirty.apply(m.first(x)))), rows),
        ("checkpoint", body(checkpoints, first=layers(linear, nn.ReLU), second=linear), rows),
        ("user's own hook", own_hook, rows),
        # dtypes and shapes
        ("complex", layers(partial(nn.Linear, 4, 3, dtype=torch.complex64), nn.Identity), complex_rows),
        ("conjugate view", body(lambda m, x: m.same(x.conj()), same=nn.Identity), complex_rows),
        ("integers", body(lambda m, x: m.same(x // 2), same=nn.Identity), tokens),
        ("booleans", body(lambda m, x: m.same(x > 0), same=nn.Identity), rows),
        ("bfloat16", layers(partial(nn.Linear, 4, 3, dtype=torch.bfloat16), nn.ReLU), half),
        ("float64", partial(nn.Linear, 4, 3, dtype=torch.double), partial(torch.randn, 2, 4, dtype=torch.double)),
        ("zero samples", layers(linear, nn.ReLU), partial(torch.randn, 0, 4)),
        ("zero units", body(lambda m, x: m.same(x[:, :0]), same=nn.Identity), rows),
        ("scalars", pair(lambda m, x: m.second(m.first(x)).sum()), rows),
        ("scalar from a part", body(lambda m, x: m.loss(m.first(x), x) + 1, first=linear, loss=nn.MSELoss), rows),
        ("infinities", body(lambda m, x: m.same(x / 0), same=nn.Identity), rows),
        # aliases and views
        ("gives its input", layers(nn.Identity, nn.Dropout, nn.Identity), rows),
        ("transposed", body(lambda m, x: m.same(m.first(x).t()), first=linear, same=nn.Identity), rows),
        ("strided", body(lambda m, x: m.same(m.first(x)[:, ::2]), first=linear, same=nn.Identity), rows),
        ("expanded", body(lambda m, x: m.same(m.first(x)[:, :1].expand(-1, 4)), first=linear, same=nn.Identity), rows),
        # called in other ways
        ("functional", pair(lambda m, x: F.linear(x, m.first.weight) + m.second(x)), rows),
        (".forward()", pair(lambda m, x: m.first.forward(x) + m.second(x)), rows),
        ("functional_call", pair(lambda m, x: torch.func.functional_call(m.first, {}, (m.second(x),))), rows),
        # layers
        ("TransformerEncoderLayer", encoder_layer, sequences),
        ("TransformerEncoder", encoder, sequences),
        ("TransformerDecoderLayer", partial(nn.TransformerDecoderLayer, 8, 2, 16), lambda: (sequences(), sequences())),
        ("MultiheadAttention", body(lambda m, x: m.a(x, x, x), a=partial(nn.MultiheadAttention, 8, 2)), sequences),
        ("Embedding", layers(partial(nn.Embedding, 11, 4, padding_idx=0), nn.ReLU), tokens),
        ("EmbeddingBag", partial(nn.EmbeddingBag, 11, 4, mode="mean"), tokens),
        ("BatchNorm in training", layers(conv, partial(nn.BatchNorm2d, 3)), images),
        ("norms", layers(partial(nn.GroupNorm, 2, 2), partial(nn.InstanceNorm2d, 2), partial(nn.LayerNorm, 8)), images),
        ("Dropout in training", layers(linear, nn.Dropout, nn.AlphaDropout), rows),
        ("convolutions", layers(partial(nn.Conv2d, 2, 3, 3, stride=2), partial(nn.ConvTranspose2d, 3, 2, 2)), images),
        (
            "pooling and its indices",
            body(
                unpools,
                conv=conv,
                pool=partial(nn.MaxPool2d, 2, return_indices=True),
                unpool=partial(nn.MaxUnpool2d, 2),
                up=partial(nn.Upsample, scale_factor=2),
            ),
            images,
        ),
        ("Flatten and Unflatten", layers(nn.Flatten, partial(nn.Unflatten, 1, (4, 32))), images),
    ]
}
