"""The evidence for the claims: a function for each says what a run's numbers say about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from .intervals import Estimate, Part
from .records import NETWORK, Records
from .training.networks import PAPERS, Config

__all__ = [
    "ACCURACY",
    "ALIKE",
    "CURVES",
    "INACTIVE",
    "OVERLAP",
    "SHARE",
    "SLOPE",
    "Finding",
    "NoLayers",
    "NotTestable",
    "Numbers",
    "all_fit",
    "best_network",
    "curves_alike",
    "deep_relu_separates",
    "deep_relu_specialises",
    "depth_needs_norm",
    "norm_and_sparsity",
    "relu_needs_norm",
    "second_layer",
    "sigmoid_and_depth",
    "unfit_look_untrained",
    "untrained_sigmoid",
    "wide_sigmoid",
]

FITTED = 0.95  # training accuracy below which a network says nothing about the paper's trained ones
PAPERS_EPOCHS = 300
# Margins: effects up to these count as none.
ACCURACY = 0.1  # points
SLOPE = 0.02  # points a layer
OVERLAP = 0.01
SHARE = 0.01
INACTIVE = 1.0  # points
# Differences up to these count as equal.
ALIKE = 0.5  # points of test accuracy
CURVES = 1.0  # points of training accuracy

Numbers: TypeAlias = dict[str, Any]
Layers: TypeAlias = npt.NDArray[np.float64]  # (seed, layer)


class NotTestable(Exception):
    """The run lacks what the claim is about."""


class NoLayers(NotTestable):
    """The run is older than the table of its layers; `parts` has those of the claim that don't need it."""

    def __init__(self, parts: Mapping[str, Part] | None = None) -> None:
        super().__init__("The run is older than layers.csv, which has its layers' numbers of each seed.")
        self.parts = parts or {}


@dataclass(frozen=True)
class Finding:
    """The parts of a claim by name, the first its main effect, and further numbers. A claim holds if each part does."""

    parts: dict[str, Part]
    numbers: Numbers


def curves_alike(run: Records) -> Finding:
    rows = _fitted(run, "last_train_accuracy")
    lead = _differences("best_validation_accuracy", rows, "activation", "relu", "sigmoid")
    train = _differences("last_train_accuracy", rows, "activation", "relu", "sigmoid")
    return Finding(
        {
            "ReLU's lead in validation": _above(100 * lead, ACCURACY),
            "ReLU's lead in training": Part(Estimate.of(list(100 * train)), "within", CURVES),
        },
        {"networks": len(rows)},
    )


def wide_sigmoid(run: Records) -> Finding:
    _need(run, widths=2)
    gaps = {}
    for width in (min(run.settings.widths), max(run.settings.widths)):
        rows = _fitted(run, "last_train_accuracy", width=width, batch_norm=False)
        gaps[width] = 100 * _differences("test_accuracy", rows, "activation", "relu", "sigmoid")
    narrow, wide = gaps.values()
    return Finding(
        {"gap when wide": Part(Estimate.of(list(wide)), "within", ALIKE)}, {"gap_narrow": float(narrow.mean())}
    )


def sigmoid_and_depth(run: Records) -> Finding:
    _need(run, depths=2)
    kind = {"activation": "sigmoid", "width": min(run.settings.widths)}
    rows = {norm: _fitted(run, "last_train_accuracy", **kind, batch_norm=norm) for norm in (True, False)}
    return Finding(_slopes_by_norm(rows), {})


def relu_needs_norm(run: Records) -> Finding:
    _need(run, dataset="cifar10")
    by_norm = {norm: _of_kind(_papers(run), batch_norm=norm) for norm in (True, False)}
    gaps = {
        norm: 100 * _differences("test_accuracy", rows, "activation", "relu", "sigmoid")
        for norm, rows in by_norm.items()
    }
    return Finding(
        {
            "gap with batch norm": _above(gaps[True], ACCURACY),
            "gap without": Part(Estimate.of(list(gaps[False])), "not above", margin=ACCURACY),
        },
        {},
    )


def depth_needs_norm(run: Records) -> Finding:
    _need(run, dataset="cifar10", depths=2)
    parts: dict[str, Part] = {}
    for activation in PAPERS:
        rows = {norm: _of_kind(_papers(run), activation=activation, batch_norm=norm) for norm in (True, False)}
        if lacking := [norm for norm, those in rows.items() if those.empty]:
            raise NotTestable(f"No {activation} network {'with' if lacking[0] else 'without'} batch norm was trained.")
        parts |= {f"{activation}: {name}": part for name, part in _slopes_by_norm(rows).items()}
    return Finding(parts, {})


def all_fit(run: Records) -> Finding:
    rows = _papers(run)
    exempt = (rows.activation == "sigmoid") & (rows.width == 200) & (rows.depth >= 6) & ~rows.batch_norm
    rows = rows[~exempt] if run.settings.dataset == "cifar10" else rows
    worst = rows.iloc[int(rows.last_train_accuracy.argmin())]
    part = _above(100 * rows.groupby("seed").last_train_accuracy.min(), 0.0, bound=99)
    if part.status != "held" and worst.epochs < PAPERS_EPOCHS and worst.last_train_accuracy < 0.99:
        raise NotTestable(
            f"{_name(worst)} fits its training set to {worst.last_train_accuracy:.1%} after {worst.epochs} epochs, "
            f"where the paper trained for {PAPERS_EPOCHS}."
        )
    return Finding(
        {"lowest training accuracy": part},
        {"lowest": worst.last_train_accuracy, "of": _name(worst), "after_epochs": int(worst.epochs)},
    )


def best_network(run: Records) -> Finding:
    _need(run, widths=2)
    kinds = _papers(run).groupby(["activation", "batch_norm", "width", "seed"]).test_accuracy.mean().unstack()
    wanted = ("relu", True, max(run.settings.widths))
    if wanted not in kinds.index:
        raise NotTestable(f"No ReLU network of width {wanted[2]} with batch norm was trained.")
    rival = kinds.drop(wanted).mean(axis=1).sort_values().index[-1]
    lead = 100 * (kinds.T[wanted] - kinds.T[rival])
    named = dict(zip(("activation", "batch_norm", "width"), map(str, rival), strict=True))
    return Finding({"lead over the next": _above(lead, 0.0)}, {"next": named})


def second_layer(run: Records) -> Finding:
    saturated, spread = (_by_layer(run, "sigmoid", False, "trained", name) for name in ("saturation", "std"))
    if saturated.shape[1] < 3:
        raise NotTestable("It takes networks of at least 3 layers.")
    others = np.delete(saturated, 1, axis=1).min(1)
    return Finding(
        {
            "saturation less than in the next layer": _above(others - saturated[:, 1], SHARE),
            "last layer narrower than the second": _above(spread[:, 1] - spread[:, -1], SHARE),
        },
        {"saturation_by_layer": _listed(saturated), "class_std_by_layer": _listed(spread)},
    )


def untrained_sigmoid(run: Records) -> Finding:
    away = [_by_layer(run, "sigmoid", False, state, "from_half") for state in ("untrained", "trained")]
    spread = _by_layer(run, "sigmoid", False, "untrained", "spread")
    return Finding(
        {
            "medians further from 0.5 when trained": _above((away[1] - away[0]).mean(1), SHARE),
            "medians coincide with depth": _above(spread[:, 0] - spread[:, -1], SHARE),
            "first layer's distance from 0.5": Part(Estimate.of(list(away[0][:, 0])), "within", 0.25),
        },
        {
            "spread_over_classes_untrained_by_layer": _listed(spread),
            "distance_from_half_untrained_by_layer": _listed(away[0]),
            "distance_from_half_trained_by_layer": _listed(away[1]),
        },
    )


def deep_relu_separates(run: Records) -> Finding:
    overlap = {kind: _by_layer(run, kind, False, "untrained", "overlap") for kind in PAPERS}
    return Finding(
        {"overlap less than the sigmoid's": _above(overlap["sigmoid"][:, -1] - overlap["relu"][:, -1], OVERLAP)},
        {f"overlap_{kind}_by_layer": _listed(values) for kind, values in overlap.items()},
    )


def deep_relu_specialises(run: Records) -> Finding:
    overlap = _by_layer(run, "relu", False, "trained", "overlap")
    if overlap.shape[1] < 2:
        raise NotTestable("It takes networks of at least 2 layers.")
    return Finding(
        {"overlap less than in the first layer": _above(overlap[:, 0] - overlap[:, -1], OVERLAP)},
        {"overlap_by_layer": _listed(overlap)},
    )


def norm_and_sparsity(run: Records) -> Finding:
    config = run.of("relu", False)
    rows = _of_kind(_papers(run), activation="relu", depth=config.depth, width=config.width)
    gain = _above(100 * _differences("test_accuracy", rows, "batch_norm", True, False), ACCURACY)
    if run.layers is None:
        raise NoLayers({"test accuracy gained": gain})
    inactive = {norm: _by_layer(run, "relu", norm, "trained", "inactive", fitted=False) for norm in (False, True)}
    return Finding(
        {
            "fewer inactive with batch norm": _above(100 * (inactive[False] - inactive[True]).mean(1), INACTIVE),
            "test accuracy gained": gain,
        },
        {
            "inactive_without_by_layer": _listed(inactive[False]),
            "inactive_with_by_layer": _listed(inactive[True]),
        },
    )


def unfit_look_untrained(run: Records) -> Finding:
    _need(run, dataset="cifar10")
    config = run.of("sigmoid", False)
    rows = _of_kind(_papers(run), activation="sigmoid", batch_norm=False, depth=config.depth, width=config.width)
    if rows.train_accuracy.min() >= FITTED:
        raise NotTestable(f"The claim is about networks that fit badly; these fit to {rows.train_accuracy.min():.1%}.")
    states = ("untrained", "trained")
    overlap = {state: _by_layer(run, "sigmoid", False, state, "overlap", fitted=False) for state in states}
    fall = (overlap["untrained"] - overlap["trained"]).mean(1)
    return Finding(
        {"overlap lost by training": Part(Estimate.of(list(fall)), "not above", margin=OVERLAP)},
        {f"overlap_{state}_by_layer": _listed(values) for state, values in overlap.items()},
    )


def _above(values: Sequence[float] | Layers | pd.Series, margin: float, bound: float = 0.0) -> Part:
    return Part(Estimate.of(list(values)), bound=bound, margin=margin)


def _slopes_by_norm(rows: dict[bool, pd.DataFrame]) -> dict[str, Part]:
    return {
        "points gained a layer with batch norm": _above(_slopes(rows[True]), SLOPE),
        "points lost a layer without": _above(-_slopes(rows[False]), SLOPE),
    }


def _papers(run: Records) -> pd.DataFrame:
    """The results of networks with the paper's activations, with what their curves say.

    `last_train_accuracy` is that of the last epoch, `best_validation_accuracy` that of the best.
    """
    curves = run.curves[run.curves.activation.isin(PAPERS)].sort_values("epoch")
    known = curves.groupby(list(NETWORK), as_index=False).agg(
        last_train_accuracy=("train_accuracy", "last"), best_validation_accuracy=("validation_accuracy", "max")
    )
    return run.results[run.results.activation.isin(PAPERS)].merge(known, on=list(NETWORK))


def _of_kind(rows: pd.DataFrame, **kind: object) -> pd.DataFrame:
    """The rows whose columns have these values."""
    for column, value in kind.items():
        rows = rows[rows[column] == value]
    return rows


def _fitted(run: Records, column: str, **kind: object) -> pd.DataFrame:
    """The results of the networks of a kind; NotTestable unless the training accuracy `column` of each is high."""
    rows = _of_kind(_papers(run), **kind)
    if rows.empty:
        raise NotTestable(f"No network with {kind} was trained.")
    worst = rows.iloc[int(rows[column].argmin())]
    if worst[column] < FITTED:
        when = f"after {worst.epochs} epochs" if column == "last_train_accuracy" else "with the measured weights"
        raise NotTestable(
            f"{_name(worst)} (seed {worst.seed}) fits its training set to {worst[column]:.1%} only, {when}."
        )
    return rows


def _name(row: pd.Series) -> str:
    return Config(row.activation, row.depth, row.width, row.batch_norm).name


def _by_layer(run: Records, activation: str, batch_norm: bool, state: str, name: str, fitted: bool = True) -> Layers:
    """A column of the layers' table for a probed kind of networks, (seed, layer).

    NotTestable if trained ones don't fit their training set, unless they needn't.
    """
    config = run.of(activation, batch_norm)
    kind = {"activation": activation, "batch_norm": batch_norm, "depth": config.depth, "width": config.width}
    if state == "trained" and fitted:
        _fitted(run, "train_accuracy", **kind)
    if run.layers is None:
        raise NoLayers
    return _of_kind(run.layers, **kind, state=state).pivot(index="seed", columns="layer", values=name).to_numpy()


def _listed(values: Layers) -> list[float]:
    """Means over seeds, for each layer."""
    return [round(float(value), 4) for value in values.mean(0)]


def _differences(column: str, rows: pd.DataFrame, between: str, first: object, second: object) -> Layers:
    """The difference first - second of `column` in each seed: the mean over networks that differ in `between` alone."""
    table = rows.pivot_table(column, [key for key in NETWORK if key != between], between)
    if not {first, second} <= set(table.columns):
        raise NotTestable(f"The run has no networks that differ in {between} alone ({first} and {second}).")
    return (table[first] - table[second]).dropna().groupby("seed").mean().to_numpy()


def _slopes(rows: pd.DataFrame) -> Layers:
    """Test accuracy gained with each further layer, in points: a line's slope in each seed, the mean over widths."""
    kinds = [
        (seed, np.polyfit(kind.depth.astype(float), 100 * kind.test_accuracy, 1)[0])
        for (seed, _), kind in rows.groupby(["seed", "width"])
    ]
    slopes = pd.DataFrame(kinds, columns=["seed", "slope"]).groupby("seed").slope.mean()
    return np.asarray(slopes, np.float64)


def _need(run: Records, *, dataset: str | None = None, widths: int = 1, depths: int = 1) -> None:
    """NotTestable unless the run is on this data set and has at least so many widths and depths."""
    settings = run.settings
    if dataset is not None and settings.dataset != dataset:
        raise NotTestable(f"The claim is about {dataset}; this run is on {settings.dataset}.")
    for name, least in (("widths", widths), ("depths", depths)):
        found = len(getattr(settings, name))
        if found < least:
            raise NotTestable(f"It takes networks of {least} {name}; this run has {found}.")
