"""Sparseness of Treves and Rolls: of a node over the samples, and of a sample over the nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probekit.metrics._kernels.sums import Sums
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Spec, State, Variables
from probekit.metrics.ranges import SHARE, Ranges

__all__ = ["LifetimeSparseness", "PopulationSparseness"]


def _sparseness(size: Tensor, square: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """The sparseness of Vinje and Gallant and that of Hoyer, of vectors of `number` values.

    `size` are the sums of the values' sizes, `square` those of their squares. NaN for vectors of zeros, of one value,
    and of values that are infinite or whose squares are; both are functions of the ratio of the two norms.
    """
    wide = number.double()
    norms, root = (size / square.sqrt()).where(square.isfinite(), torch.nan), wide.sqrt()
    share = norms.square() / wide  # (Σ|x|/n)² / (Σx²/n)
    return ((1 - share) / (1 - 1 / wide)).clamp(0, 1), ((root - norms) / (root - 1)).clamp(0, 1)


@dataclass(frozen=True)
class LifetimeSparseness(Sums):
    """Lifetime sparseness: how unequally a node's activation is spread over the samples, from 0 (evenly) to 1 (on one).

    Float64 in [0, 1], over all n samples, whatever their class:

    - `lifetime_sparseness` (node): S = (1 − a) / (1 − 1/n) with a = (Σx/n)² / (Σx²/n). a is the activity ratio of
      Treves and Rolls (1991); Vinje and Gallant (2000) scaled it so that a node that is on for one sample has 1;
    - `lifetime_sparseness_hoyer` (node): (√n − Σ|x| / √Σx²) / (√n − 1), the sparseness of Hoyer (2004).

    x is the activation without its sign: for values that are never negative (ReLU, sigmoid) that is the definition of
    the sources, for others the size of a value counts. NaN at dead nodes, with fewer than two samples, and where a
    value is infinite. ReLU of normal values with mean 0 has S = 1 − 1/π = 0.68. It isn't `sparsity`, the share of
    samples for which a node is off, which doesn't see how strongly it is on.

    For feature maps each position is a sample of its own, also where other metrics see the mean over positions.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[2.0, 0], [2, 0], [2, 4], [2, 0]]))})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, "relu": relu}), "lifetime_sparseness")["relu"]
    >>> m["lifetime_sparseness"].values
    array([0., 1.])
    """

    name: ClassVar[str] = "lifetime_sparseness"
    ranges: ClassVar[Ranges] = {"lifetime_sparseness": SHARE, "lifetime_sparseness_hoyer": SHARE}
    positions: ClassVar[str] = "each"
    headline: ClassVar[Headline] = Headline(
        "lifetime_sparseness",
        "mean",
        "nodes answer strongly to few samples",
        missing="nodes are dead, or there are fewer than two samples",
    )

    def init(self, spec: Spec) -> State:
        # The classes don't matter: the axis of the classes is one long, whatever their number.
        zeros = torch.zeros(1, spec.nodes, dtype=torch.float64, device=spec.device)
        return {"count": torch.zeros(1, dtype=torch.int64, device=spec.device), "size": zeros, "square": zeros.clone()}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        size = x.double().abs()
        found = {"count": state["count"].new_tensor([len(x)]), "size": size.sum(0, keepdim=True)}
        return self.merge(state, found | {"square": size.square_().sum(0, keepdim=True)})

    def finalize(self, state: State) -> Variables:
        ours, hoyer = _sparseness(state["size"][0], state["square"][0], state["count"])
        return {
            "lifetime_sparseness": (("node",), ours.cpu().numpy()),
            "lifetime_sparseness_hoyer": (("node",), hoyer.cpu().numpy()),
        }


@dataclass(frozen=True)
class PopulationSparseness(Sums):
    """Population sparseness: how unequally a sample's activation is spread over a site's nodes, from 0 to 1.

    For each sample S = (1 − a) / (1 − 1/N) with a = (Σx/N)² / (Σx²/N) over the N nodes: 0 where all nodes are equally
    active, 1 where one alone is (Treves and Rolls 1991, scaled as by Vinje and Gallant 2000; of nodes, not of samples:
    Willmore and Tolhurst 2001). Float64 in [0, 1]:

    - `population_sparseness` (label): the mean over the samples of a class;
    - `population_sparseness_site` (): the mean over all samples;
    - `population_sparseness_hoyer` (): the mean over all samples of (√N − Σ|x| / √Σx²) / (√N − 1) (Hoyer 2004).

    x is the activation without its sign. Samples for which all nodes are 0 have no sparseness and don't count; NaN
    where none is left, for a site of one node, and where a value is infinite. Nodes weigh by their scale: a node with
    large values makes every sample look sparse.

    For feature maps each position is a sample of its own, also where other metrics see the mean over positions.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[2.0, 2], [2, 2], [2, 0], [0, 4]]))})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, "relu": relu}), "population_sparseness")["relu"]
    >>> m["population_sparseness"].values.round(6)
    array([0., 1.])
    """

    name: ClassVar[str] = "population_sparseness"
    ranges: ClassVar[Ranges] = {
        "population_sparseness": SHARE,
        "population_sparseness_site": SHARE,
        "population_sparseness_hoyer": SHARE,
    }
    scope: ClassVar[str] = "site"
    positions: ClassVar[str] = "each"
    headline: ClassVar[Headline] = Headline(
        "population_sparseness_site",
        None,
        "few nodes are strongly active for a sample",
        missing="every node is 0 for every sample, or the site has one node",
    )

    def init(self, spec: Spec) -> State:
        count = torch.zeros(spec.classes, dtype=torch.int64, device=spec.device)
        sums = torch.zeros(spec.classes, dtype=torch.float64, device=spec.device)
        return {"count": count, "sum": sums, "hoyer": sums.clone()}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        size = x.double().abs()
        norm, number = size.sum(1), torch.tensor(x.shape[1], device=x.device)
        ours, hoyer = _sparseness(norm, size.square_().sum(1), number)
        there, classes = norm > 0, len(state["count"])
        zeros = torch.zeros_like(state["sum"])
        found = {
            "count": state["count"].new_zeros(classes).index_add_(0, y, there.long()),
            "sum": zeros.index_add(0, y, ours.where(there, 0.0)),
            "hoyer": zeros.index_add(0, y, hoyer.where(there, 0.0)),
        }
        return self.merge(state, found)

    def finalize(self, state: State) -> Variables:
        number = state["count"].sum()
        return {
            "population_sparseness": (("label",), (state["sum"] / state["count"]).cpu().numpy()),
            "population_sparseness_site": ((), (state["sum"].sum() / number).cpu().numpy()),
            "population_sparseness_hoyer": ((), (state["hoyer"].sum() / number).cpu().numpy()),
        }
