"""How a node's activation is shared out among the classes."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from torch import Tensor

from probekit.metrics._kernels.class_sums import class_counts, class_sums
from probekit.metrics._kernels.sums import Sums
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Spec, State, Variables
from probekit.metrics.ranges import SHARE, SIZE, Ranges

__all__ = ["FeatureEntropy"]


@dataclass(frozen=True)
class FeatureEntropy(Sums):
    """Entropy of the classes in a node's activation, in bits: 0 where one class has all of it, a monosemantic node.

    p_c = μ_c / Σμ is the share that class c has of a node's activation, where μ_c is the mean of max(x, 0) over the
    samples of the class: each class weighs the same, whatever its number of samples. This is the tissue specificity of
    Schug et al. (2005), with nodes in place of genes and classes in place of tissues. Float64:

    - `feature_entropy` (node), −Σ p_c log₂ p_c, from 0 to log₂ of the number of classes (evenly spread);
    - `feature_entropy_monosemanticity` (node), in [0, 1]: 1 − H / log₂ C, with C the classes that have samples: 1 for a
      node that is active for one class alone.

    NaN for a node that is never above 0, with fewer than two classes, and where a value is infinite; classes without
    samples don't count. `perplexity` counts the samples for which a node is on; this weighs how strongly it is on.
    A class is one label of the data: a node for fur is spread over cats and dogs, and isn't less of a feature for it.

    The means of few samples differ by chance. At n samples a class, of a node that ignores the classes, the entropy
    is too low by about (C − 1) / C · (σ/μ)² / (2 n ln 2) bits: 0.07 for σ = μ, ten classes and n = 10.

    For feature maps each position is a sample of its own, also where other metrics see the mean over positions.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[2.0, 1], [4, 3], [0, 4], [0, 0]]))})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, "relu": relu}), "feature_entropy")["relu"]
    >>> m["feature_entropy"].values
    array([0., 1.])
    """

    name: ClassVar[str] = "feature_entropy"
    ranges: ClassVar[Ranges] = {"feature_entropy": SIZE, "feature_entropy_monosemanticity": SHARE}
    positions: ClassVar[str] = "each"
    headline: ClassVar[Headline] = Headline(
        "feature_entropy",
        "mean",
        "the activation of nodes is spread over many classes",
        classes=2,
        missing="nodes are never above 0, or there are no two classes",
    )

    def init(self, spec: Spec) -> State:
        mass = torch.zeros(spec.classes, spec.nodes, dtype=torch.float64, device=spec.device)
        return {"count": torch.zeros(spec.classes, dtype=torch.int64, device=spec.device), "mass": mass}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        classes = len(state["count"])
        return self.merge(state, {"count": class_counts(y, classes), "mass": class_sums(x.clamp(min=0), y, classes)})

    def finalize(self, state: State) -> Variables:
        mean = state["mass"] / state["count"][:, None].clamp(min=1)  # 0 for a class without samples
        classes = int((state["count"] > 0).sum())
        total = mean.sum(0)
        known = total.isfinite() & (total > 0) if classes > 1 else torch.zeros_like(total, dtype=torch.bool)
        entropy = torch.special.entr(mean / total).sum(0).where(known, torch.nan)
        share = (1 - entropy / log(max(2, classes))).clamp(0, 1)
        return {
            "feature_entropy": (("node",), (entropy / log(2)).cpu().numpy()),
            "feature_entropy_monosemanticity": (("node",), share.cpu().numpy()),
        }
