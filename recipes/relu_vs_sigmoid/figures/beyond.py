"""Figures of quantities that the paper didn't measure: overlap, sparsity by learning rate, gradients, probes, ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

import probekit as pk

from ..records import STATES
from ..study import Study
from ..tables import PAPER
from ..training.networks import PAPERS, Config
from .paper import COLOURS, NAMES, Made

__all__ = [
    "auroc",
    "effective_ranks",
    "gradient_norms",
    "linear_probes",
    "neural_collapse",
    "overlap",
    "selectivity",
    "sparsity_by_rate",
]


def overlap(study: Study) -> Made:
    """Class overlap over the layers, which the paper discusses but doesn't measure."""
    caption = (
        "Class overlap (1 minus total variation, mean over class pairs and nodes; the band spans the middle half of "
        "the nodes). Dashed: shuffled labels; with few samples even equal classes stay below 1."
    )
    return _profiles(study, "overlap", study.tree, caption)


def auroc(study: Study) -> Made:
    """How well single nodes tell one class from the rest."""
    caption = (
        "How well a single node tells one class from all others: the area under its receiver operating characteristic, "
        "or 1 minus it for a node that is lower for the class; mean over nodes, classes and seeds (0.5: not at all, 1: "
        "perfectly)."
    )
    return _profiles(
        study, "AUROC", _averaged(study, "AUROC", lambda site: abs(site["auroc_rest"] - 0.5) + 0.5), caption
    )


def sparsity_by_rate(study: Study) -> Made:
    """The share of inactive samples in ReLU layers against the learning rate, above the accuracy at that rate."""
    numbers = _rates(study)
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 2))
    for column, norm in enumerate((False, True)):
        panel = numbers[numbers.batch_norm == norm]
        above, below = axes[:, column]
        colours = pk.plot.palette(panel.layer.nunique())
        for (layer, line), colour in zip(panel.groupby("layer"), colours, strict=True):
            means = line.groupby("learning_rate").inactive.agg(["mean", "sem"])
            above.errorbar(means.index, means["mean"], means["sem"], fmt="o-", color=colour, label=f"layer {layer}")
        accuracy = panel[panel.layer == 1].groupby("learning_rate").validation_accuracy.agg(["mean", "sem"]) * 100
        below.errorbar(accuracy.index, accuracy["mean"], accuracy["sem"], fmt="o-", color="#333333")
        theirs = PAPER.get(study.settings.dataset, {}).get((norm, "trained"))
        if theirs:
            above.axhline(float(np.mean(theirs)), color="#9a9a9a", linestyle="--", label="the paper's Table 1")
        above.set_title("with batch norm" if norm else "without batch norm")
        below.set(xscale="log", xlabel="learning rate")
        for ax in (above, below):
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("inactive (%)")
    axes[1, 0].set_ylabel("validation (%)")
    axes[0, 1].legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    epochs, seeds = int(numbers.epochs.max()), numbers.seed.nunique()
    over = f"{seeds} seeds, mean and standard error" if seeds > 1 else "one seed"
    caption = (
        f"ReLU networks of the learning-rate search on {study.settings.dataset} ({epochs} epochs, {over}): the share "
        "of inactive samples in each layer, and the best validation accuracy. Sparsity changes much where accuracy "
        "hardly changes."
    )
    return figure, numbers, caption


def _rates(study: Study) -> pd.DataFrame:
    """A row for each layer of each ReLU network of the probed shape that the search trained."""
    searched = study.searched
    assert searched is not None  # figures_of leaves the figure out otherwise
    config = study.of("relu", False)
    is_ours = (searched.activation == "relu") & (searched.depth == config.depth) & (searched.width == config.width)
    keys = ["batch_norm", "seed", "learning_rate", "epochs", "validation_accuracy"]
    long = searched.loc[is_ours, [*keys, "inactive"]].explode("inactive", ignore_index=True)
    layer = long.groupby(["batch_norm", "seed", "learning_rate"]).cumcount() + 1
    return long.assign(layer=layer, inactive=100 * long.inactive.astype(float))


def gradient_norms(study: Study) -> Made:
    """The size of the gradient at each layer of the deepest networks."""
    numbers = pd.DataFrame(
        {
            "activation": config.activation,
            "depth": config.depth,
            "batch_norm": config.batch_norm,
            "state": state,
            "layer": index,
            "gradient_norm": float(site["gradient_norm_site"]),
        }
        for (config, state), tree in study.gradients.items()
        for index, site in enumerate(tree.children.values(), 1)
    )
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for ax, norm in zip(figure.subplots(1, 2, sharey=True), (False, True), strict=True):
        for (activation, state), line in numbers[numbers.batch_norm == norm].groupby(["activation", "state"]):
            style = "o-" if state == "trained" else "o--"
            label = f"{NAMES[str(activation)]}, {state}"
            ax.plot(line.layer, line.gradient_norm, style, color=COLOURS[str(activation)], markersize=4, label=label)
        ax.set(yscale="log", xlabel="layer", title="with batch norm" if norm else "without batch norm")
        ax.set_xticks(sorted(numbers.layer.unique()))
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("gradient norm")
    figure.axes[1].legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    caption = (
        f"Gradient of a sample's loss with respect to the outputs of each layer, in networks of {numbers.depth.max()} "
        f"layers on {study.settings.dataset} (seed 0, 2,000 training samples): root mean square of its norm. A dashed "
        "line (before training) that falls towards layer 1 shows a gradient that vanishes on its way back."
    )
    return figure, numbers, caption


def selectivity(study: Study) -> Made:
    """How much single nodes prefer one class."""
    caption = (
        "Class selectivity of nodes (Morcos et al. 2018): how much a node's mean for its preferred class exceeds its "
        "mean for the others, from 0 to 1; mean over nodes and seeds."
    )
    return _profiles(study, "selectivity", _averaged(study, "selectivity", itemgetter("selectivity")), caption)


def linear_probes(study: Study) -> Made:
    """How well a linear classifier reads the class from each layer."""
    caption = (
        f"Linear probes on {study.settings.dataset}: the accuracy of a linear classifier of all nodes of a layer on "
        "held-out training samples (Alain and Bengio 2017)."
    )
    return _of_shown(study, "linear_probe", caption)


def effective_ranks(study: Study) -> Made:
    """How many directions each layer uses."""
    caption = (
        "Effective rank (Roy and Vetterli 2007): how many directions the activations of a layer use, each weighted by "
        "its share of the standard deviation."
    )
    return _of_shown(study, "effective_rank", caption)


def neural_collapse(study: Study) -> Made:
    """How far the classes of each layer have collapsed to points."""
    caption = (
        "Neural collapse, NC1 (Papyan, Han and Donoho 2020): the variance within the classes relative to the variance "
        "of their means, in the directions in which the means differ; 0 if every class is a point. Logarithmic."
    )
    figure, numbers, caption = _of_shown(study, "neural_collapse_nc1", caption)
    for ax in figure.axes:
        ax.set_yscale("log")
    return figure, numbers, caption


def _of_shown(study: Study, variable: str, caption: str) -> Made:
    """A quantity with one number for each layer, of the networks in the figures, with all activations."""
    return _profiles(study, variable, study.tree, caption, study.settings.activations)


def _averaged(
    study: Study, name: str, value: Callable[[xr.Dataset], xr.DataArray]
) -> Callable[[Config, str], xr.DataTree]:
    """For `_profiles`: each layer's mean over nodes, classes and seeds of a quantity."""

    def tree(config: Config, state: str) -> xr.DataTree:
        trees = study.trees(config, state)
        layers = {
            layer: float(np.mean([value(tree[layer].to_dataset()).mean() for tree in trees]))
            for layer in trees[0].children
        }
        return xr.DataTree.from_dict({layer: xr.Dataset({name: mean}) for layer, mean in layers.items()})

    return tree


def _profiles(
    study: Study,
    variable: str,
    tree: Callable[[Config, str], xr.DataTree],
    caption: str,
    activations: Sequence[str] = PAPERS,
) -> Made:
    """A quantity over the layers, in a panel without batch norm and one with it."""
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
        pk.plot.profile(panel, variable, ax=ax)
        ax.set_title("with batch norm" if norm else "without batch norm")
    if legend := figure.axes[0].get_legend():
        legend.remove()  # the other panel has the same
    figure.axes[1].set_ylabel("")
    return figure, pd.DataFrame(rows), caption


def _is_about(name: str, variable: str) -> bool:
    return name in (variable, f"{variable}_null")
