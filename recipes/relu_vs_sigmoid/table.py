"""Table 1: the sparsity of each layer of the ReLU networks, beside the paper's numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .study import STATES, Study

__all__ = ["PAPER", "arranged", "sparsity_table"]

# Table 1 of Pretorius et al. (2019), percent inactive in layers 1 to 4, by (batch norm, state).
PAPER = {
    "mnist": {
        (False, "untrained"): (49.22, 48.85, 48.45, 48.74),
        (False, "trained"): (80.40, 79.33, 81.93, 81.90),
        (True, "untrained"): (49.08, 49.70, 49.81, 49.15),
        (True, "trained"): (65.76, 56.67, 68.77, 69.12),
    },
    "cifar10": {
        (False, "untrained"): (51.07, 50.96, 50.73, 50.85),
        (False, "trained"): (77.56, 76.55, 77.54, 77.14),
        (True, "untrained"): (51.06, 50.75, 50.95, 50.81),
        (True, "trained"): (58.53, 59.41, 57.43, 57.37),
    },
}


def sparsity_table(study: Study) -> pd.DataFrame:
    """A row a layer, network and state: percent of inactive samples, mean and standard error over the seeds.

    `paper` is the paper's value for the same layer and `paper_dataset` the data set that it is of: MNIST where the
    run's own is none of the paper's. Values are missing for layers that the paper's networks don't have.
    """
    paper_dataset = study.settings.dataset if study.settings.dataset in PAPER else "mnist"
    rows = []
    for batch_norm in (False, True):
        for state in STATES:
            trees = study.trees(study.of("relu", batch_norm), state)
            paper = PAPER[paper_dataset][batch_norm, state]
            for index, layer in enumerate(trees[0].children):
                values = pd.Series([100 * float(tree[layer]["sparsity_site"]) for tree in trees])
                theirs = paper[index] if index < len(paper) else np.nan
                rows.append(
                    {
                        "layer": index + 1,
                        "network": "ReLU BN" if batch_norm else "ReLU",
                        "state": state,
                        "inactive": values.mean(),
                        "standard_error": values.sem(),
                        "paper": theirs,
                        "difference": values.mean() - theirs,
                        "paper_dataset": paper_dataset,
                    }
                )
    return pd.DataFrame(rows)


def arranged(table: pd.DataFrame) -> pd.DataFrame:
    """The table as the paper has it, a row a layer: ours ± standard error, and the paper's value in brackets."""
    cells = [
        f"{ours:.1f}" + ("" if pd.isna(error) else f" ± {error:.1f}") + ("" if pd.isna(paper) else f" ({paper:.1f})")
        for ours, error, paper in zip(table.inactive, table.standard_error, table.paper, strict=True)
    ]
    columns = table.network + ", " + table.state
    wide = table.assign(cell=cells, column=columns).pivot(index="layer", columns="column", values="cell")
    return wide[columns.unique()].reset_index().rename_axis(columns=None)
