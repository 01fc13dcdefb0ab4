"""The paper's claims, each with the criterion by which a run decides it, its effect and its uncertainty."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from .evidence import (
    ERRORS,
    NotTestable,
    by_layer,
    differences,
    exceeds,
    fitted,
    last_epochs,
    listed,
    mean,
    need,
    of_kind,
    papers,
    probed,
    slopes,
)
from .networks import Config
from .study import Study

__all__ = ["TESTS", "Claim", "claims", "write"]

Numbers: TypeAlias = dict[str, Any]

BOTH = ("mnist", "cifar10")
PAPERS_EPOCHS = 300


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
    """A claim as something that can be tested; `about` names the paper's data sets that it speaks of."""

    text: str
    criterion: str
    decide: Callable[[Study], Finding]
    about: tuple[str, ...] = BOTH


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
    effect, error = mean(finding.values)
    status = "held" if finding.held else "not_held"
    return Claim(number, test.text, status, test.criterion, effect, error, finding.numbers)


def curves_alike(study: Study) -> Finding:
    rows = fitted(study)
    validation = [100 * value for value in differences("validation_accuracy", rows, "activation", "relu", "sigmoid")]
    last = last_epochs(study)
    train = [100 * value for value in differences("train_accuracy", last, "activation", "relu", "sigmoid")]
    return Finding(
        held=exceeds(validation) and abs(mean(train)[0]) < 1,
        values=validation,
        numbers={
            "validation_points": mean(validation)[0],
            "train_points_in_last_epoch": mean(train)[0],
            "pairs": len(train),
        },
    )


def wide_sigmoid(study: Study) -> Finding:
    need(study, widths=2)
    gaps = {}
    for width in (min(study.settings.widths), max(study.settings.widths)):
        rows = fitted(study, width=width, batch_norm=False)
        gaps[width] = [100 * gap for gap in differences("test_accuracy", rows, "activation", "relu", "sigmoid")]
    narrow, wide = gaps.values()
    return Finding(
        held=abs(mean(wide)[0]) < max(0.5, ERRORS * (mean(wide)[1] or 0.0)),
        values=wide,
        numbers={"gap_narrow": mean(narrow)[0], "gap_wide": mean(wide)[0]},
    )


def sigmoid_and_depth(study: Study) -> Finding:
    need(study, depths=2)
    width = min(study.settings.widths)
    found = {norm: slopes(fitted(study, activation="sigmoid", width=width, batch_norm=norm)) for norm in (False, True)}
    return Finding(
        held=exceeds(found[True]) and exceeds([-slope for slope in found[False]]),
        values=[with_norm - without for with_norm, without in zip(found[True], found[False], strict=True)],
        numbers={"slope_without": mean(found[False])[0], "slope_with": mean(found[True])[0]},
    )


def relu_needs_norm(study: Study) -> Finding:
    need(study, dataset="cifar10")
    rows = papers(study)
    gaps = {
        norm: [
            100 * gap
            for gap in differences("test_accuracy", rows[rows.batch_norm == norm], "activation", "relu", "sigmoid")
        ]
        for norm in (False, True)
    }
    return Finding(
        held=exceeds(gaps[True]) and not exceeds(gaps[False]),
        values=gaps[True],
        numbers={"gap_without": mean(gaps[False])[0], "gap_with": mean(gaps[True])[0]},
    )


def depth_needs_norm(study: Study) -> Finding:
    need(study, dataset="cifar10", depths=2)
    rows = papers(study)
    found = {
        norm: [
            slope
            for _, kind in rows[rows.batch_norm == norm].groupby(["activation", "width"])
            for slope in slopes(kind)
        ]
        for norm in (False, True)
    }
    return Finding(
        held=exceeds(found[True]) and exceeds([-slope for slope in found[False]]),
        values=found[True],
        numbers={"slope_without": mean(found[False])[0], "slope_with": mean(found[True])[0]},
    )


def all_fit(study: Study) -> Finding:
    last = last_epochs(study)
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
    need(study, widths=2)
    kinds = papers(study).groupby(["activation", "batch_norm", "width", "seed"]).test_accuracy.mean().unstack()
    means = kinds.mean(axis=1).sort_values()
    wanted = ("relu", True, max(study.settings.widths))
    rival = means.drop(wanted).index[-1]
    lead = list(100 * (kinds.T[wanted] - kinds.T[rival]))
    best = dict(zip(("activation", "batch_norm", "width"), map(str, means.index[-1]), strict=True))
    return Finding(held=mean(lead)[0] > 0, values=lead, numbers={"best": best})


def second_layer(study: Study) -> Finding:
    trees = probed(study, "sigmoid", False, "trained")
    saturated, spread = by_layer(trees, "saturation"), by_layer(trees, "std")
    if saturated.shape[1] < 3:
        raise NotTestable("It takes networks of at least 3 layers.")
    others = np.delete(saturated, 1, axis=1).min(1)
    return Finding(
        held=exceeds(list(others - saturated[:, 1])) and exceeds(list(spread[:, 1] - spread[:, -1])),
        values=list(others - saturated[:, 1]),
        numbers={"saturation_by_layer": listed(saturated), "class_std_by_layer": listed(spread)},
    )


def untrained_sigmoid(study: Study) -> Finding:
    untrained = probed(study, "sigmoid", False, "untrained")
    trained = probed(study, "sigmoid", False, "trained")
    spread = by_layer([_map_median(tree, lambda m: m.std("label")) for tree in untrained], "median")
    away = [
        by_layer([_map_median(tree, lambda m: abs(m - 0.5)) for tree in trees], "median")
        for trees in (untrained, trained)
    ]
    coincide = list(spread[:, 0] - spread[:, -1])
    saturate = list((away[1] - away[0]).mean(1))
    return Finding(
        held=exceeds(coincide) and exceeds(saturate) and away[0][:, 0].mean() < 0.25,
        values=saturate,
        numbers={
            "spread_over_classes_untrained_by_layer": listed(spread),
            "distance_from_half_untrained_by_layer": listed(away[0]),
            "distance_from_half_trained_by_layer": listed(away[1]),
        },
    )


def _map_median(tree: xr.DataTree, change: Callable[[xr.DataArray], xr.DataArray]) -> xr.DataTree:
    return xr.DataTree.from_dict(
        {layer: xr.Dataset({"median": change(site.to_dataset()["median"])}) for layer, site in tree.children.items()}
    )


def deep_relu_separates(study: Study) -> Finding:
    overlap = {kind: by_layer(probed(study, kind, False, "untrained"), "overlap") for kind in ("relu", "sigmoid")}
    difference = list(overlap["sigmoid"][:, -1] - overlap["relu"][:, -1])
    return Finding(
        held=exceeds(difference),
        values=difference,
        numbers={f"overlap_{kind}_by_layer": listed(values) for kind, values in overlap.items()},
    )


def deep_relu_specialises(study: Study) -> Finding:
    overlap = by_layer(probed(study, "relu", False, "trained"), "overlap")
    if overlap.shape[1] < 2:
        raise NotTestable("It takes networks of at least 2 layers.")
    difference = list(overlap[:, 0] - overlap[:, -1])
    return Finding(held=exceeds(difference), values=difference, numbers={"overlap_by_layer": listed(overlap)})


def norm_and_sparsity(study: Study) -> Finding:
    config = study.of("relu", False)
    sparsity = {
        norm: by_layer(study.trees(study.of("relu", norm), "trained"), "sparsity_site") for norm in (False, True)
    }
    rows = of_kind(papers(study), activation="relu", depth=config.depth, width=config.width)
    gain = [100 * value for value in differences("test_accuracy", rows, "batch_norm", True, False)]
    drop = list(100 * (sparsity[False] - sparsity[True]).mean(1))
    return Finding(
        held=exceeds(drop) and exceeds(gain),
        values=drop,
        numbers={
            "inactive_without_by_layer": listed(sparsity[False]),
            "inactive_with_by_layer": listed(sparsity[True]),
            "test_points_gained": mean(gain)[0],
        },
    )


def unfit_look_untrained(study: Study) -> Finding:
    need(study, dataset="cifar10")
    trees = {s: study.trees(study.of("sigmoid", False), s) for s in ("untrained", "trained")}
    overlap = {state: by_layer(found, "overlap") for state, found in trees.items()}
    difference = list((overlap["untrained"] - overlap["trained"]).mean(1))
    return Finding(
        held=not exceeds(difference),
        values=difference,
        numbers={f"overlap_{state}_by_layer": listed(values) for state, values in overlap.items()},
    )


BEYOND = f"by more than {ERRORS} standard errors"

TESTS = (
    Test(
        "Training curves of ReLU and sigmoid networks are similar; ReLU validates better.",
        "Over pairs of networks that differ in the activation alone: the best validation accuracy of ReLU is higher "
        f"{BEYOND} (effect, points), and the mean training accuracies of the last epoch differ by less than a point.",
        curves_alike,
        about=("mnist",),
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
        about=("mnist",),
    ),
    Test(
        "On CIFAR10 ReLU reliably beats sigmoid only with batch norm.",
        f"The gap in test accuracy (effect, points) is above 0 {BEYOND} with batch norm and not without.",
        relu_needs_norm,
        about=("cifar10",),
    ),
    Test(
        "On CIFAR10 both degrade with depth without batch norm and gain with it.",
        f"The slope of test accuracy over depth is above 0 with batch norm (effect, points a layer) and below 0 "
        f"without, each {BEYOND}.",
        depth_needs_norm,
        about=("cifar10",),
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
        about=("mnist",),
    ),
    Test(
        "Untrained sigmoid networks have medians near 0.5 in the first layer that coincide with depth; training "
        "saturates them.",
        "Untrained: the medians of layer 1 are on average within 0.25 of 0.5, and their standard deviation over "
        "classes is lower in the last layer than in the first. Trained: the medians are further from 0.5 than "
        f"untrained (effect, mean over layers). The latter two {BEYOND}.",
        untrained_sigmoid,
        about=("mnist",),
    ),
    Test(
        "Deep layers of untrained ReLU networks overlap less than those of sigmoid networks.",
        f"The mean class overlap of the last layer is lower for ReLU {BEYOND} (effect, overlap).",
        deep_relu_separates,
        about=("mnist",),
    ),
    Test(
        "In trained ReLU networks early layers are agnostic to the class and deep layers specialised.",
        f"The mean class overlap is lower in the last layer than in the first {BEYOND} (effect, overlap).",
        deep_relu_specialises,
        about=("mnist",),
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
        about=("cifar10",),
    ),
)
