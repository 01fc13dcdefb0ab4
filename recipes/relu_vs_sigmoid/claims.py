"""The paper's claims, each with the criterion by which a run decides it, its effect and its uncertainty."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from .networks import Config
from .study import Study

__all__ = ["Claim", "claims", "write"]

FITTED = 0.95  # training accuracy below which a network says nothing about the paper's trained ones
ERRORS = 2  # standard errors that an effect has to exceed

Numbers: TypeAlias = dict[str, Any]


class NotTestable(Exception):
    """What a claim speaks of isn't in this run."""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and what this run says about it: `status` is held, not_held or not_testable.

    `effect` and its `standard_error` over seeds are in the units that `criterion` names; both are None where the
    claim is not testable, and then `numbers` says why.
    """

    id: int
    text: str
    status: str
    criterion: str
    effect: float | None = None
    standard_error: float | None = None
    numbers: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What a test found: whether the claim held, over seeds the `values` of its effect, and the numbers behind it."""

    held: bool
    values: Sequence[float]
    numbers: Numbers


@dataclass(frozen=True)
class Test:
    """A claim as something that can be tested."""

    text: str
    criterion: str
    decide: Callable[[Study], Finding]


def claims(study: Study) -> list[Claim]:
    """Every claim, decided as far as the run allows."""
    return [_decide(number, test, study) for number, test in enumerate(TESTS, 1)]


def write(found: Sequence[Claim], path: Path) -> None:
    path.write_text(json.dumps([asdict(claim) for claim in found], indent=2) + "\n")


def _decide(number: int, test: Test, study: Study) -> Claim:
    try:
        finding = test.decide(study)
    except NotTestable as reason:
        return Claim(number, test.text, "not_testable", test.criterion, numbers={"reason": str(reason)})
    effect, error = _mean(finding.values)
    status = "held" if finding.held else "not_held"
    return Claim(number, test.text, status, test.criterion, effect, error, finding.numbers)


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error, None for a single value."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return float(np.mean(values)), error


def _exceeds(values: Sequence[float], bound: float = 0.0) -> bool:
    """Whether the mean is above `bound` by more than ERRORS standard errors."""
    mean, error = _mean(values)
    return mean - ERRORS * (error or 0.0) > bound


# What the tests read


def _fitted(study: Study, **kind: object) -> pd.DataFrame:
    """The results of the networks of a kind, all of which must have learned their training set."""
    rows = study.results
    for column, value in kind.items():
        rows = rows[rows[column] == value]
    if rows.empty:
        raise NotTestable(f"No network with {kind} was trained.")
    worst = rows.iloc[int(rows.train_accuracy.argmin())]
    if worst.train_accuracy < FITTED:
        name = Config(worst.activation, worst.depth, worst.width, worst.batch_norm).name
        raise NotTestable(f"{name} (seed {worst.seed}) fits its training set to {worst.train_accuracy:.1%} only.")
    return rows


def _probed(study: Study, activation: str, batch_norm: bool, state: str) -> list[xr.DataTree]:
    config = study.of(activation, batch_norm)
    if state == "trained":
        _fitted(study, activation=activation, batch_norm=batch_norm, depth=config.depth, width=config.width)
    return study.trees(config, state)


def _by_layer(trees: Sequence[xr.DataTree], variable: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Means over a layer of a variable, (seed, layer)."""
    return np.array([[float(site[variable].mean()) for site in tree.children.values()] for tree in trees])


def _listed(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    """Means over seeds, by layer."""
    return [round(float(value), 4) for value in values.mean(0)]


def _pairs(study: Study, column: str, rows: pd.DataFrame, between: str, first: object, second: object) -> pd.DataFrame:
    """`column` of networks that differ in `between` alone, and the difference first - second."""
    keys = [key for key in ("activation", "depth", "width", "batch_norm", "seed") if key != between]
    table = rows.pivot_table(column, keys, between)
    if not {first, second} <= set(table.columns):
        raise NotTestable(f"The run has no networks that differ in {between} alone ({first} and {second}).")
    return table.assign(difference=table[first] - table[second])


def _need(study: Study, *, dataset: str | None = None, widths: int = 1, depths: int = 1) -> None:
    settings = study.settings
    if dataset is not None and settings.dataset != dataset:
        raise NotTestable(f"The claim is about {dataset}; this run is on {settings.dataset}.")
    for name, least in (("widths", widths), ("depths", depths)):
        found = len(getattr(settings, name))
        if found < least:
            raise NotTestable(f"It takes networks of {least} {name}; this run has {found}.")


def _depth_slopes(study: Study, rows: pd.DataFrame) -> list[float]:
    """Test accuracy gained with each further layer, in points, by a line through the depths of each seed."""
    return [
        float(np.polyfit(seed["depth"].astype(float), 100 * seed["test_accuracy"], 1)[0])
        for _, seed in rows.groupby("seed")
    ]


# The tests


def curves_alike(study: Study) -> Finding:
    rows = _fitted(study)
    validation = 100 * _pairs(study, "validation_accuracy", rows, "activation", "relu", "sigmoid").difference
    last = study.curves[study.curves.epoch == study.curves.epoch.max()]
    train = 100 * _pairs(study, "train_accuracy", last, "activation", "relu", "sigmoid").difference
    return Finding(
        held=_exceeds(list(validation)) and abs(train.mean()) < 1,
        values=list(validation),
        numbers={
            "validation_points": validation.mean(),
            "train_points_in_last_epoch": train.mean(),
            "pairs": len(train),
        },
    )


def wide_sigmoid(study: Study) -> Finding:
    _need(study, widths=2)
    gaps = {}
    for width in (min(study.settings.widths), max(study.settings.widths)):
        rows = _fitted(study, width=width, batch_norm=False)
        gaps[width] = list(100 * _pairs(study, "test_accuracy", rows, "activation", "relu", "sigmoid").difference)
    narrow, wide = gaps.values()
    return Finding(
        held=abs(_mean(wide)[0]) < max(0.5, ERRORS * (_mean(wide)[1] or 0.0)),
        values=wide,
        numbers={"gap_narrow": _mean(narrow)[0], "gap_wide": _mean(wide)[0]},
    )


def sigmoid_and_depth(study: Study) -> Finding:
    _need(study, depths=2)
    width = min(study.settings.widths)
    slopes = {
        norm: _depth_slopes(study, _fitted(study, activation="sigmoid", width=width, batch_norm=norm))
        for norm in (False, True)
    }
    return Finding(
        held=_exceeds(slopes[True]) and _exceeds([-slope for slope in slopes[False]]),
        values=[with_norm - without for with_norm, without in zip(slopes[True], slopes[False], strict=True)],
        numbers={"slope_without": _mean(slopes[False])[0], "slope_with": _mean(slopes[True])[0]},
    )


def relu_needs_norm(study: Study) -> Finding:
    _need(study, dataset="cifar10")
    gaps = {
        norm: list(
            100
            * _pairs(
                study, "test_accuracy", study.results[study.results.batch_norm == norm], "activation", "relu", "sigmoid"
            ).difference
        )
        for norm in (False, True)
    }
    return Finding(
        held=_exceeds(gaps[True]) and not _exceeds(gaps[False]),
        values=gaps[True],
        numbers={"gap_without": _mean(gaps[False])[0], "gap_with": _mean(gaps[True])[0]},
    )


def depth_needs_norm(study: Study) -> Finding:
    _need(study, dataset="cifar10", depths=2)
    slopes = {
        norm: [
            slope
            for _, rows in study.results[study.results.batch_norm == norm].groupby(["activation", "width"])
            for slope in _depth_slopes(study, rows)
        ]
        for norm in (False, True)
    }
    return Finding(
        held=_exceeds(slopes[True]) and _exceeds([-slope for slope in slopes[False]]),
        values=slopes[True],
        numbers={"slope_without": _mean(slopes[False])[0], "slope_with": _mean(slopes[True])[0]},
    )


def all_fit(study: Study) -> Finding:
    last = study.curves[study.curves.epoch == study.curves.epoch.max()]
    exempt = (last.activation == "sigmoid") & (last.width == 200) & (last.depth >= 6) & ~last.batch_norm
    rows = last[~exempt] if study.settings.dataset == "cifar10" else last
    worst = rows.iloc[int(rows.train_accuracy.argmin())]
    return Finding(
        held=bool(worst.train_accuracy >= 0.99),
        values=list(100 * rows.train_accuracy),
        numbers={
            "lowest": worst.train_accuracy,
            "of": Config(worst.activation, worst.depth, worst.width, worst.batch_norm).name,
        },
    )


def best_network(study: Study) -> Finding:
    _need(study, widths=2)
    means = study.results.groupby(["activation", "batch_norm", "width"]).test_accuracy.mean().sort_values()
    best = dict(zip(("activation", "batch_norm", "width"), means.index[-1], strict=True))
    wanted = ("relu", True, max(study.settings.widths))
    lead = 100 * (means[wanted] - means.drop(wanted).max())
    return Finding(held=lead > 0, values=[lead], numbers={"best": {key: str(value) for key, value in best.items()}})


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
    sparsity = {norm: _by_layer(_probed(study, "relu", norm, "trained"), "sparsity_site") for norm in (False, True)}
    config = study.of("relu", False)
    rows = _fitted(study, activation="relu", depth=config.depth, width=config.width)
    gain = list(100 * _pairs(study, "test_accuracy", rows, "batch_norm", True, False).difference)
    drop = list(100 * (sparsity[False] - sparsity[True]).mean(1))
    return Finding(
        held=_exceeds(drop) and _exceeds(gain),
        values=drop,
        numbers={
            "inactive_without_by_layer": _listed(sparsity[False]),
            "inactive_with_by_layer": _listed(sparsity[True]),
            "test_points_gained": _mean(gain)[0],
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


BEYOND = f"by more than {ERRORS} standard errors"

TESTS = (
    Test(
        "Training curves of ReLU and sigmoid networks are similar; ReLU validates better.",
        "Over pairs of networks that differ in the activation alone: the best validation accuracy of ReLU is higher "
        f"{BEYOND} (effect, points), and the mean training accuracies of the last epoch differ by less than a point.",
        curves_alike,
    ),
    Test(
        "When wide enough, sigmoid networks without batch norm perform like ReLU networks.",
        "At the largest width the mean gap in test accuracy (effect, points) is below half a point or "
        f"{ERRORS} standard errors.",
        wide_sigmoid,
    ),
    Test(
        "Sigmoid networks 200 wide improve with depth with batch norm and degrade without.",
        f"The slope of test accuracy over depth is above 0 with batch norm and below 0 without, each {BEYOND} "
        "(effect: the difference of the slopes, points a layer).",
        sigmoid_and_depth,
    ),
    Test(
        "On CIFAR10 ReLU reliably beats sigmoid only with batch norm.",
        f"The gap in test accuracy (effect, points) is above 0 {BEYOND} with batch norm and not without.",
        relu_needs_norm,
    ),
    Test(
        "On CIFAR10 both degrade with depth without batch norm and gain with it.",
        f"The slope of test accuracy over depth is above 0 with batch norm (effect, points a layer) and below 0 "
        f"without, each {BEYOND}.",
        depth_needs_norm,
    ),
    Test(
        "All networks fit the training set to about 100 %, except sigmoid 200 wide with 6 and 8 layers on CIFAR10.",
        "The lowest training accuracy in the last epoch, of the networks not excepted, is at least 99 % "
        "(effect: their mean, percent).",
        all_fit,
    ),
    Test(
        "The best of all are wide ReLU networks with batch norm.",
        "They have the highest mean test accuracy of all kinds (effect: their lead over the next, points).",
        best_network,
    ),
    Test(
        "The second layer of trained sigmoid networks is less saturated; their last layer is near point distributions.",
        "The share of samples within 0.05 of 0 or 1 is lower in layer 2 than in every other layer (effect, share), and "
        f"the mean standard deviation within a class is lower in the last layer than in layer 2, each {BEYOND}.",
        second_layer,
    ),
    Test(
        "Untrained sigmoid networks have medians near 0.5 in the first layer that coincide with depth; training "
        "saturates them.",
        "Untrained: the medians of layer 1 are on average within 0.25 of 0.5, and their standard deviation over "
        "classes is lower in the last layer than in the first. Trained: the medians are further from 0.5 than "
        f"untrained (effect, mean over layers). The latter two {BEYOND}.",
        untrained_sigmoid,
    ),
    Test(
        "Deep layers of untrained ReLU networks overlap less than those of sigmoid networks.",
        f"The mean class overlap of the last layer is lower for ReLU {BEYOND} (effect, overlap).",
        deep_relu_separates,
    ),
    Test(
        "In trained ReLU networks early layers are agnostic to the class and deep layers specialised.",
        f"The mean class overlap is lower in the last layer than in the first {BEYOND} (effect, overlap).",
        deep_relu_specialises,
    ),
    Test(
        "Batch norm lowers the sparsity of trained ReLU networks and raises their accuracy.",
        f"Without batch norm more samples are inactive (effect, points, mean over layers), and with it the test "
        f"accuracy is higher, each {BEYOND}.",
        norm_and_sparsity,
    ),
    Test(
        "Networks that fit CIFAR10 badly look like untrained ones.",
        f"The mean class overlap of the trained sigmoid network isn't below the untrained one's {BEYOND} "
        "(effect, overlap).",
        unfit_look_untrained,
    ),
)
