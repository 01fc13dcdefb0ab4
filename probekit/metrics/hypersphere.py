"""Alignment and uniformity: how the directions of samples lie on the unit sphere."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit._beats import in_turn
from probekit.metrics._kernels.class_sums import class_counts
from probekit.metrics._kernels.row_sampling import draws
from probekit.metrics._kernels.sample_batches import PIECE
from probekit.metrics._kernels.sums import Sums
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, above, at_least
from probekit.metrics.protocol import Parameters, Samples, Spec, State, Variables
from probekit.metrics.ranges import Ranges

__all__ = ["Alignment", "Uniformity"]


@dataclass(frozen=True)
class Alignment(Sums):
    """How far samples of a class lie apart on the unit sphere, beside samples of different classes.

    Each sample's values at all nodes of the site are divided by their length, f = x / ‖x‖. The alignment is the mean of
    ‖f_i − f_j‖² over the pairs of different samples of a class (Wang and Isola 2020, with α = 2; the positive pairs are
    those of a class, as in supervised contrastive learning). Float64, from 0 (one direction) to 4:

    - `alignment` (): the mean over the classes, each of which weighs the same;
    - `alignment_classes` (label): of each class; NaN for a class of fewer than two samples;
    - `alignment_between` (): the mean over the pairs of samples of different classes, each pair of classes weighing the
      same: what independent classes come to, whatever their number of samples.

    The means are over pairs of different samples, so they aren't biased by few samples. A sample that is all 0 has no
    direction and is left out. NaN with no class of two samples, and for a class with an infinite value. It adds up over
    batches, with memory for the class sums. Where rows are tokens, those of one sample are pairs too, which lie near
    each other.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[1.0, 0], [5, 0], [0, 1], [0, 2]]))})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, "relu": relu}), "alignment")["relu"]
    >>> m["alignment"].item(), m["alignment_between"].item()
    (0.0, 2.0)
    """

    name: ClassVar[str] = "alignment"
    ranges: ClassVar[Ranges] = {
        "alignment": (0.0, 4.0),
        "alignment_classes": (0.0, 4.0),
        "alignment_between": (0.0, 4.0),
    }
    interval: ClassVar[str] = "jackknife"
    scope: ClassVar[str] = "site"
    headline: ClassVar[Headline] = Headline(
        "alignment",
        None,
        "samples of a class lie in different directions",
        beside="alignment_between",
        missing="it needs a class of two samples that aren't all 0, and finite values",
    )

    def init(self, spec: Spec) -> State:
        return {
            "count": torch.zeros(spec.classes, dtype=torch.int64, device=spec.device),
            "sum": torch.zeros(spec.classes, spec.nodes, dtype=torch.float64, device=spec.device),
        }

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        lengths = _length(x)
        there = (lengths != 0)[:, 0]
        directions = (x.double() / lengths)[there]
        return {
            "count": state["count"] + class_counts(y[there], len(state["count"])),
            "sum": state["sum"].index_add(0, y[there], directions),
        }

    def finalize(self, state: State) -> Variables:
        count, sums = state["count"].double(), state["sum"]
        # Of unit vectors, Σ_{i ≠ j} f_i·f_j = ‖Σ f‖² − n, and ‖f_i − f_j‖² = 2 − 2 f_i·f_j.
        within = 2 - 2 * (sums.square().sum(1) - count) / (count * (count - 1))
        within = within.masked_fill(count < 2, torch.nan)
        means = (sums / count[:, None])[count > 0]
        number, total = len(means), means.sum(0)
        cosine = (total.square().sum() - means.square().sum()) / (number * (number - 1)) if number > 1 else torch.nan
        between = torch.as_tensor(2 - 2 * cosine, dtype=torch.float64)
        return {
            "alignment": ((), within[count > 1].mean().clamp(min=0).cpu().numpy()),
            "alignment_between": ((), between.cpu().numpy()),
            "alignment_classes": (("label",), within.clamp(min=0).cpu().numpy()),
        }


@dataclass(frozen=True)
class Uniformity(Parameters):
    """How evenly the directions of samples cover the unit sphere.

    Each sample's values at all nodes of the site are divided by their length, f = x / ‖x‖, and `uniformity` is
    log mean exp(−t ‖f_i − f_j‖²) over the pairs of different samples (Wang and Isola 2020). Float64:

    - `uniformity` (): 0 where all samples have one direction, the lower the more evenly they cover the sphere;
    - `uniformity_floor` (): what directions that cover the whole sphere evenly come to, −2t + log ₀F₁(; d/2; t²) for d
      nodes, which is near −2t for many;
    - `uniformity_size` (), int64: the number of samples whose pairs were taken.

    The pairs of all samples are too many, so at most `size` samples are drawn. The draw depends only on `seed` and on a
    sample's row in the store, so it is the same at every site. These samples are kept in memory. A sample that is all 0
    has no direction and is left out. The activations of a ReLU, none of which is negative, cover a corner of the sphere
    and can't come near the floor. It ignores the classes. NaN with fewer than two samples, and where a value is
    infinite.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> site = xr.Dataset({"activation": (("sample", "node"), np.array([[1.0, 0], [-1, 0]]))})
    >>> m = pk.measure(xr.DataTree.from_dict({"/": xr.Dataset(), "tanh": site}), "uniformity")["tanh"]
    >>> m["uniformity"].item()
    -8.0
    """

    t: float = 2.0
    size: int = 2000
    seed: int = 0
    limits: ClassVar[Limits] = {"t": above(0), "size": at_least(2), "seed": at_least(0)}
    name: ClassVar[str] = "uniformity"
    ranges: ClassVar[Ranges] = {"uniformity": (-inf, 0.0)}
    headline: ClassVar[Headline] = Headline(
        "uniformity",
        None,
        "samples lie in few directions",
        beside="uniformity_floor",
        missing="it needs two samples that aren't all 0, and finite values",
    )

    def memory(self, spec: Spec, samples: int) -> int:
        rows = min(self.size, samples)
        return 3 * 8 * rows * spec.nodes + 3 * 8 * PIECE * rows + 64 * samples

    def compute_samples(self, samples: Samples) -> Variables:
        from scipy.special import hyp0f1  # slow to import

        chosen = np.sort(np.argsort(draws(samples.rows, self.seed), kind="stable")[: self.size])
        x = torch.from_numpy(samples.take(chosen).astype(np.float64))
        lengths = _length(x)
        f = (x / lengths)[(lengths != 0)[:, 0]]
        number, total = len(f), 0.0
        for start in in_turn(range(0, number, PIECE)):
            near = (2 * self.t * (f[start : start + PIECE] @ f.T - 1)).exp_()
            near[torch.arange(len(near)), torch.arange(start, start + len(near))] = 0  # a sample and itself
            total += float(near.sum())
        value = np.log(total / (number * (number - 1))) if number > 1 and total > 0 else np.nan
        floor = np.log(hyp0f1(samples.nodes / 2, self.t**2)) - 2 * self.t
        return {
            "uniformity": ((), np.asarray(value)),
            "uniformity_floor": ((), np.asarray(floor)),
            "uniformity_size": ((), np.asarray(number)),
        }


def _length(x: Tensor) -> Tensor:
    """The length of each row, (row, 1) float64."""
    wide = x.double()
    largest = wide.abs().amax(1, keepdim=True)
    within = torch.linalg.vector_norm(wide / largest, dim=1, keepdim=True)  # whose squares are in the range of float64
    length: Tensor = (largest * within).where(largest > 0, largest)
    return length
