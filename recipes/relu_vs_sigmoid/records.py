"""The numbers of a run by which its claims are decided, as tables that its folder keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import xarray as xr

from probekit.errors import DataError

from .intervals import Estimate
from .settings import Settings, resolve
from .training.networks import Config

__all__ = ["NETWORK", "STATES", "Records", "layers_of"]

NETWORK = ("activation", "depth", "width", "batch_norm", "seed")  # the columns that tell networks apart
STATES = ("untrained", "trained")


@dataclass(frozen=True)
class Records:
    """What a run keeps for its claims.

    `results` has a row for each network and `curves` one for each network and epoch. `layers` has one for each layer of
    each probed network, untrained and trained; runs from before it have None, and `recorded` has the effects of their
    claims about nodes by the claims' numbers.
    """

    settings: Settings
    results: pd.DataFrame
    curves: pd.DataFrame
    layers: pd.DataFrame | None
    recorded: Mapping[int, Estimate] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Records:
        """The records in a run's folder; DataError if it has none."""
        missing = [name for name in ("config.json", "results.csv", "curves.csv") if not (folder / name).exists()]
        if missing:
            raise DataError(f"{str(folder)!r} is no folder of a run: it has no {', '.join(missing)}.")
        settings, layers = resolve({}, folder / "config.json"), folder / "layers.csv"
        return cls(
            settings,
            pd.read_csv(folder / "results.csv"),
            pd.read_csv(folder / "curves.csv"),
            pd.read_csv(layers) if layers.exists() else None,
            _recorded(folder / "claims.json", settings.seeds),
        )

    def of(self, activation: str, batch_norm: bool) -> Config:
        """The probed kind of networks with this activation."""
        return next(c for c in self.settings.probed if (c.activation, c.batch_norm) == (activation, batch_norm))


def _recorded(path: Path, seeds: int) -> dict[int, Estimate]:
    """The effects that a run's claims have, by the claims' numbers."""
    found = json.loads(path.read_text()) if path.exists() else []
    return {
        claim["id"]: Estimate(claim["effect"], claim["standard_error"], seeds)
        for claim in found
        if claim["standard_error"] is not None
    }


def layers_of(settings: Settings, measured: Mapping[tuple[str, str], xr.DataTree]) -> pd.DataFrame:
    """A row for each layer of each probed network in each state, with means over its nodes and classes.

    `inactive`: share of samples at or below 0. `saturation`: share within 0.05 of 0 or 1. `overlap`: of two classes.
    `std`: standard deviation within a class. `spread`: standard deviation of the classes' medians. `from_half`: how far
    the medians are from 0.5.
    """
    rows = []
    for config in settings.probed:
        for seed in range(settings.seeds):
            for state in STATES:
                tree = measured[f"{config.name}-s{seed}", state]
                for number, site in enumerate(tree.children.values(), 1):
                    rows.append({**_kind(config), "seed": seed, "state": state, "layer": number, **_means(site)})
    return pd.DataFrame(rows)


def _kind(config: Config) -> dict[str, object]:
    return {name: getattr(config, name) for name in NETWORK if name != "seed"}


def _means(site: xr.DataTree) -> dict[str, float]:
    median = site["median"]
    found = {
        "inactive": site["sparsity_site"],
        "saturation": site["saturation"],
        "overlap": site["overlap"],
        "std": site["std"],
        "spread": median.std("label"),
        "from_half": abs(median - 0.5),
    }
    return {name: float(values.mean()) for name, values in found.items()}
