"""Neural collapse: how closely the classes of a site have contracted to the corners of a simplex."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.metrics._kernels.class_means import class_moments, own_mean_share, unit_batches, unit_bytes
from probekit.metrics._kernels.weights import weights_of
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Parameters, Samples, Spec, Variables
from probekit.metrics.ranges import SHARE, SIZE, UP_TO_ONE, Ranges

__all__ = ["NeuralCollapse"]

_LEAST = 1e-6  # relative to the largest deviation of the class means
_ROUNDING = 1e-12  # relative to the class means: a smaller deviation may come from the order of summation
_RELIABLE = 0.5  # below which the directions of the class means are more of noise than of the classes


@dataclass(frozen=True)
class NeuralCollapse(Parameters):
    """Degree of neural collapse of the classes: NC1, NC2, NC3 and NC4, without what few samples add.

    In a classifier trained until its loss is nearly 0, the samples of a class converge to their mean, and the class
    means to the corners of a simplex around their centre (Papyan, Han and Donoho 2020). μ_c are the class means, μ is
    their mean, and C the number of classes that have samples. All variables are () and float64:

    - `neural_collapse_nc1`: Tr(Σ_W Σ_B⁺) / C, with Σ_W the mean over the classes of their covariances, and Σ_B⁺ the
      pseudo-inverse of the mean of (μ_c − μ)(μ_c − μ)ᵀ: the variance within the classes relative to the variance of
      the means, in the directions in which the means differ. From 0 (collapsed) to infinity (no difference of means);
    - `neural_collapse_nc2_norms`: the standard deviation of ‖μ_c − μ‖ over the classes, divided by its mean. 0 where
      the means are equally far from their centre;
    - `neural_collapse_nc2_cosines`: the mean over the pairs of classes of ``|cos(μ_a − μ, μ_b − μ) + 1/(C − 1)|``,
      from 0 (a simplex) to 2. 0 needs at least C − 1 nodes;
    - `neural_collapse_nc3`: ‖W / ‖W‖ − M / ‖M‖‖, by Frobenius norms, with the rows μ_c − μ of M and the weights W
      (class, node) of the layer that follows, which `head` gives: from 0 (self-dual) over √2 (unrelated) to 2. It is
      given with a `head` only; NaN at a site with another number of nodes than its columns, and for groups that aren't
      as many as its rows: ``NeuralCollapse(head=model.fc.weight)``;
    - `neural_collapse_nc4`: the share of samples, in [0, 1], whose nearest class mean is that of their own class, the
      sample itself being left out of it; as `separability_nearest_mean`. 1 once collapsed; for noise about 1 / C from
      20 samples a class on, and more of fewer;
    - `neural_collapse_reliability`: the share of the variance of the class means that isn't sampling noise, at most 1;
      0, or a little below, where the classes have equal means.

    The means of few samples in many dimensions differ, in orthogonal directions and by equal lengths: noise looks like
    a simplex. So the noise of the means, s_c² / n_c, is taken from their products: Σ_c ‖μ_c − μ‖², the norms and the
    cosines come from unbiased estimates of (μ_a − μ)·(μ_b − μ), and covariances have ddof 1. In NC1 the noise is taken
    to be the same share in each direction, so Σ_B is multiplied by the reliability; NC1 is infinite where that isn't
    above 0. NC2 and NC3 are NaN where it is below ½. The variance of a class of one sample is taken to be the mean of
    the others'. Consecutive rows of one sample, such as tokens, count as one draw.

    Papyan's NC4 is the share of samples for which the network decides as the nearest class mean does. Here only the
    activations of the network are known, so the sample's own class replaces the decision. The two agree where the
    network classifies all samples correctly, as it does its training samples at the end of training. Grouped by a
    column of the network's predictions (``by="prediction"``), NC4 compares each prediction with the nearest of the
    means over the samples with equal predictions.

    Each class weighs the same, except in NC4, where each sample does; for many samples and classes of one size this is
    Papyan's definition. All are NaN with fewer than two classes, without a class of two samples, at constant nodes, and
    where a value is infinite or so large that its square is. NC2 of two classes is always 0, and `nc2_cosines` is NaN
    where a class mean lies on the centre. Directions in which the means differ by less than a millionth of the largest
    difference are left out, and a mean lies on the centre where it is that near to it: with float32 activations that
    may be rounding errors, as after a narrower layer. Means that differ by less than 1e-12 of their length count as
    equal.

    The metric is meant for the layer before the last, on the samples that the network was trained on. It reads them
    three times and needs memory for the class means alone.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 1, 2, 0, 1, 2])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.eye(3)[[0, 1, 2, 0, 1, 2]])})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> m = pk.measure(tree, pk.metrics.NeuralCollapse(head=np.eye(3) - 1 / 3))["relu"]
    >>> [round(m[f"neural_collapse_{name}"].item(), 6) for name in ("nc1", "nc3", "nc4")]
    [0.0, 0.0, 1.0]
    """

    head: Any = field(default=None, compare=False, repr=False)
    _digest: str | None = field(default=None, init=False)
    name: ClassVar[str] = "neural_collapse"
    ranges: ClassVar[Ranges] = {
        "neural_collapse_nc1": SIZE,
        "neural_collapse_nc2_norms": SIZE,
        "neural_collapse_nc2_cosines": (0.0, 2.0),
        "neural_collapse_nc3": (0.0, 2.0),
        "neural_collapse_nc4": SHARE,
        "neural_collapse_reliability": UP_TO_ONE,
    }
    split_by: ClassVar[None] = None
    headline: ClassVar[Headline] = Headline(
        "neural_collapse_nc1",
        None,
        "samples spread widely around the mean of their class: no collapse",
        beside="neural_collapse_reliability",
        classes=2,
        missing="it needs two classes, one of two samples, a site whose nodes aren't constant, and finite values",
    )
    # Version 1 counted directions that were rounding errors of float32, version 2 distances that were; until version 3
    # the noise of the means counted as their difference, and NC4 was of the means of the samples themselves.
    version: ClassVar[int] = 4

    def __post_init__(self) -> None:
        if self.head is None:
            return
        head, digest = weights_of(self.head, "NeuralCollapse(head=…)", "(class, node)")
        object.__setattr__(self, "head", head)
        object.__setattr__(self, "_digest", digest)

    @property
    def parameters(self) -> dict[str, Any]:
        return {"head": self._digest}

    def memory(self, spec: Spec, samples: int) -> int:
        # With the means and what their decomposition takes; products of all classes.
        return unit_bytes(spec, samples) + 24 * spec.classes * spec.nodes + 32 * spec.classes**2

    def compute_samples(self, samples: Samples) -> Variables:
        state = class_moments(samples)
        there = state["count"].nonzero().flatten()
        means = state["mean"][there]
        centred = means - means[:1]
        centred = centred - centred.mean(0)
        if torch.linalg.vector_norm(centred) <= _ROUNDING * torch.linalg.vector_norm(means):
            centred = torch.zeros_like(centred)
        spread = centred.square().sum() + state["m2"].sum()
        names = ("nc1", "nc2_norms", "nc2_cosines", "nc4", "reliability", *(["nc3"] if self.head is not None else []))
        found = dict.fromkeys(names, np.nan)
        if len(there) > 1 and spread.isfinite() and spread > 0 and bool((state["count"] > 1).any()):
            whitened, noise = _within(samples, state["mean"], _whitening(centred))
            found["nc4"] = own_mean_share(samples, state)
            found |= self._of_means(samples, there, centred, whitened[there], noise[there])
        return {f"neural_collapse_{name}": ((), np.asarray(found[name], np.float64)) for name in names}

    def _of_means(
        self, samples: Samples, there: Tensor, centred: Tensor, whitened: Tensor, noise: Tensor
    ) -> dict[str, float]:
        """What the class means tell, without their `noise` (class,)."""
        known = noise.isfinite()
        if not known.any():
            return {}
        products = centred @ centred.T
        apart = products - noise.where(known, noise[known].mean()).diag()
        apart = apart - apart.mean(0)
        apart = apart - apart.mean(1, keepdim=True)
        reliability = float(apart.trace() / products.trace()) if centred.any() else 0.0
        found = {"reliability": reliability, "nc1": np.inf}
        if reliability > 0:
            found["nc1"] = float(whitened[known].mean()) / len(there) / reliability
        if reliability >= _RELIABLE:
            found["nc2_norms"], found["nc2_cosines"] = _simplex(apart)
            if self.head is not None and self.head.shape == (samples.classes, samples.nodes):
                head = torch.tensor(self.head)[there]
                cosine = (head * centred).sum() / torch.linalg.vector_norm(head) / apart.trace().sqrt()
                found["nc3"] = float((2 - 2 * cosine).clamp(min=0).sqrt())
        return found


def _whitening(centred: Tensor) -> Tensor:
    """W (node, direction) with W Wᵀ = Σ_B⁺, from the class means less their mean (class, node)."""
    _, deviations, directions = torch.linalg.svd(centred / len(centred) ** 0.5, full_matrices=False)
    kept = deviations > _LEAST * deviations[0]
    whitening: Tensor = directions[kept].T / deviations[kept]
    return whitening


def _within(samples: Samples, means: Tensor, whitening: Tensor) -> tuple[Tensor, Tensor]:
    """Tr(Σ_c Σ_B⁺) of each class, and the noise of its mean, the trace of its covariance by n_c; (class,) both.

    NaN for a class of one unit. Rows of a unit are one draw: the noise is Σ_u ‖Σ_{i ∈ u} (x_i − μ_c)‖² / n_c², times
    U / (U − 1) for U units.
    """
    counts, units, whitened, noise = (means.new_zeros(len(means)) for _ in range(4))
    for x, y, groups in unit_batches(samples):
        x -= means[y]
        sums = x.new_zeros(int(groups.max()) + 1, x.shape[1]).index_add_(0, groups, x)
        of_groups = y.new_zeros(len(sums)).scatter_(0, groups, y)
        counts.index_add_(0, y, x.new_ones(len(x)))
        units.index_add_(0, of_groups, x.new_ones(len(sums)))
        whitened.index_add_(0, y, (x @ whitening).square().sum(1))
        noise.index_add_(0, of_groups, sums.square().sum(1))
    alone = units < 2
    whitened = (whitened / (counts - 1)).masked_fill(alone, torch.nan)
    return whitened, (noise / counts.square() * units / (units - 1)).masked_fill(alone, torch.nan)


def _simplex(products: Tensor) -> tuple[float, float]:
    """Both NC2 variables, from the products of the class means less their mean (class, class)."""
    classes, norms = len(products), products.diagonal().clamp(min=0).sqrt()
    lengths = norms.where(norms > _LEAST * norms.max(), torch.nan)
    first, second = torch.triu_indices(classes, classes, 1)
    deviations = ((products / lengths / lengths[:, None])[first, second] + 1 / (classes - 1)).abs()
    return float(norms.std(correction=0) / norms.mean()), float(deviations.mean())
