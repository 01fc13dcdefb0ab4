"""The figures of a screening: which choice moves which layer, and the nearest settings trained in full."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import probekit as pk

from ..tables import PAPER
from .screening import LAYERS

__all__ = ["CHOICES", "by_choice", "draw", "draw_full"]

CHOICES = {
    "learning_rate": "learning rate",
    "scaling": "pixels",
    "initialisation": "He",
    "batch_size": "batch",
    "weights_of": "weights of the epoch",
    "samples": "counted over",
}
# A choice is shown with the others as in the recipe, where the screening has that.
USUAL = {
    "scaling": "channel",
    "learning_rate": 1e-3,
    "batch_size": 128,
    "initialisation": "fan-in-normal",
    "weights_of": "best",
    "samples": "train",
}


def by_choice(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each layer, kind of network and value of each choice, the other choices as `usual` in the recipe."""
    usual = {name: value if (rows[name] == value).any() else rows[name].iloc[0] for name, value in USUAL.items()}
    frames = []
    for choice in CHOICES:
        ours = rows
        for name, value in usual.items():
            if name != choice:
                ours = ours[ours[name] == value]
        if ours[choice].nunique() > 1:
            keys = ["dataset", "batch_norm", choice]
            means = ours.groupby(keys, as_index=False)[[*LAYERS, "test_accuracy"]].mean()
            long = means.melt([*keys, "test_accuracy"], list(LAYERS), "layer", "inactive")
            frames.append(long.rename(columns={choice: "value"}).assign(choice=choice))
    if not frames:
        return pd.DataFrame(columns=["choice", "value", "dataset", "batch_norm", "layer", "inactive", "test_accuracy"])
    table = pd.concat(frames, ignore_index=True)
    table["layer"] = table.layer.str.removeprefix("layer").astype(int)
    return table[["choice", "value", "dataset", "batch_norm", "layer", "inactive", "test_accuracy"]]


def draw(numbers: pd.DataFrame) -> Figure:
    """A column for each choice, a row for each kind of network: percent inactive by layer, the paper's in black."""
    choices = [choice for choice in CHOICES if choice in set(numbers.choice)]
    kinds = _kinds(numbers)
    lines = 2 + int(numbers.groupby("choice").value.nunique().max()) // 2  # of the tallest legend
    size = 3.1 * len(choices) + 0.6, (2.5 + 0.16 * lines) * len(kinds) + 0.4
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(kinds), len(choices), sharey="row", squeeze=False)
    for row, (dataset, norm) in enumerate(kinds):
        for column, choice in enumerate(choices):
            ours = numbers[(numbers.choice == choice) & (numbers.dataset == dataset) & (numbers.batch_norm == norm)]
            _draw_panel(axes[row, column], ours, PAPER[dataset][norm, "trained"])
            if row == 0:
                axes[row, column].set_title(CHOICES[choice], fontsize="medium")
        axes[row, 0].set_ylabel(f"{dataset}{', batch norm' if norm else ''}\ninactive (%)")
    figure.supxlabel("layer", fontsize="medium")
    return figure


def _draw_panel(ax: Axes, panel: pd.DataFrame, paper: tuple[float, ...]) -> None:
    values = panel.value.drop_duplicates()
    for value, colour in zip(values, pk.plot.palette(len(values)), strict=True):
        line = panel[panel.value == value]
        accuracy = line.test_accuracy.iloc[0]
        ax.plot(line.layer, line.inactive, "o-", color=colour, label=f"{_written(value)} ({accuracy:.1f} %)")
    _finish_panel(ax, paper)
    ax.legend(
        frameon=False, fontsize="x-small", ncols=2, columnspacing=1, loc="upper center", bbox_to_anchor=(0.5, -0.1)
    )


def draw_full(by_layer: pd.DataFrame) -> Figure:
    """A panel for each kind of network: percent inactive by layer, mean ± standard error of each setting's seeds.

    `by_layer` is the table of `report.against_table`.
    """
    settings = by_layer.setting.drop_duplicates().tolist()
    kinds = _kinds(by_layer)
    figure = Figure(figsize=(3.1 * len(kinds) + 0.6, 3.2 + 0.16 * len(settings)), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    for ax, (dataset, norm) in zip(axes, kinds, strict=True):
        panel = by_layer[(by_layer.dataset == dataset) & (by_layer.batch_norm == norm)]
        for setting, colour in zip(settings, pk.plot.palette(len(settings)), strict=True):
            line = panel[panel.setting == setting]
            layers = line.layer.str.removeprefix("layer").astype(int)
            chosen = line.iloc[0]
            label = f"pixels {chosen.scaling}, He {chosen.initialisation}, batch {chosen.batch_size}"
            ax.errorbar(layers, line.inactive, line.standard_error, fmt="o-", color=colour, capsize=2, label=label)
        _finish_panel(ax, PAPER[dataset][norm, "trained"])
        ax.set_title(f"{dataset}{', batch norm' if norm else ''}", fontsize="medium")
        ax.set_xlabel("layer")
    axes[0].set_ylabel("inactive (%)")
    figure.legend(
        *axes[0].get_legend_handles_labels(), frameon=False, fontsize="small", ncols=2, loc="outside lower center"
    )
    return figure


def _kinds(numbers: pd.DataFrame) -> list[tuple[str, bool]]:
    """The kinds of networks in a table, in its order: data set, and whether there is batch norm."""
    return list(numbers[["dataset", "batch_norm"]].drop_duplicates().itertuples(index=False, name=None))


def _finish_panel(ax: Axes, paper: tuple[float, ...]) -> None:
    ax.plot(range(1, len(paper) + 1), paper, "s--", color="black", label="the paper")
    ax.set_xticks(range(1, len(paper) + 1))
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float | int) else str(value)
