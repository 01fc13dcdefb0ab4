"""The work of the study: train every network, capture and measure those that are looked at, collect the numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import xarray as xr

from probekit.errors import DataError

from .jobs import Jobs
from .measuring import STATES, gradients, measured, opened
from .networks import Config
from .search import chosen_rates, search
from .settings import Settings, resolve
from .training import Member, Trained, check, default_learning_rate

__all__ = ["NETWORK", "Study", "settings_of", "study", "trained"]

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


def study(jobs: Jobs, shapes: Iterable[Sequence[Config]]) -> Study:
    """Do what isn't done yet of a run, one of its `shapes` after another.

    They may come in any order; the tables on disk grow with each.
    """
    settings, folder = jobs.settings, jobs.folder
    for kinds in settings.shapes:
        check([Member(kinds[0], 0, 1.0)], jobs.split, settings.batch_size, settings.precision)
    done: dict[str, _Shape] = {}
    tables: dict[str, pd.DataFrame] = {}
    for configs in shapes:
        done[configs[0].shape] = _shape(configs, jobs)
        names = [each[0].shape for each in settings.shapes]
        tables = _tables([done[name] for name in names if name in done])
        for name, table in tables.items():
            table.to_csv(folder / f"{name}.csv", index=False)
    shown = {_best(tables["results"], config) for config in settings.probed}
    probed = [network for shape in done.values() for network in shape.probed]
    found = {}
    for network in jobs.progress(probed, "capture and measure", len(probed)):
        name = network.member.name
        for state in STATES:
            found[name, state] = measured(getattr(network, state), f"{name}-{state}", jobs.split, folder, name in shown)
    gradients = {which: tree for shape in done.values() for which, tree in shape.gradients.items()}
    return Study(settings, tables["results"], tables["curves"], tables.get("learning_rates"), found, gradients)


class _Shape(NamedTuple):
    """What is kept of the networks of one shape."""

    results: pd.DataFrame
    curves: pd.DataFrame
    learning_rates: pd.DataFrame | None
    probed: list[Trained]
    gradients: dict[tuple[Config, str], xr.DataTree]


def _shape(configs: Sequence[Config], jobs: Jobs) -> _Shape:
    networks, searched = trained(configs, jobs)
    probed = [network for network in networks if network.member.config in jobs.settings.probed]
    return _Shape(_results(jobs.settings, networks), _curves(networks), searched, probed, _gradients(networks, jobs))


def trained(configs: Sequence[Config], jobs: Jobs) -> tuple[list[Trained], pd.DataFrame | None]:
    """The networks of one shape, and the search for their learning rates where there is one: made, or as finished."""
    settings = jobs.settings
    wanted = settings.learning_rate is None and settings.search_epochs
    searched = search(configs, jobs) if wanted else None
    return jobs.networks(_members(configs, settings, searched)), searched


def _members(configs: Sequence[Config], settings: Settings, searched: pd.DataFrame | None) -> list[Member]:
    """Every seed of these kinds, at the rate that is given, or else was found, or else suits digits."""
    if settings.learning_rate is not None:
        rates = dict.fromkeys(configs, settings.learning_rate)
    elif searched is not None:
        rates = chosen_rates(searched, configs)
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


def _tables(shapes: Sequence[_Shape]) -> dict[str, pd.DataFrame]:
    """The tables over all shapes that there are, by the names of their files."""
    names = ("results", "curves", "learning_rates")
    frames = {name: [table for shape in shapes if (table := getattr(shape, name)) is not None] for name in names}
    return {name: pd.concat(found, ignore_index=True) for name, found in frames.items() if found}


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
    return pd.concat(frames, ignore_index=True)
