"""The shape of each class's distribution at a node: how lopsided it is, and how heavy its tails are."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from probekit.metrics._kernels.class_moments import first_of_each
from probekit.metrics._kernels.class_sums import class_counts, class_sums
from probekit.metrics._kernels.relabelled_sums import RelabelledMoments
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import BATCH, Parameters, Spec, State, Variables
from probekit.metrics.ranges import Ranges

__all__ = ["Kurtosis", "Skewness"]


class _FourMoments(Parameters):
    """Base of both: the state is `count` (class), `mean` and the sums of powers `m2`, `m3`, `m4` (class, node).

    ``mk`` is Σ(x − μ_c)ᵏ, merged as by Pébay (2008, eq. 3.1), who never subtracts two large sums. Where all samples of
    a class are equal at a node, the sums are exactly 0.
    """

    state_key: ClassVar[str] = "four moments"

    def init(self, spec: Spec) -> State:
        count = torch.zeros(spec.classes, dtype=torch.int64, device=spec.device)
        zeros = torch.zeros(spec.classes, spec.nodes, dtype=torch.float64, device=spec.device)
        return {"count": count, **{key: zeros.clone() for key in ("mean", "m2", "m3", "m4")}}

    def memory(self, spec: Spec, samples: int) -> int:
        # The state, that of a batch, a new one, and the terms of their sums; a batch and its powers in float64.
        return 34 * 8 * spec.classes * spec.nodes + 5 * 8 * min(BATCH, samples) * spec.nodes

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        if not len(x):
            return dict(state)
        classes = len(state["count"])
        count = class_counts(y, classes)
        first = x.index_select(0, first_of_each(y, classes)).double()  # exactly the mean where a class is constant
        gap = x.double().sub(first.index_select(0, y))
        shift = class_sums(gap, y, classes) / count[:, None].clamp(min=1)
        gap.sub_(shift.index_select(0, y))
        square = gap.square()
        of_batch = {"m2": square, "m3": gap.mul_(square), "m4": square * square}
        sums = {key: class_sums(power, y, classes) for key, power in of_batch.items()}
        there = count[:, None] > 0
        return self.merge(state, {"count": count, "mean": torch.where(there, first + shift, 0.0), **sums})

    def relabelled(self, spec: Spec, labellings: int) -> RelabelledMoments:
        return RelabelledMoments(spec, labellings, 4)

    def merge(self, a: State, b: State) -> State:
        m, n = a["count"][:, None].double(), b["count"][:, None].double()
        both = (m > 0) & (n > 0)
        total = (m + n).clamp(min=1)
        gap = torch.where(both, b["mean"] - a["mean"], 0.0)
        here, there = m / total, n / total
        apart = gap.square() * m * there
        m3 = apart * gap * (here - there) + 3 * gap * (here * b["m2"] - there * a["m2"])
        m4 = apart * gap.square() * (here.square() - here * there + there.square())
        m4 += 6 * gap.square() * (here.square() * b["m2"] + there.square() * a["m2"])
        m4 += 4 * gap * (here * b["m3"] - there * a["m3"])
        mean = torch.where(m > 0, a["mean"] + gap * there, b["mean"])
        sums = {key: a[key] + b[key] + more for key, more in (("m2", apart), ("m3", m3), ("m4", m4))}
        return {"count": a["count"] + b["count"], "mean": mean, **sums}


def _known(state: State) -> Tensor:
    """Where there is a spread whose fourth power is neither too small nor too large for float64."""
    return (state["m4"] > torch.finfo(torch.float64).tiny) & state["m4"].isfinite()


@dataclass(frozen=True)
class Skewness(_FourMoments):
    """Skewness of each class at each node: above 0 where few values lie far above the others.

    `skewness` (label, node), float64, without a unit: √n Σ(x − μ_c)³ / (Σ(x − μ_c)²)^{3/2}, the third standardised
    moment g₁ (Fisher 1930), which is scipy's ``skew``. 0 for a symmetric distribution, 2 for an exponential one. NaN
    for a class without samples, for a node that is constant in a class, and where a value is infinite, or its fourth
    power doesn't fit in float64.

    It is that of the samples: ``|g₁|`` can't exceed (n − 2) / √(n − 1), so of few samples it is too small. A few
    outliers decide it.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 0, 0])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[0.0, 1], [0, 2], [0, 3], [4, 4]]))})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, "relu": relu}), "skewness")["relu"]
    >>> m["skewness"].values.round(3)
    array([[1.155, 0.   ]])
    """

    name: ClassVar[str] = "skewness"
    headline: ClassVar[Headline] = Headline(
        "skewness",
        "median",
        "few values of a class lie far above the others",
        neutral=0.0,
        missing="a node is constant in a class, or a class has no samples",
    )

    def finalize(self, state: State) -> Variables:
        spread = state["m2"] / state["count"][:, None]
        value = state["m3"] / state["count"][:, None] / spread / spread.sqrt()
        return {"skewness": (("label", "node"), value.where(_known(state), torch.nan).cpu().numpy())}


@dataclass(frozen=True)
class Kurtosis(_FourMoments):
    """Excess kurtosis of each class at each node: above 0 where the tails are heavier than a normal distribution's.

    `kurtosis` (label, node), float64, without a unit: n Σ(x − μ_c)⁴ / (Σ(x − μ_c)²)² − 3, the fourth standardised
    moment less that of a normal distribution (g₂, Fisher 1930), which is scipy's ``kurtosis``. From −2 (two values,
    equally often); −1.2 for a uniform distribution, 0 for a normal, 6 for an exponential one. NaN for a class without
    samples, for a node that is constant in a class, and where a value is infinite, or its fourth power doesn't fit in
    float64.

    It is that of the samples: of n normal samples it is −6 / (n + 1) on average. A single outlier decides it. A node
    that is off for most samples has a large kurtosis, which is why it was used as a measure of sparseness (Field 1994);
    `lifetime_sparseness` is the bounded one.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 0, 0])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[0.0, 1], [0, 2], [0, 3], [4, 4]]))})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, "relu": relu}), "kurtosis")["relu"]
    >>> m["kurtosis"].values.round(3)
    array([[-0.667, -1.36 ]])
    """

    name: ClassVar[str] = "kurtosis"
    ranges: ClassVar[Ranges] = {"kurtosis": (-2.0, inf)}
    headline: ClassVar[Headline] = Headline(
        "kurtosis",
        "median",
        "tails are heavier than a normal distribution's",
        neutral=0.0,
        missing="a node is constant in a class, or a class has no samples",
    )

    def finalize(self, state: State) -> Variables:
        spread = state["m2"] / state["count"][:, None]
        value = state["m4"] / state["count"][:, None] / spread / spread - 3
        return {"kurtosis": (("label", "node"), value.where(_known(state), torch.nan).cpu().numpy())}
