"""Neural collapse: how closely the classes of a site have contracted to the corners of a simplex."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.metrics._kernels.class_means import class_moments, nearest
from probekit.metrics._kernels.sample_batches import tensor_batches
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Parameters, Samples, Spec, Variables

__all__ = ["NeuralCollapse"]

_LEAST = 1e-6  # relative to the largest deviation of the class means
_ROUNDING = 1e-12  # relative to the class means: a smaller deviation may come from the order of summation


@dataclass(frozen=True)
class NeuralCollapse(Parameters):
    """Degree of neural collapse of the classes: NC1, NC2 and NC4.

    In a classifier trained until its loss is nearly 0, the samples of a class converge to their mean, and the class
    means to the corners of a simplex around their centre (Papyan, Han and Donoho 2020). μ_c are the class means, μ is
    their mean, and C the number of classes that have samples. All variables are () and float64:

    - `neural_collapse_nc1`: Tr(Σ_W Σ_B⁺) / C, with Σ_W the mean over the classes of their covariances, and Σ_B⁺ the
      pseudo-inverse of the mean of (μ_c − μ)(μ_c − μ)ᵀ: the variance within the classes relative to the variance of
      the means, in the directions in which the means differ. From 0 (collapsed) to infinity (all means equal);
    - `neural_collapse_nc2_norms`: the standard deviation of ‖μ_c − μ‖ over the classes, divided by its mean. 0 where
      the means are equally far from their centre;
    - `neural_collapse_nc2_cosines`: the mean over the pairs of classes of ``|cos(μ_a − μ, μ_b − μ) + 1/(C − 1)|``,
      from 0 (a simplex) to 2. 0 needs at least C − 1 nodes;
    - `neural_collapse_nc4`: the share of samples, in [0, 1], whose nearest class mean is the mean of their own class.
      1 once collapsed; if several means are equally near, the first counts.

    Papyan's NC4 is the share of samples for which the network decides as the nearest class mean does. Here only the
    activations of the network are known, so the sample's own class replaces the decision. The two agree where the
    network classifies all samples correctly, as it does its training samples at the end of training. Grouped by a
    column of the network's predictions (``by="prediction"``), NC4 compares each prediction with the nearest of the
    means over the samples with equal predictions.

    Each class weighs the same, except in NC4, where each sample does; for classes of one size this is Papyan's
    definition. NC3 needs the last layer's weights and isn't computed. All are NaN with fewer than two classes, at
    constant nodes, and where a value is infinite or so large that its square is. NC2 of two classes is always 0, and
    `nc2_cosines` is NaN where a class mean lies on the centre. Directions in which the means differ by less than a
    millionth of the largest difference are left out, and a mean lies on the centre where it is that near to it: with
    float32 activations that may be rounding errors, as after a narrower layer. Means that differ by less than 1e-12 of
    their length count as equal.

    The metric is meant for the layer before the last, on the samples that the network was trained on. It reads them
    twice and needs memory for the class means alone.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 1, 2, 0, 1, 2])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.eye(3)[[0, 1, 2, 0, 1, 2]])})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> m = pk.measure(tree, pk.metrics.NeuralCollapse())["relu"]
    >>> m["neural_collapse_nc1"].item(), m["neural_collapse_nc4"].item()
    (0.0, 1.0)
    """

    name: ClassVar[str] = "neural_collapse"
    headline: ClassVar[Headline] = Headline(
        "neural_collapse_nc1",
        None,
        "samples spread widely around the mean of their class: no collapse",
        missing="it needs two classes, a site whose nodes aren't constant, and finite values",
    )
    # Version 1 counted directions that were rounding errors of float32, version 2 distances that were.
    version: ClassVar[int] = 3

    def memory(self, spec: Spec, samples: int) -> int:
        return 72 * spec.classes * spec.nodes  # two states, the means, and what their decomposition takes

    def compute_samples(self, samples: Samples) -> Variables:
        state = class_moments(samples)
        there = state["count"].nonzero().flatten()
        means = state["mean"][there]
        centred = means - means[:1]
        centred = centred - centred.mean(0)
        if torch.linalg.vector_norm(centred) <= _ROUNDING * torch.linalg.vector_norm(means):
            centred = torch.zeros_like(centred)
        spread = centred.square().sum() + state["m2"].sum()
        found = [np.nan] * 4
        if len(there) > 1 and spread.isfinite() and spread > 0:
            within, agreeing = _second_pass(samples, state["mean"], there, _whitening(centred))
            found = [within if centred.any() else np.inf, *_simplex(centred), agreeing]
        names = ("nc1", "nc2_norms", "nc2_cosines", "nc4")
        return {f"neural_collapse_{name}": ((), np.asarray(value)) for name, value in zip(names, found, strict=True)}


def _whitening(centred: Tensor) -> Tensor:
    """W (node, direction) with W Wᵀ = Σ_B⁺, from the class means less their mean (class, node)."""
    _, deviations, directions = torch.linalg.svd(centred / len(centred) ** 0.5, full_matrices=False)
    kept = deviations > _LEAST * deviations[0]
    whitening: Tensor = directions[kept].T / deviations[kept]
    return whitening


def _second_pass(samples: Samples, means: Tensor, there: Tensor, whitening: Tensor) -> tuple[float, float]:
    """Tr(Σ_W Σ_B⁺) / C, and the share of samples whose nearest class mean is the mean of their own class."""
    squares, hits = means.new_zeros(len(means)), 0
    for x, y in tensor_batches(samples):
        squares.index_add_(0, y, ((x.double() - means[y]) @ whitening).square().sum(1))
        hits += int((there[nearest(x, means[there])] == y).sum())
    counts = torch.from_numpy(np.bincount(samples.codes, minlength=len(means)))
    return float((squares / counts)[there].mean()) / len(there), hits / samples.number


def _simplex(centred: Tensor) -> tuple[float, float]:
    """Both NC2 variables, from the class means less their mean (class, node)."""
    classes, norms = len(centred), torch.linalg.vector_norm(centred, dim=1)
    unit = centred / norms.where(norms > _LEAST * norms.max(), torch.nan)[:, None]
    first, second = torch.triu_indices(classes, classes, 1)
    deviations = ((unit @ unit.T)[first, second] + 1 / (classes - 1)).abs()
    return float(norms.std(correction=0) / norms.mean()), float(deviations.mean())
