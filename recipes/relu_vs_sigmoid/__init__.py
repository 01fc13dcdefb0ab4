"""ReLU against sigmoid networks, node by node: Pretorius, Barnard & Davel (2019), figures 1-7, Table 1, the claims."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch

from probekit import load
from probekit.progress import Progress, silent
from probekit.report import Outcome

from . import claims, figures, page, table
from .data import Split, split_arrays
from .settings import Settings
from .study import study

__all__ = ["run"]


def run(
    *,
    dataset: Annotated[str, "digits, mnist, cifar10, or a file.npz with x_train, y_train, x_test, y_test."] = "digits",
    depths: Annotated[tuple[int, ...], "Numbers of hidden layers."] = (2, 4),
    widths: Annotated[tuple[int, ...], "Numbers of nodes in a hidden layer."] = (200,),
    seeds: Annotated[int, "Networks of each kind, which differ in initial weights and order of the samples."] = 3,
    epochs: Annotated[int, "Epochs, all of which run; the weights that validate best are kept."] = 30,
    batch_size: Annotated[int, "Samples a batch."] = 32,
    learning_rate: Annotated[float | None, "For all networks; by default one that suits each kind."] = None,
    data_dir: Annotated[Path | None, "Where mnist and cifar10 lie."] = None,
    out: Annotated[Path, "The folder that gets relu-vs-sigmoid/<dataset>/."] = Path("runs"),
    device: Annotated[str, "Where to train."] = "cpu",
    progress: Progress = silent,
) -> Outcome:
    """Train ReLU and sigmoid networks, record what every node does for every class, and compare with the paper.

    Writes results, activations, metrics, figures, the table, the claims and report.html under
    OUT/relu-vs-sigmoid/DATASET. Started again it goes on from what is finished.
    """
    settings = Settings(
        source=dataset,
        depths=depths,
        widths=widths,
        seeds=seeds,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        decay=0.99,
        split_seed=0,
    )
    split = _split(dataset, data_dir, settings).to(torch.device(device))
    folder = out / "relu-vs-sigmoid" / settings.dataset
    folder.mkdir(parents=True, exist_ok=True)
    settings.write(folder / "config.json")
    done = study(settings, split, folder, progress)
    drawn = figures.draw(done, folder / "figures")
    sparsity = table.sparsity_table(done)
    (folder / "tables").mkdir(exist_ok=True)
    sparsity.to_csv(folder / "tables" / "table1.csv", index=False)
    found = claims.claims(done)
    claims.write(found, folder / "claims.json")
    return Outcome(
        report=page.report(done, drawn, sparsity, found, folder),
        tables={
            "Table 1: % inactive ± standard error (the paper's)": table.arranged(sparsity),
            "Accuracy, %": page.accuracy_table(done),
        },
    )


def _split(dataset: str, data_dir: Path | None, settings: Settings) -> Split:
    arrays = load.arrays(dataset, data_dir)
    # The paper's 5,000 validation samples where they are a small part, as in MNIST and CIFAR10.
    validation = 5000 if len(arrays.y_train) >= 20_000 else 0.15
    return split_arrays(
        arrays.x_train,
        arrays.y_train,
        arrays.class_names,
        x_test=arrays.x_test,
        y_test=arrays.y_test,
        validation_size=validation,
        seed=settings.split_seed,
    )
