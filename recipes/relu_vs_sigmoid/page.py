"""The report of a run."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from probekit.report import Page

from .beyond import BEYOND
from .claims import Claim
from .data import Split
from .figures import Drawn
from .settings import COMMON, PROFILES
from .study import Study
from .table import PAPER, arranged

__all__ = [
    "BADGES",
    "CLAIMS",
    "LEDE",
    "Tables",
    "accuracy_table",
    "claims_frame",
    "counted",
    "report",
    "sparsity_section",
]

BADGES = {"held": "good", "not held": "bad", "not testable": "neutral"}
LEDE = (
    "Pretorius, Barnard and Davel (2019), «ReLU and sigmoidal activation functions», asked how class information "
    "travels through networks that differ in their activation alone. This run trains such networks, records what "
    "every hidden node does for every training sample, and puts its numbers beside theirs."
)


CLAIMS = (
    "Each claim of the paper with the criterion that decides it here. Claims about other data or other networks than "
    "this run's are not testable; neither are those about trained networks that fit their training set below 95 % in "
    "the last epoch."
)
ODD = (
    "The paper says that mean and median of a ReLU's activations are «almost identical», which they can't be where "
    "more than half of a class's activations are 0: the share of (node, class) medians that are exactly 0, and how far "
    "the mean lies above the median, in standard deviations within a class. With He initialisation and biases of 0, "
    "half of the activations are inactive before training by symmetry: how many standard errors ours are from it. And "
    "what a trained network's sparsity is depends on its learning rate."
)


@dataclass(frozen=True)
class Tables:
    """The tables of a run: the paper's Table 1, and where the paper is odd."""

    sparsity: pd.DataFrame
    odd: pd.DataFrame


def accuracy_table(study: Study) -> pd.DataFrame:
    """A row a kind of network: mean accuracies over the seeds, in percent, and the test accuracy's standard error."""
    keys = ["activation", "depth", "width", "batch_norm"]
    grouped = study.results.groupby(keys)
    means = 100 * grouped[["train_accuracy", "validation_accuracy", "test_accuracy"]].mean()
    means["standard error"] = 100 * grouped["test_accuracy"].sem()
    table = means.rename(columns=lambda name: name.removesuffix("_accuracy")).round(2).reset_index()
    table["batch_norm"] = table["batch_norm"].map({False: "no", True: "yes"})
    return table.rename(columns={"batch_norm": "batch norm"})


def report(
    study: Study, split: Split, figures: Mapping[str, Drawn], tables: Tables, found: Sequence[Claim], folder: Path
) -> Path:
    """Write ``report.html`` and return its path."""
    settings = study.settings
    page = Page(f"ReLU and sigmoid networks on {settings.dataset}", LEDE)
    page.numbers(
        {
            "networks trained": len(study.results),
            "best test accuracy": f"{study.results.test_accuracy.max():.1%}",
            "claims held": counted(found),
        }
    )
    page.text(_course(study))
    page.heading("The claims").text(CLAIMS)
    page.table(claims_frame(found), "The paper's claims on this run.", badges=BADGES, formats=".3g")
    page.heading("Training and accuracy")
    _show(page, figures, "fig1", "fig2")
    page.table(
        accuracy_table(study),
        "Accuracy in percent, mean over the seeds, at the weights that validated best.",
        formats=".2f",
    )
    page.heading("What the nodes do")
    _show(page, figures, "fig3", "fig4", "fig5", "fig6", "fig7")
    page.heading("How much the classes overlap").text(
        "The paper's conclusion rests on how far classes overlap at a node, a quantity it never gives a number. Here "
        "it is, beside what shuffled labels would give: only what lies below the dashed line is separation. Below it, "
        "how well a single node tells one class from the rest."
    )
    _show(page, figures, "overlap", "auroc")
    sparsity_section(page, tables.sparsity, [study])
    page.heading("Where the paper is odd").text(ODD)
    page.table(tables.odd, "ReLU networks by layer, means over the seeds.", formats=".2f")
    _show(page, figures, "sparsity_by_rate")
    page.heading("Beyond the paper").text(
        "The same networks with what the paper lacked. If gradients that vanish were what holds sigmoid networks back, "
        "trained networks would show it too."
    )
    _show(page, figures, *BEYOND)
    page.heading("Settings and reproduction")
    page.table(_settings_frame(study, split), "What the run was.")
    page.code(command(study))
    return page.write(folder / "report.html")


def sparsity_section(page: Page, table: pd.DataFrame, studies: Sequence[Study]) -> None:
    """Table 1 and what stands above it."""
    page.heading("Sparsity, the paper's Table 1").text(
        "Percent of samples for which a node is inactive (an activation of 0 or below), averaged over the nodes of a "
        f"layer; mean and standard error over {studies[0].settings.seeds} seeds. The difference is ours less the "
        "paper's."
    )
    if any(study.settings.dataset not in PAPER for study in studies):
        page.text("The paper has no numbers for these data: its values for MNIST stand beside ours for orientation.")
    cells = arranged(table)
    formats: dict[Hashable, str] = {column: ".2f" if column[1] == "paper" else ".1f" for column in cells.columns}
    page.table(cells, "Percent inactive ± standard error, and the paper's value.", formats=formats)


def _show(page: Page, figures: Mapping[str, Drawn], *names: str) -> None:
    """The figures of these names that were drawn."""
    for name in names:
        if name in figures:
            page.figure(figures[name].path, figures[name].caption)


def _course(study: Study) -> str:
    """How far the training went, and that the paper's went further where it did."""
    settings, epochs = study.settings, study.results.epochs
    went = f"{epochs.min()} to {epochs.max()}" if epochs.min() < epochs.max() else f"{epochs.max()}"
    text = f"The networks trained for {went} epochs"
    if settings.patience:
        text += (
            f", of {settings.epochs} at most: one that hasn't validated better for {settings.patience} epochs is done"
        )
    text += "." if epochs.max() >= 300 else "; the paper's trained for 300."
    if study.searched is not None:
        text += f" The learning-rate search trained each network for {study.searched.epochs.max()} epochs."
    return text


def counted(found: Sequence[Claim]) -> str:
    """How many claims held, of how many."""
    testable = [claim for claim in found if claim.status != "not_testable"]
    return f"{sum(claim.status == 'held' for claim in testable)} of {len(testable)} testable here"


def claims_frame(found: Sequence[Claim]) -> pd.DataFrame:
    """A row a claim."""
    rows = [
        {
            "": claim.id,
            "claim": claim.text,
            "here": claim.status.replace("_", " "),
            "effect": claim.effect,
            "standard error": claim.standard_error,
            "criterion": claim.numbers.get("reason", claim.criterion),
        }
        for claim in found
    ]
    return pd.DataFrame(rows)


def _settings_frame(study: Study, split: Split) -> pd.DataFrame:
    given = {name: value for name, value in asdict(study.settings).items() if value is not None}
    given |= {
        "training / validation / test samples": " / ".join(str(len(part)) for part in split.parts),
        "features": split.features,
        "learning rates": ", ".join(f"{rate:g} ({kinds})" for rate, kinds in _rates(study).items()),
        "networks in figures 3–7": ", ".join(study.shown.values()),
    }
    shown = {name: ", ".join(map(str, v)) if isinstance(v, tuple) else v for name, v in given.items()}
    return pd.DataFrame(
        {"setting": [name.replace("_", " ") for name in shown], "value": [str(v) for v in shown.values()]}
    )


def _rates(study: Study) -> dict[float, str]:
    """The kinds of networks that were trained at each learning rate."""
    rates: dict[float, list[str]] = {}
    kinds = study.results[["learning_rate", "batch_norm", "activation"]].drop_duplicates()
    for rate, norm, activation in kinds.sort_values("learning_rate").to_numpy().tolist():
        rates.setdefault(rate, []).append(f"{activation}{' with batch norm' if norm else ''}")
    return {rate: ", ".join(kinds) for rate, kinds in rates.items()}


def command(study: Study) -> str:
    """The command that repeats the run."""
    settings = asdict(study.settings)
    usual = {**COMMON, **PROFILES[study.settings.profile]}
    given = {"dataset": settings["source"], "profile": settings["profile"]}
    given |= {name: settings[name] for name in usual if settings[name] != usual[name]}
    options = [
        f"--{name.replace('_', '-')} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in given.items()
    ]
    return f"probekit run relu-vs-sigmoid {' '.join(options)}"
