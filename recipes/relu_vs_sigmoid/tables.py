"""The tables of a study: accuracy, the paper's Table 1, where the paper is odd, the claims and the settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .claims import Claim
from .data import Split
from .records import STATES
from .study import Study

__all__ = [
    "PAPER",
    "Tables",
    "arranged",
    "claims_table",
    "merged_claims_table",
    "printed",
    "settings_table",
    "sparsity_table",
    "tables_of",
]

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


@dataclass(frozen=True)
class Tables:
    """The tables of a run that figures and report show: accuracy, the paper's Table 1, and where the paper is odd."""

    accuracy: pd.DataFrame
    sparsity: pd.DataFrame
    odd: pd.DataFrame

    def write(self, folder: Path) -> None:
        """Write Table 1 and the odd points as CSV."""
        folder.mkdir(exist_ok=True)
        self.sparsity.to_csv(folder / "table1.csv", index=False)
        self.odd.to_csv(folder / "odd_points.csv", index=False)


def tables_of(study: Study) -> Tables:
    """The tables of a run."""
    return Tables(_accuracy(study), sparsity_table(study), _odd_points(study))


def _accuracy(study: Study) -> pd.DataFrame:
    """A row for each kind of network: mean accuracies over seeds in percent, and the test accuracy's standard error."""
    keys = ["activation", "depth", "width", "batch_norm"]
    grouped = study.results.groupby(keys)
    means = 100 * grouped[["train_accuracy", "validation_accuracy", "test_accuracy"]].mean()
    means["standard error"] = 100 * grouped["test_accuracy"].sem()
    table = means.rename(columns=lambda name: name.removesuffix("_accuracy")).round(2).reset_index()
    table["batch_norm"] = table["batch_norm"].map({False: "no", True: "yes"})
    return table.rename(columns={"batch_norm": "batch norm"})


def sparsity_table(*studies: Study) -> pd.DataFrame:
    """A row for each layer, network and state: percent of inactive samples, mean and standard error over seeds.

    `paper` is the paper's value for the same layer on `paper_dataset`, which is MNIST if the paper doesn't have the
    run's data set. Values are missing for layers that the paper's networks don't have.
    """
    return pd.DataFrame([row for study in studies for row in _sparsity_rows(study)])


def _sparsity_rows(study: Study) -> Iterator[dict[str, object]]:
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
    """Table 1 as in the paper, a row for each layer: ours ± standard error, the paper's value, and the difference."""
    cells = [
        f"{ours:.1f}" + ("" if pd.isna(error) else f" ± {error:.1f}")
        for ours, error in zip(table.inactive, table.standard_error, strict=True)
    ]
    columns = table.network + ", " + table.state
    values = ["ours", "paper", "difference"]
    long = table.assign(ours=cells, column=columns, difference=table.difference.round(1))
    wide = long.pivot(index=["dataset", "layer"], columns="column", values=values)
    order = [(name, value) for name in columns.unique() for value in values]
    arranged = wide.swaplevel(axis=1)[order]
    arranged.columns.names = [None, None]
    return arranged


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """Table 1 for a terminal: a row for each layer, the paper's values in brackets."""
    wide = arranged(table)
    names = list(dict.fromkeys(wide.columns.get_level_values(0)))
    cells = {
        name: wide[name].ours + wide[name].paper.map(lambda value: "" if pd.isna(value) else f" ({value:.2f})")
        for name in names
    }
    return pd.DataFrame(cells).reset_index()


def _odd_points(study: Study) -> pd.DataFrame:
    """A row for each layer of the ReLU networks: quantities that contradict the paper.

    `zero_medians`: percent of (node, class) medians that are exactly 0. `mean_above_median`: the mean difference of
    mean and median within a class, in units of the mean standard deviation within a class; 0 if they are «almost
    identical». `inactive` and its `standard_error` over seeds: percent. `errors_from_half`, for untrained networks:
    (inactive - 50) / standard error, since 50 % are expected by symmetry.
    """
    rows = []
    for norm in (False, True):
        for state in STATES:
            trees = study.trees(study.of("relu", norm), state)
            for index, layer in enumerate(trees[0].children):
                sites = [tree[layer].to_dataset() for tree in trees]
                inactive = pd.Series([100 * float(site["sparsity_site"]) for site in sites])
                gaps = [float((site["mean"] - site["median"]).mean() / site["std"].mean()) for site in sites]
                error = float(inactive.std() / np.sqrt(len(inactive)))
                rows.append(
                    {
                        "layer": index + 1,
                        "network": "ReLU BN" if norm else "ReLU",
                        "state": state,
                        "zero_medians": 100 * float(np.mean([(site["median"] == 0).mean() for site in sites])),
                        "mean_above_median": float(np.mean(gaps)),
                        "inactive": inactive.mean(),
                        "standard_error": error,
                        "errors_from_half": (inactive.mean() - 50) / error if state == "untrained" else np.nan,
                    }
                )
    return pd.DataFrame(rows)


def claims_table(found: Sequence[Claim]) -> pd.DataFrame:
    """A row for each claim."""
    rows = [
        {
            "": claim.id,
            "claim": claim.text,
            "here": _status(claim),
            "effect": claim.effect,
            "95 % interval": "" if claim.interval is None else " to ".join(f"{end:.3g}" for end in claim.interval),
            "criterion": claim.numbers.get("reason", claim.criterion),
        }
        for claim in found
    ]
    return pd.DataFrame(rows)


def merged_claims_table(found: Sequence[Claim], decided: Mapping[str, Sequence[Claim]]) -> pd.DataFrame:
    """A row for each claim over all data sets, with a column for each data set on which it was `decided`."""
    table = claims_table(found).rename(columns={"here": "over all"})
    for name, own in decided.items():
        table.insert(3, name, [_status(claim) for claim in own])
    return table


def _status(claim: Claim) -> str:
    return claim.status.replace("_", " ")


def settings_table(study: Study, split: Split) -> pd.DataFrame:
    """A row for each setting of a run, and for what follows from them."""
    given = {name: value for name, value in asdict(study.settings).items() if value is not None}
    given |= {
        "training / validation / test samples": " / ".join(str(len(samples)) for samples in split.subsets),
        "features": split.features,
        "learning rates": ", ".join(f"{rate:g} ({kinds})" for rate, kinds in _rates(study).items()),
        "networks in figures 3–7": ", ".join(study.shown.values()),
    }
    shown = {name: ", ".join(map(str, v)) if isinstance(v, tuple) else v for name, v in given.items()}
    return pd.DataFrame(
        {"setting": [name.replace("_", " ") for name in shown], "value": [str(v) for v in shown.values()]}
    )


def _rates(study: Study) -> dict[float, str]:
    """The kinds of networks trained at each learning rate."""
    rates: dict[float, list[str]] = {}
    kinds = study.results[["learning_rate", "batch_norm", "activation"]].drop_duplicates()
    for rate, norm, activation in kinds.sort_values("learning_rate").to_numpy().tolist():
        rates.setdefault(rate, []).append(f"{activation}{' with batch norm' if norm else ''}")
    return {rate: ", ".join(kinds) for rate, kinds in rates.items()}
