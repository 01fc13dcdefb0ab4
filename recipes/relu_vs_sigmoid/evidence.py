"""What the claims are decided by: means and errors over seeds, and numbers picked out of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from .networks import PAPERS, Config
from .study import NETWORK, Study

__all__ = [
    "ERRORS",
    "NotTestable",
    "by_layer",
    "differences",
    "exceeds",
    "fitted",
    "last_epochs",
    "listed",
    "mean",
    "need",
    "of_kind",
    "papers",
    "probed",
    "slopes",
]

FITTED = 0.95  # training accuracy in the last epoch below which a network says nothing about the paper's trained ones
ERRORS = 2  # standard errors that an effect has to exceed

Layers: TypeAlias = npt.NDArray[np.float64]


class NotTestable(Exception):
    """What a claim speaks of isn't in this run."""


def mean(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error, None for a single value."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return float(np.mean(values)), error


def exceeds(values: Sequence[float], bound: float = 0.0) -> bool:
    """Whether the mean is above `bound` by more than ERRORS standard errors."""
    middle, error = mean(values)
    return middle - ERRORS * (error or 0.0) > bound


def papers(study: Study) -> pd.DataFrame:
    """The results of the networks with the paper's activations, and their training accuracy in the last epoch."""
    rows = study.results[study.results.activation.isin(PAPERS)]
    last = last_epochs(study)[[*NETWORK, "train_accuracy"]].rename(columns={"train_accuracy": "last_train_accuracy"})
    return rows.merge(last, on=list(NETWORK))


def last_epochs(study: Study) -> pd.DataFrame:
    """The last row of each network's curve, of those with the paper's activations."""
    curves = study.curves[study.curves.activation.isin(PAPERS)]
    return curves.loc[curves.groupby(list(NETWORK))["epoch"].idxmax()]


def of_kind(rows: pd.DataFrame, **kind: object) -> pd.DataFrame:
    """The rows whose columns have these values."""
    for column, value in kind.items():
        rows = rows[rows[column] == value]
    return rows


def fitted(study: Study, **kind: object) -> pd.DataFrame:
    """The results of the networks of a kind, all of which must have learned their training set in the end."""
    rows = of_kind(papers(study), **kind)
    if rows.empty:
        raise NotTestable(f"No network with {kind} was trained.")
    worst = rows.iloc[int(rows.last_train_accuracy.argmin())]
    if worst.last_train_accuracy < FITTED:
        name = Config(worst.activation, worst.depth, worst.width, worst.batch_norm).name
        raise NotTestable(
            f"{name} (seed {worst.seed}) fits its training set to {worst.last_train_accuracy:.1%} only, after "
            f"{worst.epochs} epochs."
        )
    return rows


def probed(study: Study, activation: str, batch_norm: bool, state: str) -> list[xr.DataTree]:
    """What was measured of each seed's network of a kind; trained ones must have learned their training set."""
    config = study.of(activation, batch_norm)
    if state == "trained":
        fitted(study, activation=activation, batch_norm=batch_norm, depth=config.depth, width=config.width)
    return study.trees(config, state)


def by_layer(trees: Sequence[xr.DataTree], variable: str) -> Layers:
    """Means over a layer of a variable, (seed, layer)."""
    return np.array([[float(site[variable].mean()) for site in tree.children.values()] for tree in trees])


def listed(values: Layers) -> list[float]:
    """Means over seeds, by layer."""
    return [round(float(value), 4) for value in values.mean(0)]


def differences(column: str, rows: pd.DataFrame, between: str, first: object, second: object) -> list[float]:
    """first - second of `column`, of networks that differ in `between` alone."""
    table = rows.pivot_table(column, [key for key in NETWORK if key != between], between)
    if not {first, second} <= set(table.columns):
        raise NotTestable(f"The run has no networks that differ in {between} alone ({first} and {second}).")
    return list((table[first] - table[second]).dropna())


def need(study: Study, *, dataset: str | None = None, widths: int = 1, depths: int = 1) -> None:
    """Raise NotTestable unless the study is on this data set and has so many widths and depths."""
    settings = study.settings
    if dataset is not None and settings.dataset != dataset:
        raise NotTestable(f"The claim is about {dataset}; this run is on {settings.dataset}.")
    for name, least in (("widths", widths), ("depths", depths)):
        found = len(getattr(settings, name))
        if found < least:
            raise NotTestable(f"It takes networks of {least} {name}; this run has {found}.")


def slopes(rows: pd.DataFrame) -> list[float]:
    """Test accuracy gained with each further layer, in points, by a line through the depths of each seed."""
    return [
        float(np.polyfit(seed["depth"].astype(float), 100 * seed["test_accuracy"], 1)[0])
        for _, seed in rows.groupby("seed")
    ]
