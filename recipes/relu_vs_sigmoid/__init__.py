"""ReLU against sigmoid networks, node by node: Pretorius, Barnard & Davel (2019), figures 1-7, Table 1, the claims.

`run` is the recipe. `settings`: profiles and options. `data`: the samples. `training`: networks and their training.
`study`: networks trained and measured, and their numbers. From the study, `figures`, `tables` and `claims` (decided by
`evidence`), and from these the `report`. `zoo`: its networks as files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd

from probekit.errors import DataError
from probekit.progress import Progress, silent
from probekit.report import Outcome

from . import claims, figures, report, tables, zoo
from .data import Split, split_of
from .locking import locked
from .records import Records
from .settings import rates, resolve
from .study import Study, settings_of, study
from .threads import few_threads
from .training.jobs import Jobs, on_cluster

__all__ = ["run"]

TABLE_1 = "Table 1: % inactive ± standard error (the paper's)"


def run(
    *,
    dataset: Annotated[
        str | None, "digits (the default), mnist, cifar10, or a file.npz with x_train, y_train, x_test, y_test."
    ] = None,
    profile: Annotated[
        str | None,
        "quick (2 and 4 layers of 200, 30 epochs), section3 (the paper's 4x200, 300 epochs; the default on mnist and "
        "cifar10) or paper (all its depths and widths); the options below override it.",
    ] = None,
    config: Annotated[Path | None, "The config.json of another run; options override it."] = None,
    merge: Annotated[
        tuple[Path, ...] | None,
        "Folders of finished runs on different data sets, OUT/relu-vs-sigmoid/DATASET, to merge; nothing is trained.",
    ] = None,
    decide: Annotated[
        tuple[Path, ...] | None,
        "Folders of runs whose claims are decided anew from the tables in them; nothing is trained.",
    ] = None,
    activations: Annotated[tuple[str, ...] | None, "relu and sigmoid, and optionally tanh, gelu and silu."] = None,
    depths: Annotated[tuple[int, ...] | None, "Numbers of hidden layers."] = None,
    widths: Annotated[tuple[int, ...] | None, "Numbers of nodes in a hidden layer."] = None,
    seeds: Annotated[int | None, "Networks of each kind, with different initial weights and sample orders."] = None,
    epochs: Annotated[int | None, "Epochs of a network, at most if there is patience."] = None,
    patience: Annotated[
        int | None, "A network stops when its validation accuracy hasn't improved for so many epochs; 0 runs all."
    ] = None,
    fit_first: Annotated[
        bool | None, "Count patience only from the first epoch whose training accuracy is at least --fit."
    ] = None,
    fit: Annotated[float | None, "The training accuracy at which a network fits its data, 0.99 by default."] = None,
    weights_of: Annotated[
        str | None,
        "The trained weights that are measured: those of the best validation accuracy (best, the default) or of the "
        "last epoch (last). A training keeps both: the run with the other trains nothing.",
    ] = None,
    batch_size: Annotated[int | None, "Samples in a batch."] = None,
    learning_rate: Annotated[
        tuple[str, ...] | None,
        "The rate of all networks, or of each kind, as relu=1e-3,relu-bn=3e-3,sigmoid=…; without it, a search or the "
        "rates that suit digits.",
    ] = None,
    search_epochs: Annotated[
        int | None, "Epochs of each network in the learning-rate search; 0 uses the rates that suit digits."
    ] = None,
    search_seeds: Annotated[
        int | None, "Networks of each kind and rate in the search, with the first of the seeds; all seeds by default."
    ] = None,
    precision: Annotated[
        str | None,
        "How training multiplies matrices: float32 (the default), tf32 on CUDA devices, or bfloat16; weights, Adam and "
        "measurements stay float32.",
    ] = None,
    checkpoint_every: Annotated[int, "Epochs between checkpoints; a stopped run resumes from the last."] = 5,
    data_dir: Annotated[Path | None, "The folder with mnist and cifar10."] = None,
    out: Annotated[Path, "The folder in which to write relu-vs-sigmoid/<dataset>/."] = Path("runs"),
    export: Annotated[
        Path | None, "A folder in which to write the trained networks as safetensors, each with its settings as JSON."
    ] = None,
    device: Annotated[str, "The torch device to train on."] = "cpu",
    scheduler: Annotated[
        str | None,
        "The address of a dask cluster's scheduler: each worker trains the networks of one shape. Workers need --out "
        "and the data under the same paths.",
    ] = None,
    progress: Progress = silent,
) -> Outcome:
    """Train ReLU and sigmoid networks, record what every node does for every class, and compare with the paper.

    Writes results, activations, metrics, figures, tables, claims and report.html under OUT/relu-vs-sigmoid/DATASET.
    A run that is started again resumes from what is finished, and within a training from its last checkpoint. Start
    the workers of a `scheduler` with one thread each, and one GPU each if there are GPUs. A CPU computes with one
    thread where no network is wider than 256 nodes, unless OMP_NUM_THREADS says otherwise.
    """
    if checkpoint_every < 1:
        raise DataError(f"checkpoint_every is {checkpoint_every}; it takes whole numbers from 1.")
    given = {
        "source": dataset,
        "profile": profile,
        "activations": activations,
        "depths": depths,
        "widths": widths,
        "seeds": seeds,
        "epochs": epochs,
        "patience": patience,
        "fit_first": fit_first,
        "fit": fit,
        "batch_size": batch_size,
        "weights_of": weights_of,
        "learning_rate": None if learning_rate is None else rates(learning_rate),
        "search_epochs": search_epochs,
        "search_seeds": search_seeds,
        "precision": precision,
    }
    if export is not None:
        zoo.safetensors()  # before any training
    if merge is not None or decide is not None:
        others = (config, export, *given.values())
        if bool(merge) == bool(decide) or any(value is not None for value in others):
            raise DataError("--merge and --decide take all from the runs: give one of them, and --merge with --out.")
        return _merged(merge, out / "relu-vs-sigmoid") if merge else _decided(decide or ())
    settings = resolve(given, config)
    split = split_of(settings, data_dir, device)
    folder = out / "relu-vs-sigmoid" / settings.dataset
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder), few_threads(settings, device):
        settings.write(folder / "config.json")
        jobs = Jobs(settings, split, folder, checkpoint_every, progress)
        done = study(jobs, settings.shapes if scheduler is None else on_cluster(scheduler, jobs, data_dir, device))
        if export is not None:
            zoo.export(jobs, export)
        return _outcome(done, split, folder)


def _outcome(done: Study, split: Split, folder: Path) -> Outcome:
    """Draw, tabulate and judge a study, and write it all to the run's folder."""
    drawn = figures.draw(figures.figures_of(done), [done], folder / "figures")
    made = tables.tables_of(done)
    made.write(folder / "tables")
    records = done.records
    assert records.layers is not None  # a study measures its nodes
    records.layers.to_csv(folder / "layers.csv", index=False)
    found = claims.claims(records)
    claims.write(found, folder / "claims.json")
    page = report.run_page(done, split, drawn, made, found)
    accuracy = made.accuracy.map(lambda cell: f"{cell:.2f}" if isinstance(cell, float) else cell)
    return Outcome(
        report=page.write(folder / "report.html"),
        tables={TABLE_1: tables.printed(made.sparsity), "Accuracy, %": accuracy},
    )


def _decided(folders: Sequence[Path]) -> Outcome:
    """Write the claims of runs anew, from the tables in their folders."""
    found = {folder: claims.claims(Records.read(folder)) for folder in folders}
    for folder, decided in found.items():
        claims.write(decided, folder / "claims.json")
    told = {str(folder): tables.claims_table(decided).drop(columns="criterion") for folder, decided in found.items()}
    return Outcome(report=folders[-1] / "claims.json", tables=told)


def _merged(folders: Sequence[Path], out: Path) -> Outcome:
    """Figures 2 and 7, Table 1 and the claims over finished runs on different data sets, in ``out/<data sets>``."""
    names = [settings_of(folder).dataset for folder in folders]
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"A merge takes runs on two or more different data sets; these are on {', '.join(names)}.")
    studies = [Study.read(folder) for folder in folders]
    folder = out / "+".join(names)
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    drawn = figures.draw(figures.OF_MERGED, studies, folder / "figures")
    sparsity = tables.sparsity_table(*studies)
    sparsity.to_csv(folder / "tables" / "table1.csv", index=False)
    pd.concat([each.results for each in studies], ignore_index=True).to_csv(folder / "results.csv", index=False)
    decided = {name: claims.claims(each.records) for name, each in zip(names, studies, strict=True)}
    found = claims.together(decided)
    claims.write(found, folder / "claims.json")
    page = report.merged_page(studies, drawn, sparsity, decided, found)
    return Outcome(report=page.write(folder / "report.html"), tables={TABLE_1: tables.printed(sparsity)})
