"""Table 1: the sparsity of each layer of the ReLU networks, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from .measuring import STATES
from .study import Study

__all__ = ["PAPER", "arranged", "printed", "sparsity_table"]

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


def sparsity_table(*studies: Study) -> pd.DataFrame:
    """A row a layer, network and state: percent of inactive samples, mean and standard error over the seeds.

    `paper` is the paper's value for the same layer and `paper_dataset` the data set that it is of: MNIST where the
    run's own is none of the paper's. Values are missing for layers that the paper's networks don't have.
    """
    return pd.DataFrame([row for study in studies for row in _rows(study)])


def _rows(study: Study) -> Iterator[dict[str, object]]:
    dataset = study.settings.dataset
    paper_dataset = dataset if dataset in PAPER else "mnist"
    for batch_norm in (False, True):
        for state in STATES:
            trees = study.trees(study.of("relu", batch_norm), state)
            paper = PAPER[paper_dataset][batch_norm, state]
            for index, layer in enumerate(trees[0].children):
                values = pd.Series([100 * float(tree[layer]["sparsity_site"]) for tree in trees])
                theirs = paper[index] if index < len(paper) else np.nan
                yield {
                    "dataset": dataset,
                    "layer": index + 1,
                    "network": "ReLU BN" if batch_norm else "ReLU",
                    "state": state,
                    "inactive": values.mean(),
                    "standard_error": values.sem(),
                    "paper": theirs,
                    "difference": values.mean() - theirs,
                    "paper_dataset": paper_dataset,
                }


def arranged(table: pd.DataFrame) -> pd.DataFrame:
    """The table as the paper has it, a row a layer: ours ± standard error, the paper's value, and ours less theirs."""
    cells = [
        f"{ours:.1f}" + ("" if pd.isna(error) else f" ± {error:.1f}")
        for ours, error in zip(table.inactive, table.standard_error, strict=True)
    ]
    columns = table.network + ", " + table.state
    parts = table.assign(ours=cells, column=columns, difference=table.difference.round(1))
    wide = parts.pivot(index=["dataset", "layer"], columns="column", values=["ours", "paper", "difference"])
    order = [(name, part) for name in columns.unique() for part in ("ours", "paper", "difference")]
    arranged = wide.swaplevel(axis=1)[order]
    arranged.columns.names = [None, None]
    return arranged


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """The table for a terminal: a row a layer, the paper's values in brackets."""
    wide = arranged(table)
    names = list(dict.fromkeys(wide.columns.get_level_values(0)))
    cells = {
        name: wide[name].ours + wide[name].paper.map(lambda value: "" if pd.isna(value) else f" ({value:.2f})")
        for name in names
    }
    return pd.DataFrame(cells).reset_index()
