"""The choices that the paper doesn't report, and networks that differ in them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probekit.errors import DataError, near

from ..data import Split, arrays_and_split, channel_scaling
from ..settings import Settings
from ..training.networks import Builder, Config, Initialise, Member, Scale, build

__all__ = ["INITIALISATIONS", "SCALINGS", "Choices", "Variant", "builder", "raw_split", "scalings"]

Array: TypeAlias = NDArray[Any]


def _he(draw: Callable[..., Tensor], mode: str) -> Initialise:
    def initialise(weight: Tensor, generator: torch.Generator) -> Tensor:
        return draw(weight, mode=mode, nonlinearity="relu", generator=generator)

    return initialise


SCALINGS = ("0-to-1", "minus1-to-1", "set", "channel", "pixel")
INITIALISATIONS = {
    "fan-in-normal": _he(nn.init.kaiming_normal_, "fan_in"),
    "fan-in-uniform": _he(nn.init.kaiming_uniform_, "fan_in"),
    "fan-out-normal": _he(nn.init.kaiming_normal_, "fan_out"),
    "fan-out-uniform": _he(nn.init.kaiming_uniform_, "fan_out"),
}


@dataclass(frozen=True)
class Choices:
    """The values of each choice; networks are trained with every combination of them.

    `scalings`: pixels from 0 to 1 or from -1 to 1, or standardised by one mean and deviation of the whole set, of each
    channel, or of each pixel. `initialisations`: He by fan-in or fan-out, normal or uniform.
    """

    scalings: tuple[str, ...]
    learning_rates: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    initialisations: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, known in (("scalings", SCALINGS), ("initialisations", tuple(INITIALISATIONS))):
            for value in getattr(self, name):
                if value not in known:
                    raise DataError(
                        f"There is no {value!r} among the {name}; there are: {', '.join(known)}.{near(value, known)}"
                    )
        for name in ("scalings", "learning_rates", "batch_sizes", "initialisations"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise DataError(f"{name} is {','.join(map(str, values)) or 'empty'}; give values that differ.")
        if min(self.learning_rates) <= 0 or min(self.batch_sizes) < 1:
            raise DataError("Learning rates are above 0, and a batch has at least one sample.")

    def members(self, config: Config, seeds: Sequence[int]) -> list[Variant]:
        """The networks of a kind with every choice that networks of one batch size may differ in."""
        every = product(seeds, self.learning_rates, self.scalings, self.initialisations)
        return [Variant(config, *values) for values in every]


@dataclass(frozen=True)
class Variant(Member):
    """One network to train, with the choices that are its own."""

    scaling: str
    initialisation: str


def builder(scaled: Mapping[str, Scale]) -> Builder:
    """What builds a `Variant`: its network scales the raw samples first, by its scaling's module in `scaled`."""

    def built(member: Member, features: int, classes: int) -> nn.Sequential:
        assert isinstance(member, Variant)  # it builds nothing else
        initialise = INITIALISATIONS[member.initialisation]
        network = build(member.config, features, classes, member.seed, initialise)
        return nn.Sequential(OrderedDict([("scale", scaled[member.scaling]), *network.named_children()]))

    return built


def raw_split(settings: Settings, data_dir: Path | None, device: str) -> tuple[Split, dict[str, Scale]]:
    """The settings' data set, split as a run splits it but not scaled, and the module of each scaling."""
    arrays, split = arrays_and_split(settings, data_dir, scaled=False)
    return split.to(device), scalings(arrays.x_train[split.train.index.numpy()])


def scalings(x: Array) -> dict[str, Scale]:
    """The module of each scaling, for the training samples x (n, …) of a `Split` that isn't scaled.

    A pixel that has one value in all training samples is set to 0 by the scaling of each pixel.
    """
    flat = x.reshape(len(x), -1)
    low, high = float(flat.min()), float(flat.max())
    mean, deviation = flat.mean(0, dtype=np.float64), flat.std(0, dtype=np.float64)
    found: dict[str, tuple[Array | float, Array | float]] = {
        "0-to-1": (low, high - low),
        "minus1-to-1": ((low + high) / 2, (high - low) / 2),
        "set": (float(flat.mean(dtype=np.float64)), float(flat.std(dtype=np.float64))),
        "channel": channel_scaling(x),
        "pixel": (mean, np.where(deviation > 0, deviation, np.inf)),
    }
    return {name: _module(*values, x.shape[1:]) for name, values in found.items()}


def _module(centre: Array | float, unit: Array | float, shape: tuple[int, ...]) -> Scale:
    """The module that computes (x - centre) / unit on flattened samples of this shape."""

    def flat(values: Array | float) -> Array:
        values = np.asarray(values, np.float64)
        return (values if values.shape == (int(np.prod(shape)),) else np.broadcast_to(values, (1, *shape))).reshape(-1)

    return Scale(
        torch.from_numpy((1 / flat(unit)).astype(np.float32)),
        torch.from_numpy((-flat(centre) / flat(unit)).astype(np.float32)),
    )
