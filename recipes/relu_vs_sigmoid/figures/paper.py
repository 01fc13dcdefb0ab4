"""The paper's figures 1 to 7, a function each: it draws the figure and gives its numbers and its caption."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import probekit as pk

from ..records import STATES
from ..settings import WEIGHTS
from ..study import Study
from ..training.networks import ACTIVATIONS

__all__ = ["COLOURS", "NAMES", "Made", "fig1", "fig2", "fig3", "fig4", "fig5", "fig6", "fig7"]

Made: TypeAlias = tuple[Figure, pd.DataFrame, str]

COLOURS = dict(zip(ACTIVATIONS, pk.plot.palette(len(ACTIVATIONS)), strict=True))
NAMES = {"relu": "ReLU", "sigmoid": "sigmoid", "tanh": "tanh", "gelu": "GELU", "silu": "SiLU"}
QUANTILES = (0.1, 0.5, 0.9)  # "generic nodes": at these quantiles of class overlap


def fig1(study: Study) -> Made:
    """Training and validation curves: a column for each depth, a row without and one with batch norm."""
    width = study.settings.probed[0].width
    curves = study.curves[study.curves.width == width].melt(
        ["activation", "depth", "batch_norm", "epoch"], ["train_accuracy", "validation_accuracy"], "part", "accuracy"
    )
    keys = ["activation", "depth", "batch_norm", "part", "epoch"]
    numbers = curves.groupby(keys)["accuracy"].agg(["mean", "sem", "count"]).reset_index()
    numbers = numbers[numbers.pop("count") == study.settings.seeds]  # epochs that all seeds reached
    depths = sorted(study.settings.depths)
    figure = Figure(figsize=(3.1 * len(depths) + 2, 5.2), layout="constrained")
    axes = figure.subplots(2, len(depths), sharex=True, sharey=True, squeeze=False)
    for row, batch_norm in enumerate((False, True)):
        for column, depth in enumerate(depths):
            ax = axes[row, column]
            panel = numbers[(numbers.depth == depth) & (numbers.batch_norm == batch_norm)]
            _draw_curves(ax, panel)
            ax.set_title(f"{depth} layers{', batch norm' if batch_norm else ''}", fontsize="medium")
    # With the first epochs in view, the curves would be one line. Where each of them ends is in view.
    ends = numbers.groupby(keys[:-1])["mean"].last()
    axes[0, 0].set_ylim(max(0.0, 100 * min(numbers["mean"].quantile(0.1), ends.min()) - 3), 100.5)
    figure.supxlabel("epoch", fontsize="medium")
    figure.supylabel("accuracy (%)", fontsize="medium")
    lines, names = axes[0, -1].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside right center", frameon=False, fontsize="small")
    caption = (
        f"Training (dashed) and validation (solid) accuracy of networks {width} nodes wide on "
        f"{study.settings.dataset}; mean over {study.settings.seeds} seeds, the band is the standard error."
    )
    if study.settings.patience:
        caption += (
            f" Training stops {study.settings.patience} epochs after the best validation accuracy"
            f"{', once a network fits its samples' if study.settings.fit_first else ''}; a curve ends "
            "where the first of its seeds stops."
        )
    return figure, numbers, caption


def _draw_curves(ax: Axes, panel: pd.DataFrame) -> None:
    for (activation, samples), curve in panel.groupby(["activation", "part"]):
        kind = str(samples).removesuffix("_accuracy")
        mean, error = 100 * curve["mean"].to_numpy(), 100 * curve["sem"].fillna(0).to_numpy()
        epoch, colour = curve["epoch"].to_numpy(), COLOURS[str(activation)]
        style = "--" if kind == "train" else "-"
        ax.plot(epoch, mean, style, color=colour, linewidth=1.2, label=f"{NAMES[str(activation)]}, {kind}")
        ax.fill_between(epoch, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def fig2(*studies: Study) -> Made:
    """Test accuracy against depth, a panel for each data set."""
    keys = ["activation", "width", "batch_norm", "depth"]
    frames = []
    figure = Figure(figsize=(4.4 * len(studies) + 2, 4), layout="constrained")
    for study, ax in zip(studies, figure.subplots(1, len(studies), squeeze=False)[0], strict=True):
        numbers = study.results.groupby(keys)["test_accuracy"].agg(["mean", "sem"]).reset_index()
        _draw_accuracies(ax, numbers)
        ax.set(xlabel="hidden layers", ylabel=f"test accuracy on {study.settings.dataset} (%)")
        frames.append(numbers.assign(dataset=study.settings.dataset))
    lines = [dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True)) for ax in figure.axes]
    drawn = {label: handle for panel in lines for label, handle in panel.items()}
    figure.axes[-1].legend(
        drawn.values(), drawn, frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5)
    )
    weights = dict.fromkeys(WEIGHTS[study.settings.weights_of] for study in studies)
    caption = (
        f"Test accuracy on {' and '.join(study.settings.dataset for study in studies)} {' or '.join(weights)}; mean "
        f"and standard error over {studies[0].settings.seeds} seeds. Stars are networks with batch norm."
    )
    return figure, pd.concat(frames, ignore_index=True), caption


def _draw_accuracies(ax: Axes, numbers: pd.DataFrame) -> None:
    """A line for each activation, width and batch norm."""
    widest = numbers.width.max()
    lines = list(numbers.groupby(["activation", "width", "batch_norm"]))
    for index, ((activation, width, batch_norm), line) in enumerate(lines):
        ax.errorbar(
            line["depth"] + 0.06 * (index - (len(lines) - 1) / 2),  # side by side, so no error bar hides another
            100 * line["mean"],
            100 * line["sem"].fillna(0),
            color=COLOURS[str(activation)],
            linestyle="-" if batch_norm else ":",
            marker="*" if batch_norm else "o",
            markersize=11 if batch_norm else 6,
            alpha=1.0 if width == widest else 0.55,
            linewidth=1.2,
            capsize=3,
            label=f"{NAMES[str(activation)]} {width}{', batch norm' if batch_norm else ''}",
        )
    ax.set_xticks(sorted(numbers.depth.unique()))
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def _distributions(study: Study, activation: str) -> Made:
    """Class distributions at three nodes of a shallow, a middle and a deep layer."""
    config = study.of(activation, False)
    tree = study.tree(config, "trained")
    layers = list(dict.fromkeys(f"act{number}" for number in (1, (config.depth + 1) // 2, config.depth)))
    nodes = {layer: _generic_nodes(tree[layer].to_dataset()) for layer in layers}
    numbers = pd.concat([_cells(tree[layer].to_dataset(), layer, chosen) for layer, chosen in nodes.items()])
    caption = (
        f"{NAMES[activation]}: distribution of each class's activations at nodes of a shallow, a middle and a deep "
        f"layer of {study.shown[config]}, trained on {study.settings.dataset}. Each row shows the nodes at the 10th, "
        "50th and 90th percentile of class overlap. A stem is the share of a class at exactly one value. Nodes are "
        "numbered from 0 in each layer."
    )
    return pk.plot.distribution_grid(tree, nodes).figure, numbers, caption


def fig3(study: Study) -> Made:
    """Class distributions in the sigmoid network."""
    return _distributions(study, "sigmoid")


def fig4(study: Study) -> Made:
    """Class distributions in the ReLU network."""
    return _distributions(study, "relu")


def _generic_nodes(layer: xr.Dataset) -> list[int]:
    alive = np.flatnonzero(~layer["overlap_constant"].values)
    order = alive[np.argsort(layer["overlap"].values[alive], kind="stable")]
    return [int(order[round(quantile * (len(order) - 1))]) for quantile in QUANTILES]


def _cells(layer: xr.Dataset, name: str, nodes: list[int]) -> pd.DataFrame:
    """The counts that a panel shows: bins from `low` to `high`, and atoms, whose `low` and `high` are the value."""
    rows = []
    for node in nodes:
        at = layer.isel(node=node)
        edges, atoms = at["histogram_edges"].values, at["histogram_atom"].values
        cells = [*zip(edges, edges[1:], at["histogram"].transpose("bin", "label").values, strict=False)]
        cells += zip(atoms, atoms, at["histogram_atoms"].transpose("atom", "label").values, strict=True)
        rows += [
            {"layer": name, "node": node, "class": class_name, "low": low, "high": high, "samples": int(count)}
            for low, high, counts in cells
            if not np.isnan(high)
            for class_name, count in zip(layer["class_name"].values, counts, strict=True)
        ]
    return pd.DataFrame(rows)


def _medians(trees: Mapping[str, xr.DataTree], caption: str) -> Made:
    """Class medians at every node, a panel for each tree."""
    frames = []
    for title, tree in trees.items():
        for layer, site in tree.children.items():
            frame = site.to_dataset()["median"].to_dataframe().reset_index()
            frames.append(frame.assign(panel=title, layer=layer)[["panel", "layer", "node", "class_name", "median"]])
    return pk.plot.medians_grid(_one_legend(trees)).figure, pd.concat(frames, ignore_index=True), caption


def _one_legend(trees: Mapping[str, xr.DataTree]) -> dict[str, xr.DataTree]:
    """The medians, with class names that say what a colour means in each data set: «0 / airplane»."""
    first = {title: next(iter(tree.children.values())).to_dataset() for title, tree in trees.items()}
    names = {title: layer["class_name"].values for title, layer in first.items()}
    joined = [" / ".join(dict.fromkeys(map(str, filter(None, each)))) for each in zip_longest(*names.values())]

    def renamed(site: xr.DataTree, count: int) -> xr.Dataset:
        return site.to_dataset()[["median"]].assign_coords(class_name=("label", joined[:count]))

    return {
        title: xr.DataTree.from_dict({layer: renamed(site, len(names[title])) for layer, site in tree.children.items()})
        for title, tree in trees.items()
    }


def _before_and_after(study: Study, activation: str) -> Made:
    config = study.of(activation, False)
    trees = {f"{NAMES[activation]}, {state}": study.tree(config, state) for state in STATES}
    caption = (
        f"{NAMES[activation]}: the median of each class's activations at every node of {study.shown[config]} before "
        f"and after training on {study.settings.dataset}."
    )
    return _medians(trees, caption)


def fig5(study: Study) -> Made:
    """Medians of the sigmoid network, untrained and trained."""
    return _before_and_after(study, "sigmoid")


def fig6(study: Study) -> Made:
    """Medians of the ReLU network, untrained and trained."""
    return _before_and_after(study, "relu")


def fig7(*studies: Study) -> Made:
    """Medians of both trained networks, a row for each data set; the paper's is on CIFAR10."""
    trees = {
        f"{NAMES[kind]}, trained on {study.settings.dataset}": study.tree(study.of(kind, False), "trained")
        for study in studies
        for kind in ("sigmoid", "relu")
    }
    names = [study.settings.dataset for study in studies]
    note = "." if "cifar10" in names else "; the paper's figure 7 shows CIFAR10."
    return _medians(trees, f"Class medians of both networks, trained on {' and '.join(names)}{note}")
