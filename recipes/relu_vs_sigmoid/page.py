"""The report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from probekit.report import Page

from .claims import Claim
from .figures import Drawn
from .study import Study
from .table import PAPER, arranged

__all__ = ["accuracy_table", "report"]

BADGES = {"held": "good", "not held": "bad", "not testable": "neutral"}
LEDE = (
    "Pretorius, Barnard and Davel (2019), «ReLU and sigmoidal activation functions», asked how class information "
    "travels through networks that differ in their activation alone. This run trains such networks, records what "
    "every hidden node does for every training sample, and puts its numbers beside theirs."
)


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
    study: Study, figures: Mapping[str, Drawn], table: pd.DataFrame, found: Sequence[Claim], folder: Path
) -> Path:
    """Write ``report.html`` and return its path."""
    settings = study.settings
    page = Page(f"ReLU and sigmoid networks on {settings.dataset}", LEDE)
    counts = pd.Series([claim.status for claim in found]).value_counts()
    page.numbers(
        {
            "networks trained": len(study.results),
            "best test accuracy": f"{study.results.test_accuracy.max():.1%}",
            "claims held": f"{counts.get('held', 0)} of {len(found) - counts.get('not_testable', 0)} testable here",
        }
    )
    page.heading("The claims").text(
        "Each claim of the paper with the criterion that decides it here. Claims about other data or other networks "
        "than this run's are not testable; neither are those whose networks fit their training set below 95 %."
    )
    page.table(_claims_frame(found), "The paper's claims on this run.", badges=BADGES, formats=".3g")
    page.heading("Training and accuracy")
    for name in ("fig1", "fig2"):
        page.figure(figures[name].path, figures[name].caption)
    page.table(
        accuracy_table(study),
        "Accuracy in percent, mean over the seeds, at the weights that validated best.",
        formats=".2f",
    )
    page.heading("What the nodes do")
    for name in ("fig3", "fig4", "fig5", "fig6", "fig7"):
        page.figure(figures[name].path, figures[name].caption)
    page.heading("How much the classes overlap").text(
        "The paper's conclusion rests on how far classes overlap at a node, a quantity it never gives a number. Here "
        "it is, beside what shuffled labels would give: only what lies below the dashed line is separation."
    )
    page.figure(figures["overlap"].path, figures["overlap"].caption)
    page.heading("Sparsity, the paper's Table 1").text(
        "Percent of samples for which a node is inactive (an activation of 0 or below), averaged over the nodes of a "
        f"layer; mean and standard error over {settings.seeds} seeds."
    )
    if settings.dataset not in PAPER:
        page.text("The paper has no numbers for these data: its values for MNIST stand beside ours for orientation.")
    page.table(arranged(table), "Percent inactive ± standard error, and the paper's value in brackets.")
    page.heading("Settings and reproduction")
    page.table(_settings_frame(study), "What the run was.")
    page.code(command(study))
    return page.write(folder / "report.html")


def _claims_frame(found: Sequence[Claim]) -> pd.DataFrame:
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


def _settings_frame(study: Study) -> pd.DataFrame:
    given = {name: value for name, value in asdict(study.settings).items() if value is not None}
    given |= {
        "training / validation / test samples": " / ".join(str(len(part)) for part in study.split.parts),
        "features": study.split.features,
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
    for member in study.settings.members:
        kind = f"{member.config.activation}{' with batch norm' if member.config.batch_norm else ''}"
        kinds = rates.setdefault(member.learning_rate, [])
        kinds += [kind] if kind not in kinds else []
    return {rate: ", ".join(kinds) for rate, kinds in rates.items()}


def command(study: Study) -> str:
    """The command that repeats the run."""
    given = asdict(study.settings)
    given = {"dataset": given.pop("source"), **given}
    fixed = ("decay", "split_seed")
    options = [
        f"--{name.replace('_', '-')} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in given.items()
        if value is not None and name not in fixed
    ]
    return f"probekit run relu-vs-sigmoid {' '.join(options)}"
