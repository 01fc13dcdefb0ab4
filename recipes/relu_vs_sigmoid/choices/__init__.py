"""Which unreported choices explain the paper's Table 1: the recipe `relu-vs-sigmoid-settings`.

`run` is the recipe. `variants`: the choices, and networks that differ in them. `screening`: their training, and how far
each ends from Table 1. `figure`: which choice moves which layer.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pandas as pd

from probekit.errors import DataError, near
from probekit.progress import Progress, silent
from probekit.report import Outcome, Page

from ..locking import locked
from ..settings import Settings, resolve
from ..tables import PAPER
from ..threads import few_threads
from ..training.jobs import Jobs
from . import figure
from .screening import COMMON, LAYERS, first, full, nearest, reached, screen
from .variants import INITIALISATIONS, SCALINGS, Choices, builder, raw_split

__all__ = ["run"]

LEDE = (
    "Table 1 of Pretorius, Barnard and Davel (2019) has sixteen numbers of trained ReLU networks: the percent of "
    "samples for which the nodes of a layer are inactive. The paper doesn't say how pixels were scaled, how large "
    "batches were, at which learning rate networks trained, how weights were drawn, which epoch's weights were "
    "measured, and over which samples. Here ReLU networks of 4 layers of 200 nodes are trained with every combination "
    "of the given choices, and each is compared with the table."
)
NEAREST = (
    "A setting is what all networks share: scaling, initialisation, batch size, the epoch of the weights and the "
    "samples counted. Each kind of network has the learning rate with which it comes nearest, since the paper searched "
    "it for each. Worst is the largest distance of any layer of any kind to the table, average their mean."
)


def run(
    *,
    datasets: Annotated[tuple[str, ...], "mnist, cifar10 or both, of which Table 1 speaks."] = ("mnist", "cifar10"),
    batch_norm: Annotated[str, "Train networks without batch norm (no), with it (yes), or both."] = "both",
    scalings: Annotated[tuple[str, ...], "How pixels are scaled."] = SCALINGS,
    learning_rates: Annotated[tuple[float, ...], "Learning rates."] = (3e-4, 1e-3, 3e-3),
    batch_sizes: Annotated[tuple[int, ...], "Samples in a batch."] = (64, 128, 256),
    initialisations: Annotated[tuple[str, ...], "He's initialisation."] = tuple(INITIALISATIONS),
    epochs: Annotated[int, "Epochs of the screening, in which each network has one seed."] = 30,
    best: Annotated[int, "So many of the nearest settings are trained in full; 0 ends after the screening."] = 5,
    seeds: Annotated[int, "Seeds of the full training."] = 3,
    full_epochs: Annotated[int, "Epochs of the full training."] = 300,
    checkpoint_every: Annotated[int, "Epochs between checkpoints; a stopped run resumes from the last."] = 5,
    data_dir: Annotated[Path | None, "The folder with mnist and cifar10."] = None,
    out: Annotated[Path, "The folder in which to write relu-vs-sigmoid-settings/."] = Path("runs"),
    device: Annotated[str, "The torch device to train on."] = "cpu",
    progress: Progress = silent,
) -> Outcome:
    """Train ReLU networks with the choices that the paper doesn't report, and compare each with its Table 1.

    Each network is measured with the weights of its best validation accuracy and of its last epoch, over the training
    and the test samples. The nearest settings are trained again with several seeds in full. Writes screening.csv,
    nearest.csv, full.csv, the figure and report.html under OUT/relu-vs-sigmoid-settings.
    """
    choices = Choices(scalings, learning_rates, batch_sizes, initialisations)
    norms = _norms(batch_norm)
    _check(datasets, epochs=epochs, seeds=seeds, full_epochs=full_epochs, checkpoint_every=checkpoint_every)
    if best < 0:
        raise DataError(f"best is {best}; it takes whole numbers from 0.")
    folder = out / "relu-vs-sigmoid-settings"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {name: resolve({"source": name, "profile": "section3"}) for name in datasets}
    with locked(folder), few_threads(settings[datasets[0]], device):
        given = {"datasets": datasets, "norms": norms, **asdict(choices), "epochs": epochs}
        given |= {"best": best, "seeds": seeds, "full_epochs": full_epochs}
        (folder / "config.json").write_text(json.dumps(given, indent=2) + "\n")
        jobs = [_jobs(each, folder, checkpoint_every, data_dir, device, progress) for each in settings.values()]
        rows = pd.concat([screen(each, choices, norms, epochs) for each in jobs], ignore_index=True)
        ranked = nearest(rows)
        finished = None
        if best:
            chosen = first(ranked, best)
            finished = pd.concat([full(each, chosen, seeds, full_epochs) for each in jobs], ignore_index=True)
        return _outcome(rows, ranked, finished, folder)


def _norms(batch_norm: str) -> list[bool]:
    known = {"no": [False], "yes": [True], "both": [False, True]}
    if batch_norm not in known:
        raise DataError(f"batch_norm is {batch_norm!r}; it is {', '.join(known)}.{near(batch_norm, known)}")
    return known[batch_norm]


def _check(datasets: tuple[str, ...], **counts: int) -> None:
    for name in datasets:
        if name not in PAPER:
            raise DataError(f"Table 1 has no {name!r}; it has {' and '.join(PAPER)}.{near(name, PAPER)}")
    if not datasets or len(set(datasets)) < len(datasets):
        raise DataError(f"datasets is {','.join(datasets) or 'empty'}; give mnist, cifar10 or both.")
    for name, value in counts.items():
        if value < 1:
            raise DataError(f"{name} is {value}; it takes whole numbers from 1.")


def _jobs(settings: Settings, folder: Path, every: int, data_dir: Path | None, device: str, progress: Progress) -> Jobs:
    split, scaled = raw_split(settings, data_dir, device)
    return Jobs(settings, split, folder / settings.dataset, every, progress, builder(scaled))


def _outcome(rows: pd.DataFrame, ranked: pd.DataFrame, finished: pd.DataFrame | None, folder: Path) -> Outcome:
    """Write the tables, the figure and the report."""
    rows.to_csv(folder / "screening.csv", index=False)
    ranked.to_csv(folder / "nearest.csv", index=False)
    page = Page("Which choices explain Table 1", LEDE).numbers(
        {
            "networks trained": len(rows) // 4,
            "the nearest setting, points": f"{ranked.worst.min():.1f}",
        }
    )
    numbers = figure.by_choice(rows)
    if len(numbers):
        numbers.to_csv(folder / "by_choice.csv", index=False)
        figure.draw(numbers).savefig(folder / "by_choice.png", dpi=150)
        page.heading("Which choice moves which layer").figure(
            folder / "by_choice.png",
            "Percent of inactive samples by layer, in brackets the test accuracy. Each panel varies one choice; the "
            f"others are as in the recipe, where they were screened. {rows.epochs.max()} epochs, one seed. Black: the "
            "paper's Table 1.",
        )
    within = reached(rows)
    within.to_csv(folder / "reached.csv", index=False)
    page.heading("Each number by itself").table(
        within, "The percent inactive that networks have, over all combinations of choices.", formats=".1f"
    )
    page.heading("The nearest settings").text(NEAREST)
    shown = ranked[ranked.setting <= 10]
    page.table(shown, "The ten nearest settings of the screening, a row for each kind of network.", formats=".2f")
    tables = {"The nearest settings of the screening": _short(ranked)}
    if finished is not None:
        finished.to_csv(folder / "full.csv", index=False)
        means = against_table(finished)
        means.to_csv(folder / "full_by_layer.csv", index=False)
        page.heading("The nearest settings, trained in full").table(
            means, f"Mean over {finished.seed.nunique()} seeds, and the paper's number.", formats=".2f"
        )
        tables["The nearest settings, trained in full"] = _short(nearest(finished.drop(columns="setting")))
    return Outcome(report=page.write(folder / "report.html"), tables=tables)


def against_table(finished: pd.DataFrame) -> pd.DataFrame:
    """A row for each setting, kind of network and layer: the mean percent inactive over seeds, and the paper's."""
    keys = ["setting", *COMMON, "dataset", "batch_norm", "learning_rate"]
    long = finished.melt([*keys, "seed", "test_accuracy"], list(LAYERS), "layer", "inactive")
    grouped = long.groupby([*keys, "layer"], as_index=False)
    table = grouped.agg(
        inactive=("inactive", "mean"), standard_error=("inactive", "sem"), test_accuracy=("test_accuracy", "mean")
    )
    numbers = zip(table.dataset, table.batch_norm, table.layer, strict=True)
    table["paper"] = [PAPER[name][norm, "trained"][LAYERS.index(layer)] for name, norm, layer in numbers]
    return table.assign(difference=table.inactive - table.paper)


def _short(ranked: pd.DataFrame) -> pd.DataFrame:
    """A row for each of the five nearest settings."""
    columns = ["setting", *COMMON, "worst", "average"]
    return ranked[columns].drop_duplicates().head(5).round(2)
