"""The paper's figures, one function each: it draws, and says the numbers behind the drawing as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import probekit as pk

from .measuring import STATES
from .networks import ACTIVATIONS, PAPERS, Config
from .study import Study

__all__ = ["FIGURES", "Drawn", "Made", "averaged", "draw", "fig2", "fig7", "profiles"]

COLOURS = dict(zip(ACTIVATIONS, pk.plot.palette(len(ACTIVATIONS)), strict=True))
NAMES = {"relu": "ReLU", "sigmoid": "sigmoid", "tanh": "tanh", "gelu": "GELU", "silu": "SiLU"}
QUANTILES = (0.1, 0.5, 0.9)  # "generic nodes": those at these places in the order of class overlap


@dataclass(frozen=True)
class Drawn:
    """A figure on disk and what stands under it."""

    path: Path
    caption: str


def draw(figures: Mapping[str, Callable[..., Made]], studies: Sequence[Study], folder: Path) -> dict[str, Drawn]:
    """The figures of studies as ``<name>.png`` beside ``<name>.csv`` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, make in figures.items():
        figure, numbers, caption = make(*studies)
        figure.savefig(folder / f"{name}.png", dpi=150)
        numbers.to_csv(folder / f"{name}.csv", index=False)
        drawn[name] = Drawn(folder / f"{name}.png", caption)
    return drawn


Made = tuple[Figure, pd.DataFrame, str]


def fig1(study: Study) -> Made:
    """Training and validation curves: a column a depth, a row without and one with batch norm."""
    width = study.settings.probed[0].width
    curves = study.curves[study.curves.width == width].melt(
        ["activation", "depth", "batch_norm", "epoch"], ["train_accuracy", "validation_accuracy"], "part", "accuracy"
    )
    keys = ["activation", "depth", "batch_norm", "part", "epoch"]
    numbers = curves.groupby(keys)["accuracy"].agg(["mean", "sem", "count"]).reset_index()
    numbers = numbers[numbers.pop("count") == study.settings.seeds]  # what only some seeds reached is no mean of all
    depths = sorted(study.settings.depths)
    figure = Figure(figsize=(3.1 * len(depths) + 0.6, 5.2), layout="constrained")
    axes = figure.subplots(2, len(depths), sharex=True, sharey=True, squeeze=False)
    for row, batch_norm in enumerate((False, True)):
        for column, depth in enumerate(depths):
            ax = axes[row, column]
            panel = numbers[(numbers.depth == depth) & (numbers.batch_norm == batch_norm)]
            _draw_curves(ax, panel)
            ax.set_title(f"{depth} layers{', batch norm' if batch_norm else ''}", fontsize="medium")
    # The first epochs would squeeze all that differs into a line.
    axes[0, 0].set_ylim(max(0.0, 100 * float(numbers["mean"].quantile(0.1)) - 3), 100.5)
    figure.supxlabel("epoch", fontsize="medium")
    figure.supylabel("accuracy (%)", fontsize="medium")
    axes[0, -1].legend(frameon=False, fontsize="small", loc="lower right")
    caption = (
        f"Training (dashed) and validation (solid) accuracy of networks {width} nodes wide on "
        f"{study.settings.dataset}; mean over {study.settings.seeds} seeds, the band is the standard error."
    )
    if study.settings.patience:
        caption += (
            f" A network is done {study.settings.patience} epochs after its best validation accuracy; a curve ends "
            "with the first of its seeds."
        )
    return figure, numbers, caption


def _draw_curves(ax: Axes, panel: pd.DataFrame) -> None:
    for (activation, part), curve in panel.groupby(["activation", "part"]):
        kind = str(part).removesuffix("_accuracy")
        mean, error = 100 * curve["mean"].to_numpy(), 100 * curve["sem"].fillna(0).to_numpy()
        epoch, colour = curve["epoch"].to_numpy(), COLOURS[str(activation)]
        style = "--" if kind == "train" else "-"
        ax.plot(epoch, mean, style, color=colour, linewidth=1.2, label=f"{NAMES[str(activation)]}, {kind}")
        ax.fill_between(epoch, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def fig2(*studies: Study) -> Made:
    """Test accuracy against depth, a panel a data set."""
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
    caption = (
        f"Test accuracy on {' and '.join(study.settings.dataset for study in studies)} of the weights with the best "
        f"validation accuracy; mean and standard error over {studies[0].settings.seeds} seeds. Stars are networks with "
        "batch norm."
    )
    return figure, pd.concat(frames, ignore_index=True), caption


def _draw_accuracies(ax: Axes, numbers: pd.DataFrame) -> None:
    """A line for each activation, width and batch norm."""
    widest = numbers.width.max()
    lines = list(numbers.groupby(["activation", "width", "batch_norm"]))
    for index, ((activation, width, batch_norm), line) in enumerate(lines):
        ax.errorbar(
            line["depth"] + 0.06 * (index - (len(lines) - 1) / 2),  # side by side, so that no error bar hides another
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
        f"layer of {study.shown[config]}, trained on {study.settings.dataset}. In each row the nodes at the 10th, 50th "
        "and 90th percentile of class overlap. A stem is the share of a class at exactly one value. Nodes count "
        "from 0 in each layer."
    )
    return pk.plot.distribution_grid(tree, nodes), numbers, caption


def fig3(study: Study) -> Made:
    """Distributions after sigmoid."""
    return _distributions(study, "sigmoid")


def fig4(study: Study) -> Made:
    """Distributions after ReLU."""
    return _distributions(study, "relu")


def _generic_nodes(layer: xr.Dataset) -> list[int]:
    alive = np.flatnonzero(~layer["overlap_constant"].values)
    order = alive[np.argsort(layer["overlap"].values[alive], kind="stable")]
    return [int(order[round(quantile * (len(order) - 1))]) for quantile in QUANTILES]


def _cells(layer: xr.Dataset, name: str, nodes: list[int]) -> pd.DataFrame:
    """The counts that a panel shows: bins from `low` to `high`, and atoms, where both are the value."""
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
    return pk.plot.medians_grid(_one_legend(trees)), pd.concat(frames, ignore_index=True), caption


def _one_legend(trees: Mapping[str, xr.DataTree]) -> dict[str, xr.DataTree]:
    """The medians, with class names that say what a colour is in each data set: «0 / airplane»."""
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
    """Medians of both trained networks, a row a data set; the paper's are on CIFAR10."""
    trees = {
        f"{NAMES[kind]}, trained on {study.settings.dataset}": study.tree(study.of(kind, False), "trained")
        for study in studies
        for kind in ("sigmoid", "relu")
    }
    names = [study.settings.dataset for study in studies]
    note = "." if "cifar10" in names else "; the paper's figure 7 shows CIFAR10."
    return _medians(trees, f"Class medians of both networks, trained on {' and '.join(names)}{note}")


def overlap(study: Study) -> Made:
    """Class overlap over the layers, which the paper speaks of and never measures."""
    caption = (
        "Class overlap (1 minus total variation, mean over class pairs and nodes; the band holds the middle half of "
        "the nodes). Dashed: shuffled labels; with few samples even classes that are alike stay below 1."
    )
    return profiles(study, "overlap", study.tree, caption)


def auroc(study: Study) -> Made:
    """How well single nodes tell one class from the rest."""
    caption = (
        "How well a single node tells one class from all others: the area under its receiver operating characteristic "
        "or, where it falls for the class, 1 minus it; mean over nodes, classes and seeds (0.5: not at all, 1: "
        "perfectly)."
    )
    return profiles(study, "AUROC", averaged(study, "AUROC", lambda site: abs(site["auroc_rest"] - 0.5) + 0.5), caption)


def averaged(
    study: Study, name: str, value: Callable[[xr.Dataset], xr.DataArray]
) -> Callable[[Config, str], xr.DataTree]:
    """For `profiles`: a quantity of each layer as its mean over nodes, classes and seeds."""

    def tree(config: Config, state: str) -> xr.DataTree:
        trees = study.trees(config, state)
        layers = {
            layer: float(np.mean([value(tree[layer].to_dataset()).mean() for tree in trees]))
            for layer in trees[0].children
        }
        return xr.DataTree.from_dict({layer: xr.Dataset({name: mean}) for layer, mean in layers.items()})

    return tree


def profiles(
    study: Study,
    variable: str,
    tree: Callable[[Config, str], xr.DataTree],
    caption: str,
    activations: Sequence[str] = PAPERS,
) -> Made:
    """A quantity over the layers of the networks that are shown, without batch norm and with it."""
    kinds = [(kind, norm, state) for norm in (False, True) for kind in activations for state in STATES]
    trees = {(kind, norm, state): tree(study.of(kind, norm), state) for kind, norm, state in kinds}
    rows = [
        {"network": f"{NAMES[kind]}, {state}", "batch_norm": norm, "layer": layer}
        | {str(name): float(value.mean()) for name, value in site.data_vars.items() if _is_about(str(name), variable)}
        for (kind, norm, state), found in trees.items()
        for layer, site in found.children.items()
    ]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for ax, norm in zip(figure.subplots(1, 2, sharey=True), (False, True), strict=True):
        panel = {f"{NAMES[kind]}, {state}": trees[kind, norm, state] for kind in activations for state in STATES}
        pk.plot.profile(panel, variable, ax=ax).set_title("with batch norm" if norm else "without batch norm")
    if legend := figure.axes[0].get_legend():
        legend.remove()  # the other panel has the same
    figure.axes[1].set_ylabel("")
    return figure, pd.DataFrame(rows), caption


def _is_about(name: str, variable: str) -> bool:
    return name in (variable, f"{variable}_null")


FIGURES: dict[str, Callable[..., Made]] = {
    "fig1": fig1,
    "fig2": fig2,
    "fig3": fig3,
    "fig4": fig4,
    "fig5": fig5,
    "fig6": fig6,
    "fig7": fig7,
    "overlap": overlap,
    "auroc": auroc,
}
