"""The learning-rate search: decades, then half-decades around the best, by mean best validation accuracy over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
import torch
from torch import nn

import probekit as pk

from . import checkpoint
from .data import Samples
from .jobs import Jobs
from .networks import Config
from .training import Member, Trained

__all__ = ["chosen_rates", "search"]

DECADES = (1e-5, 1e-4, 1e-3, 1e-2)
_ROWS = 4096  # of the samples whose activations are in memory at a time


def search(configs: Sequence[Config], jobs: Jobs) -> pd.DataFrame:
    """Train networks of one shape at many learning rates: a row a network.

    All rates, seeds and activations of a stage train together, for the settings' `search_epochs`. The columns say
    which network, its `stage` (decades, half-decades) and how it did; `inactive` is the share of inactive samples in
    each layer of ReLU networks; `chosen` marks the rate of the highest mean validation accuracy of its kind, the
    lower of equals. A stage that is done isn't repeated.
    """
    rows = _stage("decades", dict.fromkeys(configs, DECADES), jobs)
    rates = {config: _around(rate) for config, rate in _best(pd.DataFrame(rows), configs).items()}
    table = pd.DataFrame(rows + _stage("half-decades", rates, jobs))
    best = _best(table, configs)
    kinds = [Config(*kind) for kind in zip(table.activation, table.depth, table.width, table.batch_norm, strict=True)]
    return table.assign(chosen=[best[kind] == rate for kind, rate in zip(kinds, table.learning_rate, strict=True)])


def chosen_rates(table: pd.DataFrame, configs: Sequence[Config]) -> dict[Config, float]:
    """The learning rate of each kind of network that a search found."""
    return _best(table, configs)


def _around(rate: float) -> tuple[float, float]:
    """Half a decade below and above, in round numbers: 3e-4 and 3e-3 about 1e-3."""
    return float(f"{0.3 * rate:.0e}"), float(f"{3 * rate:.0e}")


def _best(table: pd.DataFrame, configs: Sequence[Config]) -> dict[Config, float]:
    means = table.groupby(["activation", "learning_rate"]).validation_accuracy.mean()
    return {config: float(means[config.activation].idxmax()) for config in configs}


def _stage(stage: str, rates: Mapping[Config, Sequence[float]], jobs: Jobs) -> list[dict[str, Any]]:
    """Train every kind at its rates with every seed, or read what was found when that was done."""
    seeds, epochs = range(jobs.settings.seeds), jobs.settings.search_epochs
    members = [Member(config, seed, rate) for config in rates for rate in rates[config] for seed in seeds]
    name = f"{members[0].config.shape}-{stage}"
    path, key = jobs.folder / "search" / f"{name}.pt", jobs.key(members, epochs, 0)
    found = checkpoint.read(path, key)
    if found is None:
        trained = jobs.train(members, f"search-{name}", epochs, 0)
        found = {"key": key, "rows": [_row(network, stage, jobs) for network in trained]}
        checkpoint.write(path, found)
    jobs.checkpoint(f"search-{name}", key).remove()
    rows: list[dict[str, Any]] = found["rows"]
    return rows


def _row(network: Trained, stage: str, jobs: Jobs) -> dict[str, Any]:
    relu = network.member.config.activation == "relu"
    return {
        "dataset": jobs.settings.dataset,
        **asdict(network.member.config),
        "seed": network.member.seed,
        "learning_rate": network.member.learning_rate,
        "stage": stage,
        "epochs": len(network.curves.epoch),
        "best_epoch": network.best_epoch,
        "train_accuracy": network.train_accuracy,
        "validation_accuracy": network.validation_accuracy,
        "seconds": round(network.seconds, 2),
        "inactive": _inactive(network.trained, jobs.split.train) if relu else [],
    }


@torch.no_grad()
def _inactive(network: nn.Module, samples: Samples) -> list[float]:
    """The share of samples for which a node puts out 0 or less, averaged over the nodes of each hidden layer."""
    totals: dict[str, float] = {}
    with pk.Probe(network, "act*") as probe:
        for x in samples.x.split(_ROWS):
            network(x)
            for layer, values in probe.take().items():
                totals[layer] = totals.get(layer, 0.0) + float((values <= 0).sum()) / values.shape[1]
    return [total / len(samples) for total in totals.values()]
