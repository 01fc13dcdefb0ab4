"""The study: every network trained, captured and measured, and the numbers collected."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from torch import nn

import probekit as pk
from probekit.errors import DataError

from .data import Split
from .records import STATES, Records, layers_of
from .settings import Settings, resolve
from .training.jobs import Jobs, trained
from .training.networks import Config, Member, Trained
from .training.trainer import check

__all__ = ["Study", "settings_of", "study"]

SATURATED = 0.05  # a sigmoid this near to 0 or 1 counts as saturated
GRADIENT_SAMPLES = 2000


@pk.metric
def saturation(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Share of samples within 0.05 of a sigmoid's bounds, 0 and 1."""
    saturated = (values < SATURATED) | (values > 1 - SATURATED)
    shares: npt.NDArray[np.float64] = saturated.mean(axis=0)
    return shares


# The metrics of every seed's network, by the variables that they give, and those of the networks in the figures.
OF_EACH: dict[str, Any] = {
    "median": pk.metrics.median,
    "mean": pk.metrics.Mean(),
    "std": pk.metrics.Std(),
    "sparsity": pk.metrics.Sparsity(),
    "saturation": saturation,
    "overlap": pk.metrics.Overlap(),
    "auroc_rest": pk.metrics.AUROC(pairs=False),
    "selectivity": pk.metrics.Selectivity(),
}
OF_SHOWN: dict[str, Any] = {
    **OF_EACH,
    "histogram": pk.metrics.Histogram(edges="width"),
    "overlap_null": pk.metrics.Overlap(null="permute"),
    "effective_rank": pk.metrics.EffectiveRank(),
    "linear_probe": pk.metrics.LinearProbe(),
    "neural_collapse_nc1": pk.metrics.NeuralCollapse(),
}
del OF_SHOWN["overlap"]  # Overlap(null="permute") gives it, too


@dataclass(frozen=True)
class Study:
    """Everything that figures, tables and claims are made of.

    `results` has a row for each network, with the accuracies of the weights that are measured. `curves` has one for
    each network and epoch, and `searched` one for each network of the learning-rate search, if there was one.
    `measured` has the metrics of each probed network by its name and state; `gradients` has the gradient norms in one
    of the deepest networks of each kind.
    """

    settings: Settings
    results: pd.DataFrame
    curves: pd.DataFrame
    searched: pd.DataFrame | None
    measured: dict[tuple[str, str], xr.DataTree]
    gradients: dict[tuple[Config, str], xr.DataTree]

    @classmethod
    def read(cls, folder: Path) -> Study:
        """The study of a finished run, from its folder; DataError if it isn't one."""
        settings = settings_of(folder)
        names = [f"{config.name}-s{seed}" for config in settings.probed for seed in range(settings.seeds)]
        searched = folder / "learning_rates.csv"
        return cls(
            settings,
            pd.read_csv(folder / "results.csv"),
            pd.read_csv(folder / "curves.csv"),
            pd.read_csv(searched, converters={"inactive": json.loads}) if searched.exists() else None,
            {(name, state): _opened(folder / "metrics" / f"{name}-{state}.zarr") for name in names for state in STATES},
            {
                (kind, state): _opened(folder / "gradients" / f"{kind.name}-s0-{state}.zarr")
                for kind in settings.deepest
                for state in STATES
            },
        )

    @property
    def records(self) -> Records:
        """The numbers by which the claims are decided."""
        return Records(self.settings, self.results, self.curves, layers_of(self.settings, self.measured))

    @property
    def shown(self) -> dict[Config, str]:
        """The network of each kind that the figures show: the seed with the best validation accuracy."""
        return {config: _best(self.results, config) for config in self.settings.probed}

    def of(self, activation: str, batch_norm: bool) -> Config:
        """The probed kind of networks with this activation."""
        return next(c for c in self.settings.probed if (c.activation, c.batch_norm) == (activation, batch_norm))

    def tree(self, config: Config, state: str) -> xr.DataTree:
        """The metrics of the network of a kind that the figures show."""
        return self.measured[self.shown[config], state]

    def trees(self, config: Config, state: str) -> list[xr.DataTree]:
        """The metrics of each seed's network of a kind."""
        return [self.measured[f"{config.name}-s{seed}", state] for seed in range(self.settings.seeds)]


def settings_of(folder: Path) -> Settings:
    """The settings of a finished run, from its folder; DataError if it isn't one."""
    if not (folder / "claims.json").exists():
        raise DataError(f"{str(folder)!r} is no folder of a finished run: it has no claims.json.")
    return resolve({}, folder / "config.json")


def study(jobs: Jobs, shapes: Iterable[Sequence[Config]]) -> Study:
    """Do everything that isn't finished yet, one of the run's `shapes` after another, in any order.

    The tables in the run's folder grow with each shape.
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
            model = _network(network, state, settings)
            found[name, state] = _measured(model, f"{name}-{state}", jobs.split, folder, name in shown)
    gradients = {which: tree for shape in done.values() for which, tree in shape.gradients.items()}
    return Study(settings, tables["results"], tables["curves"], tables.get("learning_rates"), found, gradients)


class _Shape(NamedTuple):
    """What the study keeps of the networks of one shape; the tables have the names of their files."""

    results: pd.DataFrame
    curves: pd.DataFrame
    learning_rates: pd.DataFrame | None
    probed: list[Trained]
    gradients: dict[tuple[Config, str], xr.DataTree]


def _shape(configs: Sequence[Config], jobs: Jobs) -> _Shape:
    networks, searched = trained(configs, jobs)
    probed = [network for network in networks if network.member.config in jobs.settings.probed]
    return _Shape(_results(jobs.settings, networks), _curves(networks), searched, probed, _gradients(networks, jobs))


def _tables(shapes: Sequence[_Shape]) -> dict[str, pd.DataFrame]:
    """The tables over all finished shapes, by the names of their files."""
    names = ("results", "curves", "learning_rates")
    frames = {name: [table for shape in shapes if (table := getattr(shape, name)) is not None] for name in names}
    return {name: pd.concat(found, ignore_index=True) for name, found in frames.items() if found}


def _results(settings: Settings, networks: Sequence[Trained]) -> pd.DataFrame:
    rows = [
        {
            "dataset": settings.dataset,
            **asdict(network.member.config),
            "seed": network.member.seed,
            "learning_rate": network.member.learning_rate,
            "epochs": len(network.curves.epoch),
            "best_epoch": network.best.epoch,
            "fitted_epoch": _fitted_epoch(network, settings.fit),
            "weights_epoch": measured.epoch,
            "train_accuracy": measured.train_accuracy,
            "validation_accuracy": measured.validation_accuracy,
            "test_accuracy": measured.test_accuracy,
            "seconds": round(network.seconds, 2),
        }
        for network in networks
        for measured in (network.trained(settings.weights_of),)
    ]
    return pd.DataFrame(rows)


def _fitted_epoch(network: Trained, fit: float) -> int | None:
    """The first epoch whose training accuracy is at least `fit`."""
    fitted = network.curves.train_accuracy >= fit
    return int(network.curves.epoch[fitted.argmax()]) if fitted.any() else None


def _curves(networks: Sequence[Trained]) -> pd.DataFrame:
    frames = [
        pd.DataFrame({**asdict(network.member.config), "seed": network.member.seed, **network.curves._asdict()})
        for network in networks
    ]
    return pd.concat(frames, ignore_index=True)


def _network(network: Trained, state: str, settings: Settings) -> nn.Module:
    """The network as it is measured in a state."""
    return network.untrained if state == "untrained" else network.trained(settings.weights_of).network


def _best(results: pd.DataFrame, config: Config) -> str:
    """The name of the network of a kind with the best validation accuracy, the first of equals."""
    ours = results
    for column, value in asdict(config).items():
        ours = ours[ours[column] == value]
    return f"{config.name}-s{ours.seed.iloc[int(ours.validation_accuracy.argmax())]}"


def _measured(network: nn.Module, name: str, split: Split, folder: Path, shown: bool) -> xr.DataTree:
    """The network's metrics on the training samples, measured once; activations are kept of networks in the figures."""
    acts, metrics = folder / "acts" / f"{name}.zarr", folder / "metrics" / f"{name}.zarr"
    weights, wanted = pk.weights_digest(network), OF_SHOWN if shown else OF_EACH
    captured, done = _is_captured(acts, weights), _is_measured(metrics, weights, list(wanted))
    if not captured and (shown or not done):
        data = (split.train.x, split.train.y)
        pk.capture(
            network, data, acts, sites="act*", batch_size=512, class_names=split.class_names, overwrite=acts.exists()
        )
    if done:
        found = _opened(metrics)
    else:
        shutil.rmtree(metrics, ignore_errors=True)
        found = pk.measure(acts, list(wanted.values()), out=metrics)
    if not shown:
        shutil.rmtree(acts, ignore_errors=True)
    return found


def _gradients(networks: Sequence[Trained], jobs: Jobs) -> dict[tuple[Config, str], xr.DataTree]:
    """The gradient norms in the network of seed 0 of each of the deepest kinds, before and after training."""
    return {
        (network.member.config, state): _gradient_norms(
            _network(network, state, jobs.settings), f"{network.member.name}-{state}", jobs.split, jobs.folder
        )
        for network in networks
        if network.member.seed == 0 and network.member.config in jobs.settings.deepest
        for state in STATES
    }


def _gradient_norms(network: nn.Module, name: str, split: Split, folder: Path) -> xr.DataTree:
    """The size of the loss's gradients at each hidden layer, over the first training samples, measured once."""
    acts, metrics = folder / "acts" / f"{name}-gradients.zarr", folder / "gradients" / f"{name}.zarr"
    if _is_measured(metrics, pk.weights_digest(network), ["gradient_norm"]):
        return _opened(metrics)
    shutil.rmtree(metrics, ignore_errors=True)
    data = (split.train.x[:GRADIENT_SAMPLES], split.train.y[:GRADIENT_SAMPLES])
    pk.capture(network, data, acts, sites="act*:grad", batch_size=500, overwrite=acts.exists())
    found = pk.measure(acts, pk.metrics.GradientNorm(), out=metrics)
    shutil.rmtree(acts)
    return found


def _opened(path: Path) -> xr.DataTree:
    """A network's metrics, in memory."""
    if not path.exists():
        raise DataError(
            f"The run has no {str(path)!r}; run it again with the version of probekit that made it to measure it."
        )
    return xr.open_datatree(path, engine="zarr").load()


def _is_captured(path: Path, weights: str) -> bool:
    """Whether `path` is a complete store of the network with these weights."""
    if not path.exists():
        return False
    store = pk.info(path)
    return store.complete and store.attrs["weights"] == weights


def _is_measured(path: Path, weights: str, variables: Sequence[str]) -> bool:
    """Whether `path` has results of these weights, with these variables at every site."""
    if not path.exists():
        return False
    tree = xr.open_datatree(path, engine="zarr")
    whole = all(set(variables) <= set(map(str, site.data_vars)) for site in tree.children.values())
    return tree.attrs["weights"] == weights and whole
