"""The evidence for the claims: a function for each says what the study's numbers say about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from .study import NETWORK, Study
from .training.networks import PAPERS, Config

__all__ = [
    "ERRORS",
    "Finding",
    "NotTestable",
    "Numbers",
    "all_fit",
    "best_network",
    "curves_alike",
    "deep_relu_separates",
    "deep_relu_specialises",
    "depth_needs_norm",
    "mean",
    "norm_and_sparsity",
    "relu_needs_norm",
    "second_layer",
    "sigmoid_and_depth",
    "unfit_look_untrained",
    "untrained_sigmoid",
    "wide_sigmoid",
]

FITTED = 0.95  # training accuracy in the last epoch below which a network says nothing about the paper's trained ones
ERRORS = 2  # standard errors that an effect has to exceed
PAPERS_EPOCHS = 300

Numbers: TypeAlias = dict[str, Any]
Layers: TypeAlias = npt.NDArray[np.float64]


class NotTestable(Exception):
    """The run lacks what the claim is about."""


@dataclass(frozen=True)
class Finding:
    """Whether a claim held, the `values` of its effect over seeds, and the numbers behind it."""

    held: bool
    values: Sequence[float]
    numbers: Numbers


def curves_alike(study: Study) -> Finding:
    rows = _fitted(study)
    validation = [100 * value for value in _differences("validation_accuracy", rows, "activation", "relu", "sigmoid")]
    last = _last_epochs(study)
    train = [100 * value for value in _differences("train_accuracy", last, "activation", "relu", "sigmoid")]
    return Finding(
        held=_exceeds(validation) and abs(mean(train)[0]) < 1,
        values=validation,
        numbers={
            "validation_points": mean(validation)[0],
            "train_points_in_last_epoch": mean(train)[0],
            "pairs": len(train),
        },
    )


def wide_sigmoid(study: Study) -> Finding:
    _need(study, widths=2)
    gaps = {}
    for width in (min(study.settings.widths), max(study.settings.widths)):
        rows = _fitted(study, width=width, batch_norm=False)
        gaps[width] = [100 * gap for gap in _differences("test_accuracy", rows, "activation", "relu", "sigmoid")]
    narrow, wide = gaps.values()
    return Finding(
        held=abs(mean(wide)[0]) < max(0.5, ERRORS * (mean(wide)[1] or 0.0)),
        values=wide,
        numbers={"gap_narrow": mean(narrow)[0], "gap_wide": mean(wide)[0]},
    )


def sigmoid_and_depth(study: Study) -> Finding:
    _need(study, depths=2)
    width = min(study.settings.widths)
    found = {
        norm: _slopes(_fitted(study, activation="sigmoid", width=width, batch_norm=norm)) for norm in (False, True)
    }
    return Finding(
        held=_exceeds(found[True]) and _exceeds([-slope for slope in found[False]]),
        values=[with_norm - without for with_norm, without in zip(found[True], found[False], strict=True)],
        numbers={"slope_without": mean(found[False])[0], "slope_with": mean(found[True])[0]},
    )


def relu_needs_norm(study: Study) -> Finding:
    _need(study, dataset="cifar10")
    rows = _papers(study)
    gaps = {
        norm: [
            100 * gap
            for gap in _differences("test_accuracy", rows[rows.batch_norm == norm], "activation", "relu", "sigmoid")
        ]
        for norm in (False, True)
    }
    return Finding(
        held=_exceeds(gaps[True]) and not _exceeds(gaps[False]),
        values=gaps[True],
        numbers={"gap_without": mean(gaps[False])[0], "gap_with": mean(gaps[True])[0]},
    )


def depth_needs_norm(study: Study) -> Finding:
    _need(study, dataset="cifar10", depths=2)
    rows = _papers(study)
    found = {
        norm: [
            slope
            for _, kind in rows[rows.batch_norm == norm].groupby(["activation", "width"])
            for slope in _slopes(kind)
        ]
        for norm in (False, True)
    }
    return Finding(
        held=_exceeds(found[True]) and _exceeds([-slope for slope in found[False]]),
        values=found[True],
        numbers={"slope_without": mean(found[False])[0], "slope_with": mean(found[True])[0]},
    )


def all_fit(study: Study) -> Finding:
    last = _last_epochs(study)
    exempt = (last.activation == "sigmoid") & (last.width == 200) & (last.depth >= 6) & ~last.batch_norm
    rows = last[~exempt] if study.settings.dataset == "cifar10" else last
    worst = rows.iloc[int(rows.train_accuracy.argmin())]
    name = Config(worst.activation, worst.depth, worst.width, worst.batch_norm).name
    held = bool(worst.train_accuracy >= 0.99)
    if not held and worst.epoch < PAPERS_EPOCHS:
        raise NotTestable(
            f"{name} fits its training set to {worst.train_accuracy:.1%} after {worst.epoch} epochs, where the paper "
            f"trained for {PAPERS_EPOCHS}."
        )
    return Finding(
        held=held,
        values=list(100 * rows.groupby("seed").train_accuracy.mean()),
        numbers={"lowest": worst.train_accuracy, "of": name, "after_epochs": int(worst.epoch)},
    )


def best_network(study: Study) -> Finding:
    _need(study, widths=2)
    kinds = _papers(study).groupby(["activation", "batch_norm", "width", "seed"]).test_accuracy.mean().unstack()
    means = kinds.mean(axis=1).sort_values()
    wanted = ("relu", True, max(study.settings.widths))
    rival = means.drop(wanted).index[-1]
    lead = list(100 * (kinds.T[wanted] - kinds.T[rival]))
    best = dict(zip(("activation", "batch_norm", "width"), map(str, means.index[-1]), strict=True))
    return Finding(held=mean(lead)[0] > 0, values=lead, numbers={"best": best})


def second_layer(study: Study) -> Finding:
    trees = _probed(study, "sigmoid", False, "trained")
    saturated, spread = _by_layer(trees, "saturation"), _by_layer(trees, "std")
    if saturated.shape[1] < 3:
        raise NotTestable("It takes networks of at least 3 layers.")
    others = np.delete(saturated, 1, axis=1).min(1)
    return Finding(
        held=_exceeds(list(others - saturated[:, 1])) and _exceeds(list(spread[:, 1] - spread[:, -1])),
        values=list(others - saturated[:, 1]),
        numbers={"saturation_by_layer": _listed(saturated), "class_std_by_layer": _listed(spread)},
    )


def untrained_sigmoid(study: Study) -> Finding:
    untrained = _probed(study, "sigmoid", False, "untrained")
    trained = _probed(study, "sigmoid", False, "trained")
    spread = _by_layer([_map_median(tree, lambda m: m.std("label")) for tree in untrained], "median")
    away = [
        _by_layer([_map_median(tree, lambda m: abs(m - 0.5)) for tree in trees], "median")
        for trees in (untrained, trained)
    ]
    coincide = list(spread[:, 0] - spread[:, -1])
    saturate = list((away[1] - away[0]).mean(1))
    return Finding(
        held=_exceeds(coincide) and _exceeds(saturate) and away[0][:, 0].mean() < 0.25,
        values=saturate,
        numbers={
            "spread_over_classes_untrained_by_layer": _listed(spread),
            "distance_from_half_untrained_by_layer": _listed(away[0]),
            "distance_from_half_trained_by_layer": _listed(away[1]),
        },
    )


def _map_median(tree: xr.DataTree, change: Callable[[xr.DataArray], xr.DataArray]) -> xr.DataTree:
    return xr.DataTree.from_dict(
        {layer: xr.Dataset({"median": change(site.to_dataset()["median"])}) for layer, site in tree.children.items()}
    )


def deep_relu_separates(study: Study) -> Finding:
    overlap = {kind: _by_layer(_probed(study, kind, False, "untrained"), "overlap") for kind in ("relu", "sigmoid")}
    difference = list(overlap["sigmoid"][:, -1] - overlap["relu"][:, -1])
    return Finding(
        held=_exceeds(difference),
        values=difference,
        numbers={f"overlap_{kind}_by_layer": _listed(values) for kind, values in overlap.items()},
    )


def deep_relu_specialises(study: Study) -> Finding:
    overlap = _by_layer(_probed(study, "relu", False, "trained"), "overlap")
    if overlap.shape[1] < 2:
        raise NotTestable("It takes networks of at least 2 layers.")
    difference = list(overlap[:, 0] - overlap[:, -1])
    return Finding(held=_exceeds(difference), values=difference, numbers={"overlap_by_layer": _listed(overlap)})


def norm_and_sparsity(study: Study) -> Finding:
    config = study.of("relu", False)
    sparsity = {
        norm: _by_layer(study.trees(study.of("relu", norm), "trained"), "sparsity_site") for norm in (False, True)
    }
    rows = _of_kind(_papers(study), activation="relu", depth=config.depth, width=config.width)
    gain = [100 * value for value in _differences("test_accuracy", rows, "batch_norm", True, False)]
    drop = list(100 * (sparsity[False] - sparsity[True]).mean(1))
    return Finding(
        held=_exceeds(drop) and _exceeds(gain),
        values=drop,
        numbers={
            "inactive_without_by_layer": _listed(sparsity[False]),
            "inactive_with_by_layer": _listed(sparsity[True]),
            "test_points_gained": mean(gain)[0],
        },
    )


def unfit_look_untrained(study: Study) -> Finding:
    _need(study, dataset="cifar10")
    trees = {s: study.trees(study.of("sigmoid", False), s) for s in ("untrained", "trained")}
    overlap = {state: _by_layer(found, "overlap") for state, found in trees.items()}
    difference = list((overlap["untrained"] - overlap["trained"]).mean(1))
    return Finding(
        held=not _exceeds(difference),
        values=difference,
        numbers={f"overlap_{state}_by_layer": _listed(values) for state, values in overlap.items()},
    )


def mean(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error, which is None for a single value."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return float(np.mean(values)), error


def _exceeds(values: Sequence[float], bound: float = 0.0) -> bool:
    """Whether the mean is above `bound` by more than ERRORS standard errors."""
    middle, error = mean(values)
    return middle - ERRORS * (error or 0.0) > bound


def _papers(study: Study) -> pd.DataFrame:
    """The results of networks with the paper's activations, with their training accuracy in the last epoch."""
    rows = study.results[study.results.activation.isin(PAPERS)]
    last = _last_epochs(study)[[*NETWORK, "train_accuracy"]].rename(columns={"train_accuracy": "last_train_accuracy"})
    return rows.merge(last, on=list(NETWORK))


def _last_epochs(study: Study) -> pd.DataFrame:
    """The last row of the curve of each network with the paper's activations."""
    curves = study.curves[study.curves.activation.isin(PAPERS)]
    return curves.loc[curves.groupby(list(NETWORK))["epoch"].idxmax()]


def _of_kind(rows: pd.DataFrame, **kind: object) -> pd.DataFrame:
    """The rows whose columns have these values."""
    for column, value in kind.items():
        rows = rows[rows[column] == value]
    return rows


def _fitted(study: Study, **kind: object) -> pd.DataFrame:
    """The results of the networks of a kind; NotTestable unless all fit their training set in the last epoch."""
    rows = _of_kind(_papers(study), **kind)
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


def _probed(study: Study, activation: str, batch_norm: bool, state: str) -> list[xr.DataTree]:
    """The metrics of each seed's network of a kind; NotTestable if trained ones don't fit their training set."""
    config = study.of(activation, batch_norm)
    if state == "trained":
        _fitted(study, activation=activation, batch_norm=batch_norm, depth=config.depth, width=config.width)
    return study.trees(config, state)


def _by_layer(trees: Sequence[xr.DataTree], variable: str) -> Layers:
    """A variable's mean over each layer, (seed, layer)."""
    return np.array([[float(site[variable].mean()) for site in tree.children.values()] for tree in trees])


def _listed(values: Layers) -> list[float]:
    """Means over seeds, for each layer."""
    return [round(float(value), 4) for value in values.mean(0)]


def _differences(column: str, rows: pd.DataFrame, between: str, first: object, second: object) -> list[float]:
    """The differences first - second of `column` between networks that differ in `between` alone."""
    table = rows.pivot_table(column, [key for key in NETWORK if key != between], between)
    if not {first, second} <= set(table.columns):
        raise NotTestable(f"The run has no networks that differ in {between} alone ({first} and {second}).")
    return list((table[first] - table[second]).dropna())


def _need(study: Study, *, dataset: str | None = None, widths: int = 1, depths: int = 1) -> None:
    """NotTestable unless the study is on this data set and has at least so many widths and depths."""
    settings = study.settings
    if dataset is not None and settings.dataset != dataset:
        raise NotTestable(f"The claim is about {dataset}; this run is on {settings.dataset}.")
    for name, least in (("widths", widths), ("depths", depths)):
        found = len(getattr(settings, name))
        if found < least:
            raise NotTestable(f"It takes networks of {least} {name}; this run has {found}.")


def _slopes(rows: pd.DataFrame) -> list[float]:
    """Test accuracy gained with each further layer, in points, by a line through the depths of each seed."""
    return [
        float(np.polyfit(seed["depth"].astype(float), 100 * seed["test_accuracy"], 1)[0])
        for _, seed in rows.groupby("seed")
    ]
