"""All trainings of a run, here or on a cluster: each resumes where it was stopped, and none is repeated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

import probekit as pk
from probekit.cluster import RETRIES, client_of, result_of
from probekit.errors import ProbekitError
from probekit.progress import Progress, silent

from ..data import Samples, Split, split_of
from ..settings import Settings
from .checkpoint import SNAPSHOTS, Checkpoint, load_networks, read, save_networks, write
from .networks import Builder, Config, Member, Trained, build_member, default_learning_rate
from .trainer import train

__all__ = ["Jobs", "chosen_rates", "inactive", "on_cluster", "search", "trained"]

DECADES = (1e-5, 1e-4, 1e-3, 1e-2)  # the learning rates with which a search begins
_ROWS = 4096  # samples whose activations are in memory at a time


@dataclass(frozen=True)
class Jobs:
    """What the trainings of a run share. `folder` gets ``networks/``, ``search/`` and meanwhile ``checkpoints/``."""

    settings: Settings
    split: Split
    folder: Path
    checkpoint_every: int
    progress: Progress
    build: Builder = build_member

    def key(self, members: Sequence[Member], epochs: int, patience: int) -> dict[str, Any]:
        """All that the numbers of a training depend on."""
        fit = self.settings.fit_before if patience else 0.0
        return {
            "data": self.split.digest,
            "members": [asdict(member) for member in members],
            "epochs": epochs,
            "patience": patience,
            "batch_size": self.settings.batch_size,
            "decay": self.settings.decay,
            "precision": self.settings.precision,
            "snapshots": SNAPSHOTS,  # files without it have the best weights alone
            **({"fit": fit} if fit else {}),  # runs without it are older than this option
        }

    def networks(self, members: Sequence[Member]) -> list[Trained]:
        """The networks of one shape that the study is about, trained now or loaded."""
        shape, epochs, patience = members[0].config.shape, self.settings.epochs, self.settings.patience
        path, key = self.folder / "networks" / f"{shape}.pt", self.key(members, epochs, patience)
        found = load_networks(path, members, self.split, key)
        if found is None:
            found = self.train(members, shape, epochs, patience)
            save_networks(path, found, key)
        self.checkpoint(shape, key).remove()
        return found

    def train(self, members: Sequence[Member], name: str, epochs: int, patience: int) -> list[Trained]:
        """Train networks of one shape, from the checkpoint of this name if there is one."""
        return train(
            members,
            self.split,
            epochs=epochs,
            batch_size=self.settings.batch_size,
            decay=self.settings.decay,
            patience=patience,
            fit=self.settings.fit_before,
            precision=self.settings.precision,
            checkpoint=self.checkpoint(name, self.key(members, epochs, patience)),
            build=self.build,
            progress=self.progress,
        )

    def checkpoint(self, name: str, key: dict[str, Any]) -> Checkpoint:
        """The checkpoint of the training of this name."""
        return Checkpoint(self.folder / "checkpoints" / f"{name}.pt", self.checkpoint_every, key)


def trained(configs: Sequence[Config], jobs: Jobs) -> tuple[list[Trained], pd.DataFrame | None]:
    """The networks of one shape, every kind with every seed, and the learning-rate search if the settings ask for it.

    The rate is the given one, else the one that the search found, else the one that suits digits.
    """
    settings, searched = jobs.settings, None
    rates = {config: rate for config in configs if (rate := settings.rate(config)) is not None}
    if not rates and settings.search_epochs:
        searched = search(configs, jobs)
        rates = chosen_rates(searched, configs)
    elif not rates:
        rates = {config: default_learning_rate(config) for config in configs}
    members = [Member(config, seed, rates[config]) for config in configs for seed in range(settings.seeds)]
    return jobs.networks(members), searched


def on_cluster(address: str, jobs: Jobs, data_dir: Path | None, device: str) -> Iterator[Sequence[Config]]:
    """Each shape of a run as soon as a worker of a dask cluster has trained its networks.

    The worker leaves them in the run's folder, where `trained` then finds them. A worker that is killed costs its
    training the epochs since the last checkpoint.

    Raises:
        ProbekitError: there is no such cluster, or it gives up on a training; and any error of a training.
    """
    from distributed import as_completed

    settings = jobs.settings
    if Path(settings.source).is_file():
        settings = replace(settings, source=str(Path(settings.source).resolve()))
    given = settings, jobs.folder.resolve(), jobs.checkpoint_every, data_dir and data_dir.resolve(), device
    with client_of(address) as client:
        futures = {
            client.submit(_train_shape, configs, *given, pure=False, retries=RETRIES): configs
            for configs in settings.shapes
        }
        try:
            finished = as_completed(list(futures), loop=client.loop)
            for future in jobs.progress(finished, "train on the cluster", len(futures)):
                shape = futures[future][0].shape
                result_of(future, f"The cluster gave up on the networks {shape} (checkpoints are kept)")
                yield futures[future]
        finally:
            client.cancel(list(futures))


def _train_shape(
    configs: Sequence[Config], settings: Settings, folder: Path, every: int, data_dir: Path | None, device: str
) -> ProbekitError | None:
    """Train the networks of a shape; return an error of ours, so that the cluster doesn't try again."""
    try:
        trained(configs, Jobs(settings, split_of(settings, data_dir, device), folder, every, silent))
    except ProbekitError as error:
        return error
    return None


def search(configs: Sequence[Config], jobs: Jobs) -> pd.DataFrame:
    """Search for the learning rates of networks of one shape; a row for each network trained.

    Two stages: decades, then half a decade around the best of each kind. All rates, seeds and activations of a stage
    train together, for the settings' `search_epochs`; a finished stage isn't repeated. The settings' `search_seeds`
    are the first of the seeds; without it all are searched. The columns say which network it is, its `stage` and its
    accuracies. `inactive` has the share of inactive samples in each layer of ReLU networks, and `chosen` marks the rate
    with the highest mean validation accuracy over seeds, the lower of equals.
    """
    rows = _stage("decades", dict.fromkeys(configs, DECADES), jobs)
    rates = {config: _around(rate) for config, rate in chosen_rates(pd.DataFrame(rows), configs).items()}
    table = pd.DataFrame(rows + _stage("half-decades", rates, jobs))
    best = chosen_rates(table, configs)
    kinds = [Config(*kind) for kind in zip(table.activation, table.depth, table.width, table.batch_norm, strict=True)]
    return table.assign(chosen=[best[kind] == rate for kind, rate in zip(kinds, table.learning_rate, strict=True)])


def chosen_rates(table: pd.DataFrame, configs: Sequence[Config]) -> dict[Config, float]:
    """The learning rate of each kind of network that did best in a search."""
    means = table.groupby(["activation", "learning_rate"]).validation_accuracy.mean()
    return {config: float(means[config.activation].idxmax()) for config in configs}


def _around(rate: float) -> tuple[float, float]:
    """Half a decade below and above, in round numbers: 3e-4 and 3e-3 around 1e-3."""
    return float(f"{0.3 * rate:.0e}"), float(f"{3 * rate:.0e}")


def _stage(stage: str, rates: Mapping[Config, Sequence[float]], jobs: Jobs) -> list[dict[str, Any]]:
    """Train every kind at its rates with every seed, or read the rows of a stage that is finished."""
    seeds, epochs = range(jobs.settings.search_seeds or jobs.settings.seeds), jobs.settings.search_epochs
    members = [Member(config, seed, rate) for config in rates for rate in rates[config] for seed in seeds]
    name = f"{members[0].config.shape}-{stage}"
    path, key = jobs.folder / "search" / f"{name}.pt", jobs.key(members, epochs, 0)
    found = read(path, key)
    if found is None:
        networks = jobs.train(members, f"search-{name}", epochs, 0)
        found = {"key": key, "rows": [_row(network, stage, jobs) for network in networks]}
        write(path, found)
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
        "best_epoch": network.best.epoch,
        "train_accuracy": network.best.train_accuracy,
        "validation_accuracy": network.best.validation_accuracy,
        "seconds": round(network.seconds, 2),
        "inactive": inactive(network.best.network, jobs.split.train) if relu else [],
    }


@torch.no_grad()
def inactive(network: nn.Module, samples: Samples) -> list[float]:
    """The share of samples for which a node is 0 or below, averaged over the nodes of each hidden layer."""
    totals: dict[str, float] = {}
    with pk.Probe(network, "act*") as probe:
        for x in samples.x.split(_ROWS):
            network(x)
            for layer, values in probe.take().items():
                totals[layer] = totals.get(layer, 0.0) + float((values <= 0).sum()) / values.shape[1]
    return [total / len(samples) for total in totals.values()]
