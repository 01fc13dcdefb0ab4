"""ReLU against sigmoid networks, node by node: Pretorius, Barnard & Davel (2019), figures 1-7, Table 1, the claims."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from filelock import FileLock, Timeout

from probekit.errors import DataError, StoreError
from probekit.progress import Progress, silent
from probekit.report import Outcome

from . import claims, figures, merging, odd, page, table
from .beyond import BEYOND
from .cluster import on_cluster
from .data import Split
from .jobs import Jobs
from .settings import resolve
from .splitting import split_of
from .study import Study, study

__all__ = ["run"]


def run(
    *,
    dataset: Annotated[
        str | None, "digits (the default), mnist, cifar10, or a file.npz with x_train, y_train, x_test, y_test."
    ] = None,
    profile: Annotated[
        str | None,
        "quick (2 and 4 layers of 200, 30 epochs), section3 (the paper's 4x200, 300 epochs; the default on mnist and "
        "cifar10) or paper (all its depths and widths); each option below overrides its part.",
    ] = None,
    config: Annotated[Path | None, "A config.json that another run left; options override it."] = None,
    merge: Annotated[
        tuple[Path, ...] | None,
        "Folders of finished runs on different data sets, OUT/relu-vs-sigmoid/DATASET, to draw together; nothing else "
        "is run.",
    ] = None,
    activations: Annotated[
        tuple[str, ...] | None, "relu and sigmoid; tanh, gelu and silu beside them where wanted."
    ] = None,
    depths: Annotated[tuple[int, ...] | None, "Numbers of hidden layers."] = None,
    widths: Annotated[tuple[int, ...] | None, "Numbers of nodes in a hidden layer."] = None,
    seeds: Annotated[
        int | None, "Networks of each kind, which differ in initial weights and order of the samples."
    ] = None,
    epochs: Annotated[int | None, "Epochs; the weights that validate best are kept."] = None,
    patience: Annotated[
        int | None, "A network is done when it hasn't validated better for so many epochs; 0 runs all."
    ] = None,
    batch_size: Annotated[int | None, "Samples a batch."] = None,
    learning_rate: Annotated[float | None, "For all networks, in place of a search or what suits digits."] = None,
    search_epochs: Annotated[
        int | None, "Epochs of each network in the learning-rate search; 0 takes the rates that suit digits."
    ] = None,
    precision: Annotated[
        str | None,
        "How training multiplies matrices: float32 (the default), tf32 on CUDA devices, or bfloat16; weights, Adam and "
        "what is measured stay float32.",
    ] = None,
    checkpoint_every: Annotated[int, "Epochs between checkpoints; a stopped run goes on from the last."] = 5,
    data_dir: Annotated[Path | None, "Where mnist and cifar10 lie."] = None,
    out: Annotated[Path, "The folder that gets relu-vs-sigmoid/<dataset>/."] = Path("runs"),
    device: Annotated[str, "Where to train."] = "cpu",
    scheduler: Annotated[
        str | None,
        "The address of a dask cluster's scheduler: its workers train a shape of networks each. They need --out and "
        "the data under the same paths.",
    ] = None,
    progress: Progress = silent,
) -> Outcome:
    """Train ReLU and sigmoid networks, record what every node does for every class, and compare with the paper.

    Writes results, activations, metrics, figures, the table, the claims and report.html under
    OUT/relu-vs-sigmoid/DATASET. Started again it goes on from what is finished, and within a training from its last
    checkpoint. The workers of a `scheduler` are best started with one thread and one GPU each.
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
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "search_epochs": search_epochs,
        "precision": precision,
    }
    if merge is not None:
        if config is not None or any(value is not None for value in given.values()):
            raise DataError("A merge takes its settings from the runs: give --merge with --out alone.")
        return merging.merge(merge, out / "relu-vs-sigmoid")
    settings = resolve(given, config)
    split = split_of(settings, data_dir, device)
    folder = out / "relu-vs-sigmoid" / settings.dataset
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder):
        settings.write(folder / "config.json")
        jobs = Jobs(settings, split, folder, checkpoint_every, progress)
        done = study(jobs, settings.shapes if scheduler is None else on_cluster(scheduler, jobs, data_dir, device))
        return _outcome(done, split, folder)


def _outcome(done: Study, split: Split, folder: Path) -> Outcome:
    """Draw what was measured, judge it, and write it all down."""
    wanted = {**figures.FIGURES, **BEYOND}
    if done.searched is not None:
        wanted["sparsity_by_rate"] = odd.sparsity_by_rate
    drawn = figures.draw(wanted, [done], folder / "figures")
    tables = page.Tables(table.sparsity_table(done), odd.odd_points(done))
    (folder / "tables").mkdir(exist_ok=True)
    tables.sparsity.to_csv(folder / "tables" / "table1.csv", index=False)
    tables.odd.to_csv(folder / "tables" / "odd_points.csv", index=False)
    found = claims.claims(done)
    claims.write(found, folder / "claims.json")
    return Outcome(
        report=page.report(done, split, drawn, tables, found, folder),
        tables={
            "Table 1: % inactive ± standard error (the paper's)": table.printed(tables.sparsity),
            "Accuracy, %": page.accuracy_table(done).map(
                lambda cell: f"{cell:.2f}" if isinstance(cell, float) else cell
            ),
        },
    )


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the folder of a run; the system lets go of it when the process dies.

    Raises:
        StoreError: another process holds it.
    """
    try:
        lock = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout as error:
        raise StoreError(
            f"Another process is at this run, in {folder}. Wait for it or stop it; a run that is started again goes on "
            "from what is finished. To run two at once, give each an --out of its own."
        ) from error
    with lock:
        yield
