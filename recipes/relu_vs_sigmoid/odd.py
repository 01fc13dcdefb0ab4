"""Where the paper is odd: sparsity hangs on the learning rate, and medians of 0 are not means."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import probekit as pk

from .evidence import of_kind
from .figures import Made
from .measuring import STATES
from .study import Study
from .table import PAPER

__all__ = ["odd_points", "sparsity_by_rate"]


def sparsity_by_rate(study: Study) -> Made:
    """How many samples ReLU layers are inactive for, against the learning rate, above the accuracy there."""
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
    epochs = int(numbers.epochs.max())
    caption = (
        f"ReLU networks of the learning-rate search on {study.settings.dataset} ({epochs} epochs, "
        f"{study.settings.seeds} seeds, mean and standard error): the share of inactive samples in each layer, and the "
        "best validation accuracy. Sparsity moves far where accuracy hardly does."
    )
    return figure, numbers, caption


def _rates(study: Study) -> pd.DataFrame:
    """A row for each layer of each ReLU network that the search trained in the shape that is probed."""
    assert study.searched is not None  # or there is nothing to draw
    config = study.of("relu", False)
    found = of_kind(study.searched, activation="relu", depth=config.depth, width=config.width)
    keys = ["batch_norm", "seed", "learning_rate", "epochs", "validation_accuracy"]
    long = found[[*keys, "inactive"]].explode("inactive", ignore_index=True)
    layer = long.groupby(["batch_norm", "seed", "learning_rate"]).cumcount() + 1
    return long.assign(layer=layer, inactive=100 * long.inactive.astype(float))


def odd_points(study: Study) -> pd.DataFrame:
    """A row for each layer of the ReLU networks: what can't be as the paper says it.

    `zero_medians`: percent of (node, class) medians that are exactly 0. `mean_above_median`: the mean difference of
    mean and median within a class, in units of the mean standard deviation within a class; 0 where they are «almost
    identical». `inactive` and its `standard_error` over seeds in percent; `errors_from_half`: for untrained networks
    (inactive - 50) / standard error, since by symmetry 50 % are expected.
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
