"""What a run of the study is: everything that its results depend on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from probekit.errors import DataError

from .networks import ACTIVATIONS, Config
from .training import Member, default_learning_rate

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """The resolved options of a run; runs with equal settings give the same numbers. `source` names the data."""

    source: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    seeds: int
    epochs: int
    batch_size: int
    learning_rate: float | None
    decay: float
    split_seed: int

    def __post_init__(self) -> None:
        lowest = {"depths": min(self.depths, default=0), "widths": min(self.widths, default=0)}
        lowest |= {name: getattr(self, name) for name in ("seeds", "epochs", "batch_size")}
        for name, value in lowest.items():
            if value < 1:
                raise DataError(f"{name} is {getattr(self, name)}; it takes whole numbers from 1.")

    @property
    def dataset(self) -> str:
        """The name of the data set, without a file's folder and ending."""
        return Path(self.source).stem

    @property
    def members(self) -> list[Member]:
        """Every network to train."""
        configs = [
            Config(activation, depth, width, batch_norm)
            for depth in self.depths
            for width in self.widths
            for batch_norm in (False, True)
            for activation in ACTIVATIONS
        ]
        return [self._member(config, seed) for config in configs for seed in range(self.seeds)]

    def _member(self, config: Config, seed: int) -> Member:
        rate = default_learning_rate(config) if self.learning_rate is None else self.learning_rate
        return Member(config, seed, rate)

    @property
    def probed(self) -> list[Config]:
        """The networks whose nodes are looked at: 4 × 200 as in section 3 of the paper, or the nearest to it."""
        depth = 4 if 4 in self.depths else max(self.depths)
        width = 200 if 200 in self.widths else min(self.widths)
        return [Config(activation, depth, width, norm) for activation in ACTIVATIONS for norm in (False, True)]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")
