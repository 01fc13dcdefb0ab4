"""The settings of a run: everything that its results depend on, from a profile, a file and single options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from probekit.errors import DataError, near

from .training.networks import PAPERS, Config

__all__ = ["COMMON", "PROFILES", "WEIGHTS", "Settings", "rates", "resolve"]

COMMON: dict[str, Any] = {
    "activations": PAPERS,
    "widths": (200,),
    "seeds": 3,
    "learning_rate": None,
    "search_seeds": None,
    "decay": 0.99,
    "split_seed": 0,
    "precision": "float32",
    "fit_first": False,
    "fit": 0.99,
    "weights_of": "best",
}
# The epochs whose weights a study may measure, and how it says so.
WEIGHTS = {"best": "at the weights with the best validation accuracy", "last": "at the weights of the last epoch"}
PROFILES: dict[str, dict[str, Any]] = {
    "quick": {"depths": (2, 4), "epochs": 30, "patience": 0, "batch_size": 32, "search_epochs": 0},
    # The networks of section 3 of the paper.
    "section3": {"depths": (4,), "epochs": 300, "patience": 50, "batch_size": 128, "search_epochs": 10},
    # All networks of the paper.
    "paper": {
        "depths": (2, 4, 6, 8),
        "widths": (200, 800),
        "epochs": 300,
        "patience": 50,
        "batch_size": 128,
        "search_epochs": 30,
    },
}
LARGE = ("mnist", "cifar10")  # the paper's data sets, which take section3 by default


@dataclass(frozen=True)
class Settings:
    """The resolved options of a run; runs with equal settings give equal numbers. `source` names the data."""

    profile: str
    source: str
    activations: tuple[str, ...]
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    seeds: int
    epochs: int
    patience: int
    batch_size: int
    learning_rate: float | dict[str, float] | None
    search_epochs: int
    search_seeds: int | None
    decay: float
    split_seed: int
    precision: str
    fit_first: bool
    fit: float
    weights_of: str

    def __post_init__(self) -> None:
        least = {"seeds": 1, "epochs": 1, "batch_size": 1, "patience": 0, "search_epochs": 0}
        found = {name: (getattr(self, name),) for name in least} | {"depths": self.depths, "widths": self.widths}
        for name, values in found.items():
            bound = least.get(name, 1)
            if not values or not all(isinstance(value, int) and value >= bound for value in values):
                raise DataError(f"{name} is {getattr(self, name)}; it takes whole numbers from {bound}.")
        if self.search_seeds is not None and self.search_seeds not in range(1, self.seeds + 1):
            raise DataError(f"search_seeds is {self.search_seeds}; it takes 1 to {self.seeds}, the seeds.")
        if not 0 < self.fit <= 1:
            raise DataError(f"fit is {self.fit}; it is a share of the training samples, above 0 and at most 1.")
        if self.fit_first and not self.patience:
            raise DataError("fit_first says when patience begins to count, and patience is 0; give a patience.")
        if self.weights_of not in WEIGHTS:
            raise DataError(f"weights_of is {self.weights_of!r}; it is best (validation accuracy) or last (epoch).")
        if missing := [name for name in PAPERS if name not in self.activations]:
            raise DataError(f"The study compares {' and '.join(PAPERS)}: add {', '.join(missing)} to the activations.")
        for name in self.activations:
            Config(name, 1, 1, False)  # raises if it isn't known
        given = self.learning_rate.values() if isinstance(self.learning_rate, dict) else [self.learning_rate]
        if wrong := [rate for rate in given if rate is not None and not rate > 0]:
            raise DataError(f"learning_rate has {wrong[0]}; a rate is above 0.")
        if isinstance(self.learning_rate, dict):
            _check_kinds(self.learning_rate, [config.kind for config in self.probed])

    def rate(self, config: Config) -> float | None:
        """The learning rate that is given for a kind of networks, if any is given."""
        return self.learning_rate[config.kind] if isinstance(self.learning_rate, dict) else self.learning_rate

    @property
    def dataset(self) -> str:
        """The name of the data set, without a file's folder and ending."""
        return Path(self.source).stem

    @property
    def fit_before(self) -> float:
        """The training accuracy that a network reaches before patience counts; 0 if it counts from the start."""
        return self.fit if self.fit_first else 0.0

    @property
    def shapes(self) -> list[list[Config]]:
        """Every kind of network to train; the kinds of one shape, which train together, are in one list."""
        return [
            [Config(activation, depth, width, batch_norm) for activation in self.activations]
            for depth in self.depths
            for width in self.widths
            for batch_norm in (False, True)
        ]

    @property
    def probed(self) -> list[Config]:
        """The kinds of networks whose nodes are measured: 4 × 200 as in section 3 of the paper, or the nearest."""
        depth = 4 if 4 in self.depths else max(self.depths)
        width = 200 if 200 in self.widths else min(self.widths)
        return [Config(activation, depth, width, norm) for activation in self.activations for norm in (False, True)]

    @property
    def deepest(self) -> list[Config]:
        """The deepest kinds as wide as the probed ones, where gradients would vanish first."""
        return [replace(config, depth=max(self.depths)) for config in self.probed]

    def write(self, path: Path) -> None:
        """Save them in the form that `resolve` reads."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def resolve(given: Mapping[str, Any], config: Path | None = None) -> Settings:
    """The settings of a run: each is the given one if it isn't None, else the file's, else the profile's.

    The default profile is section3 on MNIST and CIFAR10 and quick on anything else.

    >>> resolve({"source": "digits", "epochs": 5}).depths
    (2, 4)
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if config is not None:
        if "profile" in chosen:
            raise DataError("A configuration file has its own profile: give --config or --profile, not both.")
        chosen = {**_read(config), **chosen}
    profile = chosen.get("profile") or ("section3" if chosen.get("source") in LARGE else "quick")
    if profile not in PROFILES:
        known = ", ".join(PROFILES)
        raise DataError(f"There is no profile {profile!r}; there are: {known}.{near(str(profile), PROFILES)}")
    return Settings(**{"source": "digits", "profile": profile, **COMMON, **PROFILES[profile], **chosen})


def rates(given: Sequence[str]) -> float | dict[str, float]:
    """The learning rate of all networks, or of each kind by its name, from what the command line has for it.

    >>> rates(["1e-3"])
    0.001
    >>> rates(["relu=1e-3", "relu-bn=3e-3"])
    {'relu': 0.001, 'relu-bn': 0.003}
    """
    parts = [text.rpartition("=") for text in given]
    try:
        found = {kind: float(rate) for kind, _, rate in parts}
    except ValueError as error:
        raise DataError(f"learning_rate is {','.join(given)}: {error}. {_RATES}") from error
    if len(found) < len(parts) or ("" in found and len(found) > 1):
        raise DataError(f"learning_rate is {','.join(given)}, which has more than one rate for a kind. {_RATES}")
    return found.get("", found)


_RATES = "Give one rate, as 1e-3, or one for each kind, as relu=1e-3,sigmoid=3e-3,relu-bn=1e-3,sigmoid-bn=3e-3."


def _check_kinds(found: Mapping[str, float], kinds: Sequence[str]) -> None:
    """Raise unless there is a rate for each kind of networks and for nothing else."""
    missing, unknown = [kind for kind in kinds if kind not in found], [kind for kind in found if kind not in kinds]
    if missing:
        raise DataError(f"learning_rate has no rate for {', '.join(missing)}. {_RATES}")
    if unknown:
        raise DataError(f"learning_rate has a rate for {', '.join(unknown)}; the run trains {', '.join(kinds)}.")


def _read(path: Path) -> dict[str, Any]:
    """The settings in a file."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"The configuration {str(path)!r} can't be read: {error}") from error
    known = [field.name for field in fields(Settings)]
    if not isinstance(found, dict):
        raise DataError(
            f"The configuration {str(path)!r} is no JSON object of settings; there are: {', '.join(known)}."
        )
    for name in found:
        if name not in known:
            raise DataError(f"{str(path)!r} sets {name!r}, which is no setting.{near(name, known)}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
