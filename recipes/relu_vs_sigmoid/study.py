"""The work of the study: train every network, capture and measure those that are looked at, collect the numbers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from torch import nn

import probekit as pk
from probekit.progress import Progress

from . import checkpoint
from .data import Split
from .networks import Config
from .settings import Settings
from .training import Trained, by_shape, check, train

__all__ = ["STATES", "Study", "saturation", "study"]

STATES = ("untrained", "trained")
SATURATED = 0.05  # a sigmoid this near to 0 or 1 counts as saturated


@pk.metric
def saturation(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Share of samples within 0.05 of a sigmoid's bounds, 0 and 1."""
    saturated = (values < SATURATED) | (values > 1 - SATURATED)
    shares: npt.NDArray[np.float64] = saturated.mean(axis=0)
    return shares


# What is measured of every seed's network, for the claims; and of the networks that the figures show.
OF_EACH = ("median", "std", "sparsity", saturation, "overlap")
OF_SHOWN = (*OF_EACH[:-1], "mean", pk.metrics.Histogram(edges="width"), pk.metrics.Overlap(null="permute"))
SHOWN_ONLY = {"mean", "histogram", "overlap_null"}  # variables by which to tell the two apart


@dataclass(frozen=True)
class Study:
    """Everything that figures, table and claims are made of.

    `results` has one row a network and `curves` one a network and epoch; `measured` holds what was measured of each
    probed network, by its name and its state; `shown` names the network of each kind that the figures show, the one
    with the best validation accuracy.
    """

    settings: Settings
    split: Split
    results: pd.DataFrame
    curves: pd.DataFrame
    measured: dict[tuple[str, str], xr.DataTree]
    shown: dict[Config, str]

    def of(self, activation: str, batch_norm: bool) -> Config:
        """The probed networks of one kind."""
        return next(c for c in self.settings.probed if (c.activation, c.batch_norm) == (activation, batch_norm))

    def tree(self, config: Config, state: str) -> xr.DataTree:
        """What was measured of the network that is shown."""
        return self.measured[self.shown[config], state]

    def trees(self, config: Config, state: str) -> list[xr.DataTree]:
        """What was measured of each seed's network."""
        return [self.measured[f"{config.name}-s{seed}", state] for seed in range(self.settings.seeds)]


def study(settings: Settings, split: Split, folder: Path, progress: Progress) -> Study:
    """Do what isn't done yet of a run in `folder`."""
    trained = list(_trained(settings, split, folder, progress))
    results, curves = _results(settings, trained), _curves(trained)
    results.to_csv(folder / "results.csv", index=False)
    curves.to_csv(folder / "curves.csv", index=False)
    shown = {config: _best(trained, config).member.name for config in settings.probed}
    probed = [network for network in trained if network.member.config in shown]
    measured = {}
    for network in progress(probed, "capture and measure", len(probed)):
        for state in STATES:
            name = network.member.name
            keep = name in shown.values()
            measured[name, state] = _measured(getattr(network, state), f"{name}-{state}", split, folder, keep)
    return Study(settings, split, results, curves, measured, shown)


def _trained(settings: Settings, split: Split, folder: Path, progress: Progress) -> Iterator[Trained]:
    key = asdict(settings)
    key = {name: key[name] for name in ("source", "epochs", "batch_size", "decay", "split_seed")}
    shapes = by_shape(settings.members)
    for members in shapes.values():
        check(members, split, settings.batch_size)
    for shape, members in shapes.items():
        path = folder / "networks" / f"{shape}.pt"
        found = checkpoint.load(path, members, split, key)
        if found is None:
            found = train(
                members,
                split,
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                decay=settings.decay,
                progress=progress,
            )
            checkpoint.save(path, found, key)
        yield from found


def _best(trained: Sequence[Trained], config: Config) -> Trained:
    return max((t for t in trained if t.member.config == config), key=lambda network: network.validation_accuracy)


def _measured(network: nn.Module, name: str, split: Split, folder: Path, keep: bool) -> xr.DataTree:
    """The network's metrics on the training samples; the activations are kept on disk where `keep` says so."""
    acts, metrics = folder / "acts" / f"{name}.zarr", folder / "metrics" / f"{name}.zarr"
    weights = pk.weights_digest(network)
    captured, measured = _captured(acts, weights), _is_measured(metrics, weights, keep)
    if not captured and (keep or not measured):
        data = (split.train.x, split.train.y)
        pk.capture(
            network, data, acts, sites="act*", batch_size=512, class_names=split.class_names, overwrite=acts.exists()
        )
    if not measured:
        shutil.rmtree(metrics, ignore_errors=True)
        pk.measure(acts, OF_SHOWN if keep else OF_EACH, out=metrics)
    if not keep:
        shutil.rmtree(acts, ignore_errors=True)
    return xr.open_datatree(metrics, engine="zarr").load()


def _captured(path: Path, weights: str) -> bool:
    """Whether a complete store of these weights stands at `path`."""
    if not path.exists():
        return False
    store = pk.info(path)
    return store.complete and store.attrs["weights"] == weights


def _is_measured(path: Path, weights: str, shown: bool) -> bool:
    """Whether a result of these weights stands at `path`, with what the figures need if they show the network."""
    if not path.exists():
        return False
    tree = xr.open_datatree(path, engine="zarr")
    whole = all(set(site.data_vars) >= SHOWN_ONLY for site in tree.children.values())
    return tree.attrs["weights"] == weights and (whole or not shown)


def _results(settings: Settings, trained: Sequence[Trained]) -> pd.DataFrame:
    rows = [
        {
            "dataset": settings.dataset,
            **asdict(network.member.config),
            "seed": network.member.seed,
            "learning_rate": network.member.learning_rate,
            "epochs": settings.epochs,
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
