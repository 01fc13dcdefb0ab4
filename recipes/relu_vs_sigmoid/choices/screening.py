"""ReLU networks trained with every combination of choices, and how far each ends from the paper's Table 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from ..settings import WEIGHTS
from ..tables import PAPER
from ..training.checkpoint import ACCURACIES, read, write
from ..training.jobs import Jobs, inactive
from ..training.networks import Config, Trained
from .variants import Choices, Variant

__all__ = ["COMMON", "LAYERS", "SAMPLES", "distances", "first", "full", "nearest", "reached", "screen"]

SAMPLES = ("train", "test")  # those over which inactive ones are counted
LAYERS = ("layer1", "layer2", "layer3", "layer4")
# What a setting fixes for all networks. The learning rate is each kind's own, since the paper searched it.
TRAINED = ("scaling", "initialisation", "batch_size")
COMMON = (*TRAINED, "weights_of", "samples")
KIND = ("dataset", "batch_norm")

Rows: TypeAlias = list[dict[str, Any]]


def screen(jobs: Jobs, choices: Choices, norms: Sequence[bool], epochs: int) -> pd.DataFrame:
    """Networks of seed 0 with every combination of choices: a row for each way of measuring each of them.

    The columns are the choices, the accuracies of the measured weights in percent, the percent of inactive samples in
    each layer, and from the paper's numbers the largest and the mean distance, in points.
    """
    kinds = [Config("relu", len(LAYERS), 200, norm) for norm in norms]
    plans = [(size, choices.members(config, [0])) for config in kinds for size in choices.batch_sizes]
    return distances(pd.DataFrame(_trained(jobs, plans, "screening", epochs)))


def full(jobs: Jobs, chosen: pd.DataFrame, seeds: int, epochs: int) -> pd.DataFrame:
    """The networks of the `chosen` settings with so many seeds: rows as `screen` gives them, of the chosen ones only.

    `chosen` has a row for each setting and kind of network, with its choices and its learning rate.
    """
    ours = chosen[chosen.dataset == jobs.settings.dataset]
    plans = []
    for norm, size in ours[["batch_norm", "batch_size"]].drop_duplicates().to_numpy().tolist():
        group = ours[(ours.batch_norm == norm) & (ours.batch_size == size)]
        config = Config("relu", len(LAYERS), 200, norm)
        alike = group[["learning_rate", "scaling", "initialisation"]].drop_duplicates().itertuples(index=False)
        plans.append((size, [Variant(config, seed, *values) for values in alike for seed in range(seeds)]))
    rows = distances(pd.DataFrame(_trained(jobs, plans, "full", epochs)))
    return rows.merge(ours[[*COMMON, *KIND, "learning_rate", "setting"]], on=[*COMMON, *KIND, "learning_rate"])


def _trained(jobs: Jobs, plans: Iterable[tuple[int, Sequence[Variant]]], stage: str, epochs: int) -> Rows:
    """The rows of networks that train together, of one plan after another; a finished plan isn't repeated."""
    rows: Rows = []
    for size, members in plans:
        ours = replace(jobs, settings=replace(jobs.settings, batch_size=size))
        name = f"{stage}-{members[0].config.shape}-batch{size}"
        path, key = jobs.folder / "rows" / f"{name}.pt", ours.key(members, epochs, 0)
        found = read(path, key)
        if found is None:
            networks = ours.train(members, name, epochs, 0)
            found = {"key": key, "rows": [row for network in networks for row in _rows(network, ours)]}
            write(path, found)
        ours.checkpoint(name, key).remove()
        rows += found["rows"]
    return rows


def _rows(network: Trained, jobs: Jobs) -> Iterator[dict[str, Any]]:
    """A row for the weights of the best and of the last epoch, over training and over test samples."""
    member, dataset = network.member, jobs.settings.dataset
    assert isinstance(member, Variant)
    for weights_of in WEIGHTS:
        snapshot = network.trained(weights_of)
        for samples in SAMPLES:
            shares = 100 * np.array(inactive(snapshot.network, getattr(jobs.split, samples)))
            yield {
                "dataset": dataset,
                "batch_norm": member.config.batch_norm,
                "scaling": member.scaling,
                "learning_rate": member.learning_rate,
                "batch_size": jobs.settings.batch_size,
                "initialisation": member.initialisation,
                "weights_of": weights_of,
                "samples": samples,
                "seed": member.seed,
                "epochs": len(network.curves.epoch),
                "weights_epoch": snapshot.epoch,
                **{name: 100 * getattr(snapshot, name) for name in ACCURACIES},
                **dict(zip(LAYERS, shares.tolist(), strict=True)),
            }


def distances(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the largest and the mean distance of each row's layers from the paper's Table 1, in points."""
    kinds = zip(table.dataset, table.batch_norm, strict=True)
    paper = np.array([PAPER[dataset][norm, "trained"] for dataset, norm in kinds])
    apart = abs(table[list(LAYERS)].to_numpy() - paper)
    return table.assign(largest_distance=apart.max(1), mean_distance=apart.mean(1))


def nearest(rows: pd.DataFrame) -> pd.DataFrame:
    """Settings that all networks share, the nearest to Table 1 first: a row for each setting and kind of network.

    Each kind has the learning rate with which it comes nearest. `setting` counts the settings from 1, by `worst`: the
    largest distance of any layer of any kind, in points. `average` is the mean distance over them all. Settings that
    weren't trained for every kind of network in `rows` are left out.
    """
    groups = rows.groupby([*COMMON, *KIND, "learning_rate"], as_index=False)
    means = distances(groups[[*LAYERS, "test_accuracy"]].mean())
    best = means.loc[means.groupby([*COMMON, *KIND]).largest_distance.idxmin()]
    scores = best.groupby(list(COMMON), as_index=False).agg(
        worst=("largest_distance", "max"), average=("mean_distance", "mean"), kinds=("mean_distance", "size")
    )
    kinds = len(rows[list(KIND)].drop_duplicates())
    scores = scores[scores.pop("kinds") == kinds]
    scores = scores.sort_values(["worst", "average"], ignore_index=True)
    scores.insert(0, "setting", scores.index + 1)
    return scores.merge(best, on=list(COMMON)).sort_values(["setting", *KIND], ignore_index=True)


def reached(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each number of Table 1: the lowest, the highest and the nearest percent that any network has."""
    found = []
    for (dataset, norm), group in rows.groupby(list(KIND)):
        for layer, paper in zip(LAYERS, PAPER[str(dataset)][bool(norm), "trained"], strict=True):
            values = group[layer]
            nearest = float(values.iloc[int(abs(values - paper).argmin())])
            number = {"dataset": dataset, "batch_norm": norm, "layer": layer, "paper": paper}
            spread = {"lowest": values.min(), "highest": values.max(), "nearest": nearest}
            found.append({**number, **spread, "distance": abs(nearest - paper)})
    return pd.DataFrame(found)


def first(ranked: pd.DataFrame, count: int) -> pd.DataFrame:
    """The first settings of a ranking that differ in what they train, each as it is measured where it comes nearest."""
    settings = ranked.drop_duplicates(list(TRAINED)).setting.head(count)
    return ranked[ranked.setting.isin(settings)]
