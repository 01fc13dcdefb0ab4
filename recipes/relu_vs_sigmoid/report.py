"""The reports: the page of one run, and the page of finished runs merged."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict

import pandas as pd

from probekit.report import Page

from .claims import Claim
from .data import Split
from .figures import Drawn
from .settings import COMMON, PROFILES, WEIGHTS
from .study import Study
from .tables import PAPER, Tables, arranged, claims_table, merged_claims_table, settings_table

__all__ = ["command", "merged_page", "run_page"]

BADGES = {"held": "good", "not held": "bad", "open": "neutral", "not testable": "neutral"}
LEDE = (
    "Pretorius, Barnard and Davel (2019), «ReLU and sigmoidal activation functions», asked how class information "
    "travels through networks that differ only in their activation. This run trains such networks, records what every "
    "hidden node does for every training sample, and compares its numbers with theirs."
)
CLAIMS = (
    "The paper's claims, each with the criterion that decides it here. An effect has its 95 % interval by Student's t "
    "over the seeds. A claim held if the whole interval is as its criterion says; it was not held if none of it is, "
    "and else it is open. A claim about other data or other networks than this run's is not testable, nor is a claim "
    "about trained networks if they fit their training set below 95 %."
)
MERGED_CLAIMS = (
    "A claim about several data sets held if it held on each on which it could be tested. Effect and interval come "
    "from the first data set that decides it."
)
OVERLAP = (
    "The paper's conclusion rests on how far classes overlap at a node, which it doesn't measure. Here is the overlap, "
    "with the overlap that shuffled labels would give: only values below the dashed line are separation. The figure "
    "below shows how well a single node tells one class from the rest."
)
ODD = (
    "The paper says that mean and median of a ReLU's activations are «almost identical». They can't be if more than "
    "half of a class's activations are 0. The table gives the share of (node, class) medians that are exactly 0, and "
    "how far the mean lies above the median, in standard deviations within a class. With He initialisation and biases "
    "of 0, half of the activations are inactive before training by symmetry; the table gives the distance from half in "
    "standard errors. The sparsity of a trained network also depends on its learning rate."
)
BEYOND = (
    "The same networks, with metrics that the paper lacked. If vanishing gradients held sigmoid networks back, trained "
    "networks would show them, too."
)


def run_page(study: Study, split: Split, figures: Mapping[str, Drawn], tables: Tables, found: Sequence[Claim]) -> Page:
    """The page of a run."""
    page = Page(f"ReLU and sigmoid networks on {study.settings.dataset}", LEDE)
    page.numbers(
        {
            "networks trained": len(study.results),
            "best test accuracy": f"{study.results.test_accuracy.max():.1%}",
            "claims held": _counted(found),
        }
    )
    page.text(_course(study))
    page.heading("The claims").text(CLAIMS)
    page.table(claims_table(found), "The paper's claims on this run.", badges=BADGES, formats=".3g")
    page.heading("Training and accuracy")
    _show(page, figures, "fig1", "fig2")
    page.table(
        tables.accuracy,
        f"Accuracy in percent, mean over seeds, {WEIGHTS[study.settings.weights_of]}.",
        formats=".2f",
    )
    page.heading("What the nodes do")
    _show(page, figures, "fig3", "fig4", "fig5", "fig6", "fig7")
    page.heading("How much the classes overlap").text(OVERLAP)
    _show(page, figures, "overlap", "auroc")
    _add_sparsity(page, tables.sparsity, [study])
    page.heading("Where the paper is odd").text(ODD)
    page.table(tables.odd, "ReLU networks by layer, means over seeds.", formats=".2f")
    _show(page, figures, "sparsity_by_rate")
    page.heading("Beyond the paper").text(BEYOND)
    _show(page, figures, "gradient_norms", "selectivity", "linear_probes", "effective_ranks", "neural_collapse")
    page.heading("Settings and reproduction")
    page.table(settings_table(study, split), "The settings of this run.")
    return page.code(command(study))


def merged_page(
    studies: Sequence[Study],
    figures: Mapping[str, Drawn],
    sparsity: pd.DataFrame,
    decided: Mapping[str, Sequence[Claim]],
    found: Sequence[Claim],
) -> Page:
    """The page of finished runs on different data sets; `decided` has the claims on each and `found` those over all."""
    page = Page(f"ReLU and sigmoid networks on {' and '.join(decided)}", LEDE)
    trained = sum(len(study.results) for study in studies)
    page.numbers({"networks trained": trained, "claims held": _counted(found)})
    page.heading("The claims").text(CLAIMS).text(MERGED_CLAIMS)
    page.table(merged_claims_table(found, decided), "The paper's claims on these runs.", badges=BADGES, formats=".3g")
    page.heading("Accuracy")
    _show(page, figures, "fig2")
    page.heading("What the nodes do")
    _show(page, figures, "fig7")
    _add_sparsity(page, sparsity, studies)
    return page


def _course(study: Study) -> str:
    """How many epochs the networks trained for, compared with the paper's."""
    settings, epochs = study.settings, study.results.epochs
    span = f"{epochs.min()} to {epochs.max()}" if epochs.min() < epochs.max() else f"{epochs.max()}"
    text = f"The networks trained for {span} epochs"
    if settings.patience:
        text += (
            f", at most {settings.epochs}: training stops when validation hasn't improved for {settings.patience} "
            "epochs"
        )
        if settings.fit_before:
            text += f", counted from the first epoch with a training accuracy of {settings.fit:.0%}"
    text += "." if epochs.max() >= 300 else "; the paper's trained for 300."
    if study.searched is not None:
        text += f" The learning-rate search trained each network for {study.searched.epochs.max()} epochs."
    return text


def _counted(found: Sequence[Claim]) -> str:
    """How many claims held, and how many were testable."""
    testable = [claim for claim in found if claim.status != "not_testable"]
    return f"{sum(claim.status == 'held' for claim in testable)} of {len(testable)} testable here"


def _show(page: Page, figures: Mapping[str, Drawn], *names: str) -> None:
    """Add the figures of these names that were drawn."""
    for name in names:
        if name in figures:
            page.figure(figures[name].path, figures[name].caption)


def _add_sparsity(page: Page, table: pd.DataFrame, studies: Sequence[Study]) -> None:
    """Add Table 1 with an introduction."""
    page.heading("Sparsity, the paper's Table 1").text(
        "Percent of samples for which a node is inactive (an activation of 0 or below), averaged over the nodes of a "
        f"layer; mean and standard error over {studies[0].settings.seeds} seeds. The difference is ours minus the "
        "paper's."
    )
    if any(study.settings.dataset not in PAPER for study in studies):
        page.text("The paper has no numbers for these data; its values for MNIST are shown for orientation.")
    cells = arranged(table)
    formats: dict[Hashable, str] = {column: ".2f" if column[1] == "paper" else ".1f" for column in cells.columns}
    page.table(cells, "Percent inactive ± standard error, and the paper's value.", formats=formats)


def command(study: Study) -> str:
    """The command that repeats the run."""
    settings = asdict(study.settings)
    usual = {**COMMON, **PROFILES[study.settings.profile]}
    given = {"dataset": settings["source"], "profile": settings["profile"]}
    given |= {name: settings[name] for name in usual if settings[name] != usual[name]}
    options = [_option(name.replace("_", "-"), value) for name, value in given.items()]
    return f"probekit run relu-vs-sigmoid {' '.join(options)}"


def _option(name: str, value: object) -> str:
    """An option as the command line takes it."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    if isinstance(value, dict):
        value = tuple(f"{kind}={number}" for kind, number in value.items())
    return f"--{name} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
