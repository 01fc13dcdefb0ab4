"""The choices that the paper doesn't report, and networks that differ in them."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
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


STANDARDISED = ("set", "channel", "pixel")
SCALINGS = ("0-to-1", "minus1-to-1", *STANDARDISED)
_NUMBER = r"(?:minus)?\d+(?:\.\d+)?"
_RANGE = re.compile(rf"({_NUMBER})-to-({_NUMBER})")
INITIALISATIONS = {
    "fan-in-normal": _he(nn.init.kaiming_normal_, "fan_in"),
    "fan-in-uniform": _he(nn.init.kaiming_uniform_, "fan_in"),
    "fan-out-normal": _he(nn.init.kaiming_normal_, "fan_out"),
    "fan-out-uniform": _he(nn.init.kaiming_uniform_, "fan_out"),
}


@dataclass(frozen=True)
class Choices:
    """The values of each choice; networks are trained with every combination of them.

    `scalings`: pixels in a range, as ``0-to-1`` or ``minus1-to-1``, or standardised by one mean and deviation of the
    whole set, of each channel, or of each pixel. `initialisations`: He by fan-in or fan-out, normal or uniform.
    """

    scalings: tuple[str, ...]
    learning_rates: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    initialisations: tuple[str, ...]

    def __post_init__(self) -> None:
        for scaling in self.scalings:
            if scaling not in STANDARDISED and _range(scaling) is None:
                raise DataError(
                    f"There is no {scaling!r} among the scalings; there are: {', '.join(STANDARDISED)}, and ranges "
                    f"from a lower to a higher number, as {SCALINGS[0]} or {SCALINGS[1]}.{near(scaling, SCALINGS)}"
                )
        for value in self.initialisations:
            if value not in INITIALISATIONS:
                raise DataError(
                    f"There is no {value!r} among the initialisations; there are: {', '.join(INITIALISATIONS)}."
                    f"{near(value, INITIALISATIONS)}"
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


def raw_split(
    settings: Settings, names: Iterable[str], data_dir: Path | None, device: str
) -> tuple[Split, dict[str, Scale]]:
    """The settings' data set, split as a run splits it but not scaled, and the module of each scaling named."""
    arrays, split = arrays_and_split(settings, data_dir, scaled=False)
    return split.to(device), scalings(arrays.x_train[split.train.index.numpy()], names)


def scalings(x: Array, names: Iterable[str]) -> dict[str, Scale]:
    """The module of each scaling named, for the training samples x (n, …) of a `Split` that isn't scaled.

    A range is that of all training samples together. A pixel that has one value in all of them is set to 0 by the
    scaling of each pixel.
    """
    flat = x.reshape(len(x), -1)
    low, high = float(flat.min()), float(flat.max())
    mean, deviation = flat.mean(0, dtype=np.float64), flat.std(0, dtype=np.float64)
    standardised: dict[str, tuple[Array | float, Array | float]] = {
        "set": (float(flat.mean(dtype=np.float64)), float(flat.std(dtype=np.float64))),
        "channel": channel_scaling(x),
        "pixel": (mean, np.where(deviation > 0, deviation, np.inf)),
    }

    def centre_and_unit(name: str) -> tuple[Array | float, Array | float]:
        if (bounds := _range(name)) is None:
            return standardised[name]
        unit = (high - low) / (bounds[1] - bounds[0])
        return low - bounds[0] * unit, unit

    return {name: _module(*centre_and_unit(name), x.shape[1:]) for name in names}


def _range(name: str) -> tuple[float, float] | None:
    """The lower and the higher bound that a scaling's name has, as ``minus1-to-1``; None if it has none."""
    found = _RANGE.fullmatch(name)
    if found is None:
        return None
    low, high = (float(number.replace("minus", "-")) for number in found.groups())
    return (low, high) if low < high else None


def _module(centre: Array | float, unit: Array | float, shape: tuple[int, ...]) -> Scale:
    """The module that computes (x - centre) / unit on flattened samples of this shape."""

    def flat(values: Array | float) -> Array:
        values = np.asarray(values, np.float64)
        return (values if values.shape == (int(np.prod(shape)),) else np.broadcast_to(values, (1, *shape))).reshape(-1)

    return Scale(
        torch.from_numpy((1 / flat(unit)).astype(np.float32)),
        torch.from_numpy((-flat(centre) / flat(unit)).astype(np.float32)),
    )
