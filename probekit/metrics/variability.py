"""The variance within pairs of classes relative to the distance of their means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.metrics._kernels.class_moments import ClassMoments
from probekit.metrics._kernels.class_pairs import keeps_pairs
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Spec, State, Variables
from probekit.metrics.ranges import SIZE, Ranges

__all__ = ["CDNV"]

_TIMES = -40.0, 36.0  # logarithms between which an integral from 0 to infinity is summed up
_STEP = 0.25


@dataclass(frozen=True)
class CDNV(ClassMoments):
    """Class-distance normalized variance: the variance within two classes relative to the distance of their means.

    V(a, b) = (σ_a² + σ_b²) / (2 ‖μ_a − μ_b‖²), with σ_c² the mean of ‖x − μ_c‖² over a class (Galanti, György and
    Hutter 2021). From 0, where the classes have collapsed to points, to infinity, where their means are equal;
    unlike NC1 it needs no inverse, so it is stable for few classes and many nodes. Float64:

    - `cdnv` (): the mean over the pairs of classes, as in the paper: infinite where one pair's is;
    - `cdnv_median` (): the median over the pairs, which one such pair doesn't decide;
    - `cdnv_inverse` (): the mean over the pairs of 1 / V, how far the classes are apart in units of their spread. 0
      says nothing;
    - `cdnv_pairs` (label, label_b): each pair, NaN on the diagonal; kept up to 64 classes, or as `pairs` says.

    The means of n_a and n_b samples are apart by σ_a² / n_a + σ_b² / n_b by chance alone, which for noise makes V n / 2
    rather than infinite. With `unbiased`, the default, that is taken from the squared distance, with σ² of ddof 1, and
    V is infinite where nothing above 0 is left; `cdnv_inverse` then takes the negative number. It also divides
    the distance by how much the inverse of a variance of few samples is too large on average, E[1/σ²], which has a
    closed form for normal values and independent nodes. So its mean is 0 for classes that are alike. Nodes that vary
    together leave a part: of 100 classes of 2 samples at 5 nodes with correlations of 0.8, 0.55, and of 5 samples 0.07.
    ``unbiased=False`` gives the paper's plug-in numbers, with σ² of ddof 0.

    Classes without samples, or with one if `unbiased`, are NaN in their pairs and left out of the mean and the median;
    so is nothing else, but for pairs of two samples each at a single node in `cdnv_inverse`. With fewer than two
    classes left, and where a value is infinite, all are NaN. Where rows are tokens, those of a sample aren't
    independent, and too little is taken from the distances.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[-1.0], [1], [9], [11]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> pk.measure(tree, pk.metrics.CDNV(unbiased=False))["relu"]["cdnv"].item()
    0.01
    """

    unbiased: bool = True
    pairs: bool | None = None
    version: ClassVar[int] = 2  # version 1 of cdnv_inverse was above 0 for alike classes of few samples at few nodes
    name: ClassVar[str] = "cdnv"
    interval: ClassVar[str] = "jackknife"
    headline: ClassVar[Headline] = Headline(
        "cdnv_median",
        None,
        "classes spread widely beside the distance of their means: no collapse",
        beside="cdnv_inverse",
        classes=2,
        missing="it needs two classes of two samples, nodes that aren't constant, and finite values",
    )

    @property
    def ranges(self) -> Ranges:
        found = dict.fromkeys(("cdnv", "cdnv_median", "cdnv_pairs"), SIZE)
        return found if self.unbiased else found | {"cdnv_inverse": SIZE}

    def memory(self, spec: Spec, samples: int) -> int:
        return super().memory(spec, samples) + 12 * 8 * spec.classes**2

    def finalize(self, state: State) -> Variables:
        count, classes = state["count"].double(), len(state["count"])
        there = (state["count"] > int(self.unbiased)).nonzero().flatten()
        number = len(there)
        means, count = state["mean"][there], count[there]
        variance = state["m2"][there].sum(1) / (count - int(self.unbiased))
        finite = means.isfinite().all(1)
        means = means - means[finite][:1] if finite.any() else means  # the common part would cancel in the products
        squares = means.square().sum(1)
        distance = (squares[:, None] + squares - 2 * means @ means.T).clamp(min=0)
        spread = (variance[:, None] + variance) / 2
        first, second = torch.triu_indices(number, number, 1, device=spread.device)
        spread, distance = spread[first, second], distance[first, second]
        inverse = distance / spread
        if self.unbiased:
            noise = (variance / count)[first] + (variance / count)[second]
            excess = _inverse_excess(state["m2"][there], count)[first, second]
            inverse = ((distance / excess - noise) / spread)[excess.isfinite()]
            distance = distance - noise
        # Infinite where the means are equal, as far as can be told; two equal points have no ratio.
        values = (spread / distance).where((distance > 0) | (spread == 0) | spread.isnan(), torch.inf)
        values = values.masked_fill((spread == 0) & (distance <= 0), torch.nan)
        found: Variables = {
            "cdnv": ((), values.mean().cpu().numpy()),
            "cdnv_median": ((), np.asarray(np.median(values.cpu().numpy()) if len(values) else np.nan)),
            "cdnv_inverse": ((), inverse.mean().cpu().numpy()),
        }
        if keeps_pairs(classes, self.pairs):
            table = means.new_full((classes, classes), torch.nan)
            table[there[first], there[second]] = values
            table[there[second], there[first]] = values
            found["cdnv_pairs"] = ("label", "label_b"), table.cpu().numpy()
        return found


def _inverse_excess(m2: Tensor, count: Tensor) -> Tensor:
    """E[1/S] · E[S] of the mean S of the variances of two classes, (class, class): 1 where nothing varies.

    S is a sum of χ² variables with weights w, so that E[1/S] = ∫ E[exp(−t S)] dt = ∫ Π (1 + 2 w t)^(−1/2) dt from 0 to
    infinity. It is infinite for two degrees of freedom.
    """
    variance = m2.sum(0)
    if not variance.sum() > 0:
        return torch.ones_like(count[:, None] - count)
    share = variance[variance > 0] / variance.sum()
    free, of_class = (count - 1).unique(return_inverse=True)
    logarithms = torch.arange(*_TIMES, _STEP, dtype=count.dtype, device=count.device)
    each = torch.stack([(at - free * (share * at.exp() / free[:, None]).log1p().sum(1)) / 2 for at in logarithms], 1)
    found = _STEP * (each.exp() @ each.exp().T)
    known = len(share) * (free[:, None] + free) > 2
    return found.where(known, torch.inf)[of_class][:, of_class]
