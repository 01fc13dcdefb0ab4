"""The same study with what the paper lacked: further metrics, gradients over depth, further activations."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

import pandas as pd
from matplotlib.figure import Figure

from .figures import COLOURS, NAMES, Made, averaged, profiles
from .study import Study

__all__ = ["BEYOND"]


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
        f"layers on {study.settings.dataset} (seed 0, 2,000 training samples): root mean square of its norm. Before "
        "training (dashed) a line that falls towards layer 1 is a gradient that vanishes on its way back."
    )
    return figure, numbers, caption


def selectivity(study: Study) -> Made:
    """How much single nodes prefer one class."""
    caption = (
        "Class selectivity of nodes (Morcos et al. 2018): how much larger the mean of a node's preferred class is than "
        "that of the others, from 0 to 1; mean over nodes and seeds."
    )
    return profiles(study, "selectivity", averaged(study, "selectivity", itemgetter("selectivity")), caption)


def linear_probes(study: Study) -> Made:
    """How well the class can be read off each layer along straight lines."""
    caption = (
        f"Linear probes on {study.settings.dataset}: the share of held-out training samples whose class a linear "
        "classifier of all the nodes of a layer gets right (Alain and Bengio 2017)."
    )
    return _of_shown(study, "linear_probe", caption)


def effective_ranks(study: Study) -> Made:
    """How many directions each layer uses."""
    caption = (
        "Effective rank (Roy and Vetterli 2007): how many directions the activations of a layer use, each by its share "
        "of the standard deviation."
    )
    return _of_shown(study, "effective_rank", caption)


def neural_collapse(study: Study) -> Made:
    """How far the classes of each layer have collapsed to points."""
    caption = (
        "Neural collapse, NC1 (Papyan, Han and Donoho 2020): the variance within the classes beside that of their "
        "means, in the directions in which the means differ; 0 where every class is a point. Logarithmic."
    )
    figure, numbers, caption = _of_shown(study, "neural_collapse_nc1", caption)
    for ax in figure.axes:
        ax.set_yscale("log")
    return figure, numbers, caption


def _of_shown(study: Study, variable: str, caption: str) -> Made:
    """One number a layer of the networks that are shown, of all activations."""
    return profiles(study, variable, study.tree, caption, study.settings.activations)


BEYOND: dict[str, Callable[..., Made]] = {
    "gradient_norms": gradient_norms,
    "selectivity": selectivity,
    "linear_probes": linear_probes,
    "effective_ranks": effective_ranks,
    "neural_collapse": neural_collapse,
}
