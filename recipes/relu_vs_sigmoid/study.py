"""The work of the study: train every network, capture and measure those that are looked at, collect the numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import xarray as xr

from probekit.errors import DataError
from probekit.progress import Progress

from .data import Split
from .jobs import Jobs
from .measuring import STATES, gradients, measured, opened
from .networks import Config
from .search import chosen_rates, search
from .settings import Settings, resolve
from .training import Member, Trained, check, default_learning_rate

__all__ = ["NETWORK", "Study", "settings_of", "study"]

NETWORK = ("activation", "depth", "width", "batch_norm", "seed")  # the columns that tell networks apart


@dataclass(frozen=True)
class Study:
    """Everything that figures, table and claims are made of.

    `results` has one row a network and `curves` one a network and epoch; `searched` one a network of the learning-rate
    search, where there was one; `measured` holds what was measured of each probed network, by its name and its state;
    `gradients` the same of the gradients in one of the deepest networks of each kind.
    """

    settings: Settings
    results: pd.DataFrame
    curves: pd.DataFrame
    searched: pd.DataFrame | None
    measured: dict[tuple[str, str], xr.DataTree]
    gradients: dict[tuple[Config, str], xr.DataTree]

    @classmethod
    def read(cls, folder: Path) -> Study:
        """The study of a finished run, from its folder; DataError where it isn't one."""
        settings = settings_of(folder)
        names = [f"{config.name}-s{seed}" for config in settings.probed for seed in range(settings.seeds)]
        searched = folder / "learning_rates.csv"
        return cls(
            settings,
            pd.read_csv(folder / "results.csv"),
            pd.read_csv(folder / "curves.csv"),
            pd.read_csv(searched, converters={"inactive": json.loads}) if searched.exists() else None,
            {(name, state): opened(folder / "metrics" / f"{name}-{state}.zarr") for name in names for state in STATES},
            {
                (kind, state): opened(folder / "gradients" / f"{kind.name}-s0-{state}.zarr")
                for kind in settings.deepest
                for state in STATES
            },
        )

    @property
    def shown(self) -> dict[Config, str]:
        """The network of each kind that the figures show: of its seeds the one with the best validation accuracy."""
        return {config: _best(self.results, config) for config in self.settings.probed}

    def of(self, activation: str, batch_norm: bool) -> Config:
        """The probed networks of one kind."""
        return next(c for c in self.settings.probed if (c.activation, c.batch_norm) == (activation, batch_norm))

    def tree(self, config: Config, state: str) -> xr.DataTree:
        """What was measured of the network that is shown."""
        return self.measured[self.shown[config], state]

    def trees(self, config: Config, state: str) -> list[xr.DataTree]:
        """What was measured of each seed's network."""
        return [self.measured[f"{config.name}-s{seed}", state] for seed in range(self.settings.seeds)]


def settings_of(folder: Path) -> Settings:
    """The settings of a finished run, from its folder; DataError where it isn't one."""
    if not (folder / "claims.json").exists():
        raise DataError(f"{str(folder)!r} is no folder of a finished run: it has no claims.json.")
    return resolve({}, folder / "config.json")


def study(settings: Settings, split: Split, folder: Path, checkpoint_every: int, progress: Progress) -> Study:
    """Do what isn't done yet of a run in `folder`."""
    done = _trained(Jobs(settings, split, folder, checkpoint_every, progress))
    shown = {_best(done.results, config) for config in settings.probed}
    found = {}
    for network in progress(done.probed, "capture and measure", len(done.probed)):
        name = network.member.name
        for state in STATES:
            found[name, state] = measured(getattr(network, state), f"{name}-{state}", split, folder, name in shown)
    return Study(settings, done.results, done.curves, done.searched, found, done.gradients)


class _Done(NamedTuple):
    results: pd.DataFrame
    curves: pd.DataFrame
    searched: pd.DataFrame | None
    probed: list[Trained]
    gradients: dict[tuple[Config, str], xr.DataTree]


def _trained(jobs: Jobs) -> _Done:
    """Train all networks, one shape after another; their tables are on disk as soon as a shape is done."""
    settings, folder = jobs.settings, jobs.folder
    results: list[pd.DataFrame] = []
    curves: list[pd.DataFrame] = []
    searched: list[pd.DataFrame] = []
    done = _Done(pd.DataFrame(), pd.DataFrame(), None, [], {})
    for configs in settings.shapes:
        check([Member(configs[0], 0, 1.0)], jobs.split, settings.batch_size)
    for configs in settings.shapes:
        if settings.learning_rate is None and settings.search_epochs:
            searched.append(search(configs, jobs))
            _write(searched, folder / "learning_rates.csv")
        networks = jobs.networks(_members(configs, settings, searched))
        results.append(_results(settings, networks))
        curves.append(_curves(networks))
        _write(results, folder / "results.csv")
        _write(curves, folder / "curves.csv")
        done.probed.extend(network for network in networks if network.member.config in settings.probed)
        done.gradients.update(_gradients(networks, jobs))
    return done._replace(
        results=_joined(results), curves=_joined(curves), searched=_joined(searched) if searched else None
    )


def _members(configs: Sequence[Config], settings: Settings, searched: Sequence[pd.DataFrame]) -> list[Member]:
    """Every seed of these kinds, at the rate that is given, or else was found, or else suits digits."""
    if settings.learning_rate is not None:
        rates = dict.fromkeys(configs, settings.learning_rate)
    elif settings.search_epochs:
        rates = chosen_rates(searched[-1], configs)
    else:
        rates = {config: default_learning_rate(config) for config in configs}
    return [Member(config, seed, rates[config]) for config in configs for seed in range(settings.seeds)]


def _gradients(networks: Sequence[Trained], jobs: Jobs) -> dict[tuple[Config, str], xr.DataTree]:
    """The gradients in the network of seed 0 of each of the deepest kinds, before and after training."""
    return {
        (network.member.config, state): gradients(
            getattr(network, state), f"{network.member.name}-{state}", jobs.split, jobs.folder
        )
        for network in networks
        if network.member.seed == 0 and network.member.config in jobs.settings.deepest
        for state in STATES
    }


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True)


def _write(frames: Sequence[pd.DataFrame], path: Path) -> None:
    _joined(frames).to_csv(path, index=False)


def _best(results: pd.DataFrame, config: Config) -> str:
    """The name of the network of a kind that validates best, the first of equals."""
    ours = results
    for column, value in asdict(config).items():
        ours = ours[ours[column] == value]
    return f"{config.name}-s{ours.seed.iloc[int(ours.validation_accuracy.argmax())]}"


def _results(settings: Settings, trained: Sequence[Trained]) -> pd.DataFrame:
    rows = [
        {
            "dataset": settings.dataset,
            **asdict(network.member.config),
            "seed": network.member.seed,
            "learning_rate": network.member.learning_rate,
            "epochs": len(network.curves.epoch),
            "best_epoch": network.best_epoch,
            "train_accuracy": network.train_accuracy,
            "validation_accuracy": network.validation_accuracy,
            "test_accuracy": network.test_accuracy,
            "seconds": round(network.seconds, 2),
        }
        for network in trained
    ]
    return pd.DataFrame(rows)


def _curves(trained: Sequence[Trained]) -> pd.DataFrame:
    frames = [
        pd.DataFrame({**asdict(network.member.config), "seed": network.member.seed, **network.curves._asdict()})
        for network in trained
    ]
    return _joined(frames)
