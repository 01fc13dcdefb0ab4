"""The tables, the figure and the page of a screening."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from probekit.report import Outcome, Page

from ..tables import PAPER
from . import figure
from .screening import COMMON, LAYERS, nearest, reached

__all__ = ["against_table", "write"]

LEDE = (
    "Table 1 of Pretorius, Barnard and Davel (2019) has sixteen numbers of trained ReLU networks: the percent of "
    "samples for which the nodes of a layer are inactive. The paper doesn't say how pixels were scaled, how large "
    "batches were, at which learning rate networks trained, how weights were drawn, which epoch's weights were "
    "measured, and over which samples. Here ReLU networks of 4 layers of 200 nodes are trained with every combination "
    "of the given choices, and each is compared with the table."
)
NEAREST = (
    "A setting is what all networks share: scaling, initialisation, batch size, the epoch of the weights and the "
    "samples counted. Each kind of network has the learning rate with which it comes nearest, since the paper searched "
    "it for each. Worst is the largest distance of any layer of any kind to the table, average their mean."
)
BY_CHOICE = (
    "Percent of inactive samples by layer, in brackets the test accuracy. Each panel varies one choice; the others are "
    "as in the recipe, where they were screened. One seed, {} epochs. Black: the paper's Table 1."
)

IN_FULL = (
    "Percent of inactive samples by layer, mean ± standard error over {} seeds. Each kind of network has the learning "
    "rate, and each setting the weights and the samples, with which it came nearest in the screening; the table has "
    "them. Black: the paper's Table 1."
)


def write(rows: pd.DataFrame, ranked: pd.DataFrame, finished: pd.DataFrame | None, folder: Path) -> Outcome:
    """Write a screening's `rows`, its settings `ranked`, and the `finished` full trainings if there are any."""
    tables = {"screening": rows, "nearest": ranked, "reached": reached(rows), "by_choice": figure.by_choice(rows)}
    if finished is not None:
        tables |= {"full": finished, "full_by_layer": against_table(finished)}
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    if len(tables["by_choice"]):
        figure.draw(tables["by_choice"]).savefig(folder / "by_choice.png", dpi=150)
    shown = {"The nearest settings of the screening": _short(ranked)}
    if finished is not None:
        figure.draw_full(tables["full_by_layer"]).savefig(folder / "full_by_layer.png", dpi=150)
        shown["The nearest settings, trained in full"] = _short(nearest(finished.drop(columns="setting")))
    return Outcome(report=_page(tables, folder).write(folder / "report.html"), tables=shown)


def _page(tables: Mapping[str, pd.DataFrame], folder: Path) -> Page:
    rows, ranked = tables["screening"], tables["nearest"]
    trained = rows.groupby(["weights_of", "samples"]).size().max()
    nearby = f"{ranked.worst.min():.1f}" if len(ranked) else "–"
    page = Page("Which choices explain Table 1", LEDE)
    page.numbers({"networks screened": int(trained), "points from the table, the nearest setting": nearby})
    if len(tables["by_choice"]):
        epochs = " to ".join(map(str, sorted({rows.epochs.min(), rows.epochs.max()})))
        page.heading("Which choice moves which layer")
        page.figure(folder / "by_choice.png", BY_CHOICE.format(epochs))
    page.heading("Each number by itself")
    page.table(
        tables["reached"], "The percent inactive that networks have, over all combinations of choices.", formats=".1f"
    )
    page.heading("The nearest settings").text(NEAREST)
    ten = ranked[ranked.setting <= 10]
    page.table(ten, "The ten nearest settings of the screening, a row for each kind of network.", formats=".3g")
    if "full" in tables:
        page.heading("The nearest settings, trained in full")
        seeds = tables["full"].seed.nunique()
        page.figure(folder / "full_by_layer.png", IN_FULL.format(seeds))
        page.table(tables["full_by_layer"], f"Mean over {seeds} seeds, and the paper's number.", formats=".3g")
    return page


def against_table(finished: pd.DataFrame) -> pd.DataFrame:
    """A row for each setting, kind of network and layer: the mean percent inactive over seeds, and the paper's."""
    keys = ["setting", *COMMON, "dataset", "batch_norm", "learning_rate"]
    long = finished.melt([*keys, "seed", "test_accuracy"], list(LAYERS), "layer", "inactive")
    grouped = long.groupby([*keys, "layer"], as_index=False)
    table = grouped.agg(
        inactive=("inactive", "mean"), standard_error=("inactive", "sem"), test_accuracy=("test_accuracy", "mean")
    )
    numbers = zip(table.dataset, table.batch_norm, table.layer, strict=True)
    table["paper"] = [PAPER[name][norm, "trained"][LAYERS.index(layer)] for name, norm, layer in numbers]
    return table.assign(difference=table.inactive - table.paper)


def _short(ranked: pd.DataFrame) -> pd.DataFrame:
    """A row for each of the five nearest settings."""
    columns = ["setting", *COMMON, "worst", "average"]
    return ranked[columns].drop_duplicates().head(5).round(2)
