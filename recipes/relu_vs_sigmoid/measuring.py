"""What is measured of a network, once: what its nodes do for each class, and the gradients that reach its layers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from torch import nn

import probekit as pk
from probekit.errors import DataError

from .data import Split

__all__ = ["STATES", "gradients", "measured", "opened", "saturation"]

STATES = ("untrained", "trained")
SATURATED = 0.05  # a sigmoid this near to 0 or 1 counts as saturated
GRADIENT_SAMPLES = 2000


@pk.metric
def saturation(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Share of samples within 0.05 of a sigmoid's bounds, 0 and 1."""
    saturated = (values < SATURATED) | (values > 1 - SATURATED)
    shares: npt.NDArray[np.float64] = saturated.mean(axis=0)
    return shares


# What is measured of every seed's network, by the variables that it gives; and further of those that figures show.
OF_EACH: dict[str, Any] = {
    "median": pk.metrics.median,
    "mean": pk.metrics.Mean(),
    "std": pk.metrics.Std(),
    "sparsity": pk.metrics.Sparsity(),
    "saturation": saturation,
    "overlap": pk.metrics.Overlap(),
    "auroc_rest": pk.metrics.AUROC(pairs=False),
    "selectivity": pk.metrics.Selectivity(),
}
OF_SHOWN: dict[str, Any] = {
    **OF_EACH,
    "histogram": pk.metrics.Histogram(edges="width"),
    "overlap_null": pk.metrics.Overlap(null="permute"),
    "effective_rank": pk.metrics.EffectiveRank(),
    "linear_probe": pk.metrics.LinearProbe(),
    "neural_collapse_nc1": pk.metrics.NeuralCollapse(),
}
del OF_SHOWN["overlap"]  # which the last one gives too


def measured(network: nn.Module, name: str, split: Split, folder: Path, shown: bool) -> xr.DataTree:
    """The network's metrics on the training samples; the activations of those that are shown are kept on disk."""
    acts, metrics = folder / "acts" / f"{name}.zarr", folder / "metrics" / f"{name}.zarr"
    weights, wanted = pk.weights_digest(network), OF_SHOWN if shown else OF_EACH
    captured, done = _captured(acts, weights), _is_measured(metrics, weights, list(wanted))
    if not captured and (shown or not done):
        data = (split.train.x, split.train.y)
        pk.capture(
            network, data, acts, sites="act*", batch_size=512, class_names=split.class_names, overwrite=acts.exists()
        )
    if done:
        found = opened(metrics)
    else:
        shutil.rmtree(metrics, ignore_errors=True)
        found = pk.measure(acts, list(wanted.values()), out=metrics)
    if not shown:
        shutil.rmtree(acts, ignore_errors=True)
    return found


def gradients(network: nn.Module, name: str, split: Split, folder: Path) -> xr.DataTree:
    """How large the gradients of the loss are at each hidden layer, over the first samples of the training set."""
    acts, metrics = folder / "acts" / f"{name}-gradients.zarr", folder / "gradients" / f"{name}.zarr"
    if _is_measured(metrics, pk.weights_digest(network), ["gradient_norm"]):
        return opened(metrics)
    shutil.rmtree(metrics, ignore_errors=True)
    data = (split.train.x[:GRADIENT_SAMPLES], split.train.y[:GRADIENT_SAMPLES])
    pk.capture(network, data, acts, sites="act*:grad", batch_size=500, overwrite=acts.exists())
    found = pk.measure(acts, pk.metrics.GradientNorm(), out=metrics)
    shutil.rmtree(acts)
    return found


def opened(path: Path) -> xr.DataTree:
    """What was measured of a network, in memory."""
    if not path.exists():
        raise DataError(f"The run has no {str(path)!r}; start it again with its own version of probekit to measure it.")
    return xr.open_datatree(path, engine="zarr").load()


def _captured(path: Path, weights: str) -> bool:
    """Whether a complete store of these weights stands at `path`."""
    if not path.exists():
        return False
    store = pk.info(path)
    return store.complete and store.attrs["weights"] == weights


def _is_measured(path: Path, weights: str, variables: Sequence[str]) -> bool:
    """Whether a result of these weights, with these variables at every site, stands at `path`."""
    if not path.exists():
        return False
    tree = xr.open_datatree(path, engine="zarr")
    whole = all(set(variables) <= set(map(str, site.data_vars)) for site in tree.children.values())
    return tree.attrs["weights"] == weights and whole
