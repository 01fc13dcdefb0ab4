"""What the next layer's weights make of a site's activations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.errors import PluginError
from probekit.metrics._kernels.sums import Sums
from probekit.metrics._kernels.weights import weights_of
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Spec, State, Variables
from probekit.metrics.ranges import CORRELATION, SHARE, SIZE, Ranges

__all__ = ["WeightAlignment"]


@dataclass(frozen=True)
class WeightAlignment(Sums):
    """How strongly a layer's weights W (unit, node) read each node, and how far each class lies along them.

    Float64:

    - `weight_norm` (node), from 0 on: the length of a node's column of W, over the units that read it;
    - `weight_alignment` (label), in [0, 1]: √(Σ ‖W x‖² / Σ ‖x‖²) / ‖W‖_F over the samples of a class, the share of the
      largest product that weights and activations of these sizes could have. Of activations that point nowhere in
      particular it is 1 / √nodes, which is `weight_alignment_chance` (). With r = `weight_alignment`, log r / log nodes
      + 1 is the alignment exponent of Everett et al. (2024): ½ of unrelated, 1 of aligned ones;
    - `weight_cosine` (label, unit), in [−1, 1]: the cosine of the mean of a class and a unit's weights, a row of W.

    NaN for a class without samples or whose activations are all 0, and where a value is infinite; `weight_cosine` also
    for a unit without weights.

    A store has no weights, so they are given: `layer.weight` of the linear layer that reads the site. A convolution's
    weights aren't a matrix of nodes. By its norm a node may matter and be always off: multiply `weight_norm` by the
    node's `mean` or `std` where that counts.

    Args:
        weights: (unit, node), an array or a tensor. At a site of another number of nodes the metric is refused.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[2.0, 0], [4, 0], [0, 3]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> m = pk.measure(tree, pk.metrics.WeightAlignment([[3, 0], [0, 4]]))["relu"]
    >>> m["weight_norm"].values, m["weight_alignment"].values
    (array([3., 4.]), array([0.6, 0.8]))
    """

    weights: Any = field(compare=False, repr=False)
    _digest: str = field(default="", init=False)
    name: ClassVar[str] = "weight_alignment"
    ranges: ClassVar[Ranges] = {"weight_norm": SIZE, "weight_alignment": SHARE, "weight_cosine": CORRELATION}
    scope: ClassVar[str] = "site"
    headline: ClassVar[Headline] = Headline(
        "weight_alignment",
        None,
        "classes lie where the weights of the next layer read most",
        beside="weight_alignment_chance",
        missing="the activations of a class are all 0, or a value is infinite",
    )

    def __post_init__(self) -> None:
        weights, digest = weights_of(self.weights, "WeightAlignment(weights=…)", "(unit, node)")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "_digest", digest)

    @property
    def parameters(self) -> dict[str, Any]:
        return {"weights": self._digest}

    def init(self, spec: Spec) -> State:
        units, nodes = self.weights.shape
        if spec.nodes != nodes:
            raise PluginError(
                f"WeightAlignment has the weights of {units} units that read {nodes} nodes, and the site has "
                f"{spec.nodes}. Choose the site that the layer reads (sites=)."
            )
        zeros = torch.zeros(spec.classes, dtype=torch.float64, device=spec.device)
        return {"sum": zeros[:, None].expand(-1, nodes).clone(), "squares": zeros, "products": zeros.clone()}

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        x = x.double()
        read = x @ torch.tensor(self.weights, device=x.device).T
        of_batch = {"sum": x, "squares": x.square().sum(1), "products": read.square().sum(1)}
        return {name: total.index_add(0, y, of_batch[name]) for name, total in state.items()}

    def finalize(self, state: State) -> Variables:
        sums, squares, products = (state[name].cpu().numpy() for name in ("sum", "squares", "products"))
        norms = np.linalg.norm(self.weights, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):  # NaN where there is nothing to compare, or infinity
            alignment = np.sqrt(products / squares) / np.linalg.norm(self.weights)
            cosine = sums @ self.weights.T / np.linalg.norm(sums, axis=1)[:, None] / norms
        return {
            "weight_norm": (("node",), np.linalg.norm(self.weights, axis=0)),
            "weight_alignment": (("label",), alignment),
            "weight_alignment_chance": ((), np.asarray(self.weights.shape[1] ** -0.5)),
            "weight_cosine": (("label", "unit"), cosine),
        }
