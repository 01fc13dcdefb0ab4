"""Which unreported choices explain the paper's Table 1: the recipe `relu-vs-sigmoid-settings`.

`run` is the recipe. `variants`: the choices, and networks that differ in them. `screening`: their training, and how far
each ends from Table 1. `figure`: which choice moves which layer. `report`: all that a screening writes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd

from probekit.errors import DataError, near
from probekit.progress import Progress, silent
from probekit.report import Outcome

from ..locking import locked
from ..settings import Settings, resolve
from ..tables import PAPER
from ..threads import few_threads
from ..training.jobs import Jobs
from . import report
from .screening import first, full, nearest, screen
from .variants import INITIALISATIONS, SCALINGS, Choices, builder, raw_split

__all__ = ["run"]


def run(
    *,
    datasets: Annotated[tuple[str, ...], "mnist, cifar10 or both, of which Table 1 speaks."] = ("mnist", "cifar10"),
    batch_norm: Annotated[str, "Train networks without batch norm (no), with it (yes), or both."] = "both",
    scalings: Annotated[
        tuple[str, ...],
        "How pixels are scaled: in a range, as 0-to-1 or minus0.5-to-1.5, or standardised by set, channel or pixel.",
    ] = SCALINGS,
    learning_rates: Annotated[tuple[float, ...], "Learning rates."] = (3e-4, 1e-3, 3e-3),
    batch_sizes: Annotated[tuple[int, ...], "Samples in a batch."] = (64, 128, 256),
    initialisations: Annotated[tuple[str, ...], "He's initialisation."] = tuple(INITIALISATIONS),
    epochs: Annotated[int, "Epochs of the screening, in which each network has one seed."] = 30,
    best: Annotated[
        int | None,
        "So many of the nearest settings are trained in full: 5 unless given, with --merge none. 0 trains none.",
    ] = None,
    seeds: Annotated[int, "Seeds of the full training."] = 3,
    full_epochs: Annotated[int, "Epochs of the full training."] = 300,
    merge: Annotated[
        tuple[Path, ...] | None,
        "Folders of finished runs, OUT/relu-vs-sigmoid-settings, to rank together. Nothing is screened.",
    ] = None,
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
    screened = {
        "datasets": datasets,
        "batch_norm": batch_norm,
        "scalings": scalings,
        "learning_rates": learning_rates,
        "batch_sizes": batch_sizes,
        "initialisations": initialisations,
        "epochs": epochs,
    }
    folder = out / "relu-vs-sigmoid-settings"
    norms, choices = _norms(batch_norm), Choices(scalings, learning_rates, batch_sizes, initialisations)
    _check(datasets, epochs=epochs, seeds=seeds, full_epochs=full_epochs, checkpoint_every=checkpoint_every)
    rows = None
    if merge is not None:
        usual = run.__kwdefaults__ or {}
        if changed := [name for name, value in screened.items() if value != usual[name]]:
            raise DataError(f"A merge takes its networks from the runs: give --merge without {', '.join(changed)}.")
        rows = _merged(merge, folder)
        datasets, scalings = tuple(rows.dataset.unique()), tuple(rows.scaling.unique())
        screened = {"merge": [each.name for each in merge]}
    if best is None:
        best = 5 if rows is None else 0
    if best < 0:
        raise DataError(f"best is {best}; it takes whole numbers from 0.")
    folder.mkdir(parents=True, exist_ok=True)
    settings = {name: resolve({"source": name, "profile": "section3"}) for name in datasets}
    with locked(folder), few_threads(settings[datasets[0]], device):
        in_full = {"best": best, "seeds": seeds, "full_epochs": full_epochs}
        (folder / "config.json").write_text(json.dumps(screened | in_full, indent=2) + "\n")
        jobs = []
        if rows is None or best:
            shared = folder, checkpoint_every, data_dir, device, progress
            jobs = [_jobs(each, scalings, *shared) for each in settings.values()]
        if rows is None:
            rows = pd.concat([screen(each, choices, norms, epochs) for each in jobs], ignore_index=True)
        ranked = nearest(rows)
        finished = None
        if best:
            chosen = first(ranked, best)
            finished = pd.concat([full(each, chosen, seeds, full_epochs) for each in jobs], ignore_index=True)
        return report.write(rows, ranked, finished, folder)


def _merged(folders: Sequence[Path], folder: Path) -> pd.DataFrame:
    """The networks that finished runs have screened, to rank together in `folder`."""
    missing = [str(each) for each in folders if not (each / "screening.csv").exists()]
    if missing:
        raise DataError(f"There is no finished run, with a screening.csv, in {', '.join(missing)}.")
    if folder.resolve() in [each.resolve() for each in folders]:
        raise DataError(f"The merged screening would replace that in {str(folder)!r}; give another --out.")
    return pd.concat([pd.read_csv(each / "screening.csv") for each in folders], ignore_index=True)


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


def _jobs(
    settings: Settings,
    scalings: Sequence[str],
    folder: Path,
    every: int,
    data_dir: Path | None,
    device: str,
    progress: Progress,
) -> Jobs:
    split, scaled = raw_split(settings, scalings, data_dir, device)
    return Jobs(settings, split, folder / settings.dataset, every, progress, builder(scaled))
