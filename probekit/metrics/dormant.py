"""Nodes that are weak beside the others of their site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit.metrics._kernels.sums import Sums
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, at_least
from probekit.metrics.protocol import Spec, State, Variables
from probekit.metrics.ranges import SHARE, SIZE, Ranges

__all__ = ["Dormant"]


@dataclass(frozen=True)
class Dormant(Sums):
    """Number and share of a site's nodes that are τ-dormant: weak beside the mean activation of the site.

    The score of a node is the mean of ``|x|`` over the samples, divided by the mean of these means over the nodes of
    the site; a node is τ-dormant if its score is at most `tau` (Sokar et al. 2023, definition 3.1).

    - `dormant` (), int64, the number of such nodes, and `dormant_share` (), float64 in [0, 1], that number divided by
      the number of nodes;
    - `dormant_score` (node), float64 from 0 on: 1 for a node as active as the mean.

    With ``tau=0`` these are the nodes that are 0 for every sample: the `dead` ones of a ReLU. With the default 0.025
    they are also nodes that are on for few samples, or by little; a few very active nodes make many others dormant. At
    a site where every node is 0, all are dormant, and the scores are NaN. `dormant_share` and the scores are NaN, and
    `dormant` 0, without samples and where a value is infinite.

    For feature maps ``|x|`` is averaged over positions too, as by the authors, also where other metrics see the mean of
    a map.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[2.0, 0.03, 1], [2, 0, 1]]))})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, "relu": relu}), "dormant")["relu"]
    >>> m["dormant"].item(), m["dormant_score"].values.round(3)
    (1, array([1.99 , 0.015, 0.995]))
    """

    tau: float = 0.025
    limits: ClassVar[Limits] = {"tau": at_least(0)}
    name: ClassVar[str] = "dormant"
    ranges: ClassVar[Ranges] = {"dormant_share": SHARE, "dormant_score": SIZE}
    scope: ClassVar[str] = "site"
    positions: ClassVar[str] = "each"
    headline: ClassVar[Headline] = Headline(
        "dormant_share",
        None,
        "many nodes are weak beside the others of their site",
        missing="there are no samples, or a value is infinite",
    )

    def init(self, spec: Spec) -> State:
        size = torch.zeros(spec.nodes, dtype=torch.float64, device=spec.device)
        return {"count": torch.zeros((), dtype=torch.int64, device=spec.device), "size": size}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return self.merge(state, {"count": state["count"].new_tensor(len(x)), "size": x.double().abs().sum(0)})

    def finalize(self, state: State) -> Variables:
        mean = state["size"] / state["count"]
        of_site = mean.mean()
        known = of_site.isfinite()
        dormant = (mean <= self.tau * of_site) & known
        return {
            "dormant": ((), dormant.sum().cpu().numpy()),
            "dormant_share": ((), dormant.double().mean().where(known, torch.nan).cpu().numpy()),
            "dormant_score": (("node",), (mean / of_site).where(known, torch.nan).cpu().numpy()),
        }
