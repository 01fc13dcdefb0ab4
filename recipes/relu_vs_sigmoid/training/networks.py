"""The study's networks: multilayer perceptrons with the paper's activations and initialisations."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probekit.errors import ModelError, near

__all__ = [
    "ACTIVATIONS",
    "PAPERS",
    "Activation",
    "Builder",
    "Config",
    "Curves",
    "Initialise",
    "Member",
    "Scale",
    "Snapshot",
    "Trained",
    "build",
    "build_member",
    "calibrate_batch_norm",
    "default_learning_rate",
]


# It fills a weight with values drawn from a generator, and returns it.
Initialise: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Activation:
    """An activation: its module, how the weights of the layers before it start, and a learning rate for digits."""

    module: Callable[[], nn.Module]
    initialise: Initialise
    learning_rate: float


def _he_normal(weight: Tensor, generator: torch.Generator) -> Tensor:
    return nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu", generator=generator)


def _xavier_uniform(weight: Tensor, generator: torch.Generator) -> Tensor:
    return nn.init.xavier_uniform_(weight, generator=generator)


# The rates are from a search over 3e-4, 1e-3, 3e-3 and 1e-2 on digits: width 200, depths 2 and 4, with and without
# batch norm, batches of 32, three seeds. By mean best validation accuracy 3e-3 comes first, or second to 1e-2 by less
# than 0.3 points (one of 216 samples is 0.5); at 1e-2 sigmoid networks of 6 and 8 layers no longer train.
ACTIVATIONS = {
    "relu": Activation(nn.ReLU, _he_normal, learning_rate=3e-3),
    "sigmoid": Activation(nn.Sigmoid, _xavier_uniform, learning_rate=3e-3),
    # not in the paper
    "tanh": Activation(nn.Tanh, _xavier_uniform, learning_rate=1e-3),
    "gelu": Activation(nn.GELU, _he_normal, learning_rate=3e-3),
    "silu": Activation(nn.SiLU, _he_normal, learning_rate=3e-3),
}
PAPERS = ("relu", "sigmoid")


@dataclass(frozen=True)
class Config:
    """A kind of network: `depth` hidden layers of `width` nodes. Networks of one kind differ in their seed.

    >>> Config("relu", depth=4, width=200, batch_norm=True).name
    'relu-4x200-bn'
    """

    activation: str
    depth: int
    width: int
    batch_norm: bool

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ModelError(
                f"No activation {self.activation!r}; there are: {known}.{near(self.activation, ACTIVATIONS)}"
            )
        if self.depth < 1 or self.width < 1:
            raise ModelError(f"A network of {self.depth} layers of {self.width} nodes; both must be at least 1.")

    @property
    def shape(self) -> str:
        """What networks must share to train together: `4x200`, or `4x200-bn` with batch norm."""
        return f"{self.depth}x{self.width}{'-bn' if self.batch_norm else ''}"

    @property
    def kind(self) -> str:
        """The activation, and whether there is batch norm: `relu-bn`."""
        return f"{self.activation}{'-bn' if self.batch_norm else ''}"

    @property
    def name(self) -> str:
        """The activation and the shape: `relu-4x200-bn`."""
        return f"{self.activation}-{self.shape}"


@dataclass(frozen=True)
class Member:
    """One network to train; `seed` sets its initial weights and the order in which it sees the samples."""

    config: Config
    seed: int
    learning_rate: float

    @property
    def name(self) -> str:
        """The network's name: `relu-4x200-bn-s0`."""
        return f"{self.config.name}-s{self.seed}"


class Curves(NamedTuple):
    """The course of a training: a value for each epoch, measured after the epoch in eval mode on all samples."""

    epoch: NDArray[np.int64]
    train_loss: NDArray[np.float64]
    train_accuracy: NDArray[np.float64]
    validation_accuracy: NDArray[np.float64]


@dataclass(frozen=True)
class Snapshot:
    """A network as it was after an epoch (from 1), in eval mode, and its accuracies."""

    network: nn.Sequential
    epoch: int
    train_accuracy: float
    validation_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class Trained:
    """A network before and after training, in eval mode, and the course of its training.

    `untrained` has batch norm calibrated on the training samples. `best` is the network after the last of the epochs
    with the highest validation accuracy, and `last` after its last epoch. `seconds` is the network's share of the wall
    time: each epoch is shared among the networks still training.
    """

    member: Member
    untrained: nn.Sequential
    best: Snapshot
    last: Snapshot
    curves: Curves
    seconds: float

    def trained(self, weights_of: str) -> Snapshot:
        """The trained network with the weights of its ``best`` or its ``last`` epoch."""
        return {"best": self.best, "last": self.last}[weights_of]


def default_learning_rate(config: Config) -> float:
    """The learning rate that suits a network on digits, in batches of 32."""
    return ACTIVATIONS[config.activation].learning_rate


def build(
    config: Config, features: int, classes: int, seed: int, initialise: Initialise | None = None
) -> nn.Sequential:
    """An untrained network from `features` inputs to the logits of `classes` classes, in training mode.

    Its modules are `linear1`, `norm1` (with batch norm), `act1`, `linear2`, …, `head`, so the selector `act*` reads
    the outputs of each hidden layer. All weights, the head's too, start as `initialise` says: by default He normal by
    fan-in for ReLU, GELU and SiLU and Xavier uniform for sigmoid and tanh. Biases are 0; a layer before batch norm has
    none, since batch norm shifts its outputs. The weights depend on `seed` alone, and torch's global generator is
    neither read nor moved.

    >>> network = build(Config("sigmoid", depth=1, width=8, batch_norm=True), features=4, classes=3, seed=0)
    >>> list(network._modules)
    ['linear1', 'norm1', 'act1', 'head']
    """
    generator = torch.Generator().manual_seed(seed)
    activation = ACTIVATIONS[config.activation]
    initialise = initialise or activation.initialise
    modules: OrderedDict[str, nn.Module] = OrderedDict()

    def linear(name: str, inputs: int, outputs: int, bias: bool) -> None:
        with torch.random.fork_rng(devices=()):  # the layer's own initialisation draws from the global generator
            layer = nn.Linear(inputs, outputs, bias=bias)
        initialise(layer.weight, generator)
        if bias:
            nn.init.zeros_(layer.bias)
        modules[name] = layer

    for number in range(1, config.depth + 1):
        linear(f"linear{number}", features if number == 1 else config.width, config.width, not config.batch_norm)
        if config.batch_norm:
            modules[f"norm{number}"] = nn.BatchNorm1d(config.width)
        modules[f"act{number}"] = activation.module()
    linear("head", config.width, classes, True)
    return nn.Sequential(modules)


# It makes a member's untrained network for so many features and classes.
Builder: TypeAlias = Callable[[Member, int, int], nn.Sequential]


def build_member(member: Member, features: int, classes: int) -> nn.Sequential:
    """The untrained network of a member, as `build` makes it."""
    return build(member.config, features, classes, member.seed)


class Scale(nn.Module):
    """Scale features: x · factor + shift, which training leaves as they are.

    As the first module, `scale`, of a network it lets networks that see the same samples scaled otherwise train
    together.
    """

    def __init__(self, factor: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.get_buffer("shift"), x, self.get_buffer("factor"))


@torch.no_grad()
def calibrate_batch_norm(network: nn.Module, x: Tensor) -> None:
    """Set the running statistics of batch norm to those of `x` (n, features), in one pass, in place.

    The network runs on all of `x` as one batch in eval mode, and each norm layer takes the mean and the unbiased
    variance of its input before it is applied. So every node has mean 0 and variance 1 over `x` (before scale and
    shift) at any depth, which averages over small batches would not give the deeper layers. A network without batch
    norm doesn't change. The mode is restored.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    if not norms:
        return
    training = network.training
    with ExitStack() as undo:
        undo.callback(network.train, training)
        network.eval()
        for norm in norms:
            undo.callback(norm.register_forward_pre_hook(_take_statistics).remove)
        network(x)


def _take_statistics(norm: nn.Module, inputs: tuple[Tensor]) -> None:
    (x,) = inputs
    norm.get_buffer("running_mean").copy_(x.mean(0))
    norm.get_buffer("running_var").copy_(x.var(0, correction=1))
