"""The silhouette: how much nearer samples are to their own class than to the nearest other class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from probekit.errors import PluginError
from probekit.metrics._kernels.row_sampling import draws
from probekit.metrics.block import Array, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Parameters, Samples, Spec, Variables

__all__ = ["Silhouette"]

_DISTANCES = 2**30  # bytes of the distances that scikit-learn computes at a time


@dataclass(frozen=True)
class Silhouette(Parameters):
    """How much nearer samples are to their own class than to the nearest other class, per class and per site.

    The silhouette of a sample is (b − a) / max(a, b), where a is the mean Euclidean distance to the other samples of
    its class, over all nodes of the site, and b the smallest of the mean distances to the samples of another class
    (Rousseeuw 1987; computed by scikit-learn). Float64, from −1 (amid another class) over 0 (between two classes) to 1
    (classes that are far apart):

    - `silhouette` (label): the mean over the samples of each class; NaN for a class without samples;
    - `silhouette_site` (): the mean over all samples, in which large classes weigh more;
    - `silhouette_size` (), int64: the number of samples that were used.

    The distances of all samples are too many, so at most `size` samples are used. The random choice depends only on
    `seed` and on a sample's row in the store, so it is the same at every site. These samples are kept in memory, in
    float64. A sample that is the only one of its class has the silhouette 0. With fewer than two classes among them,
    without a class of two samples, and where a value is infinite, the silhouettes are NaN.

    The silhouette doesn't change when the nodes are rotated or all scaled alike, but nodes with large values outweigh
    the others. Distances in many dimensions are nearly equal, which brings it towards 0: the classes of a site with a
    low silhouette may still be linearly separable, which `linear_probe` measures.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[0.0], [0], [1], [1.5]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> pk.measure(tree, pk.metrics.Silhouette())["relu"]["silhouette"].values.round(2)
    array([1.  , 0.58])
    """

    size: int = 2000
    seed: int = 0
    name: ClassVar[str] = "silhouette"
    headline: ClassVar[Headline] = Headline(
        "silhouette_site",
        None,
        "samples are nearer to their own class than to any other",
        neutral=0.0,
        missing="it needs two classes, one of them of two samples, and finite values",
    )

    def __post_init__(self) -> None:
        if self.size < 2:
            raise PluginError(f"Silhouette(size={self.size!r}): size must be at least 2: a distance needs two samples.")

    def memory(self, spec: Spec, samples: int) -> int:
        rows = min(self.size, samples)
        return 3 * 8 * rows * spec.nodes + 2 * min(8 * rows**2, _DISTANCES)

    def compute_samples(self, samples: Samples) -> Variables:
        chosen = np.sort(np.argsort(draws(samples.rows, self.seed), kind="stable")[: self.size])
        codes = samples.codes[chosen]
        each = _silhouettes(samples.take(chosen).astype(np.float64), codes)
        counts = np.bincount(codes, minlength=samples.classes)
        with np.errstate(invalid="ignore"):
            of_class = np.bincount(codes, each, samples.classes) / counts
        return {
            "silhouette": (("label",), of_class),
            "silhouette_site": ((), np.asarray(each.mean() if len(each) else np.nan)),
            "silhouette_size": ((), np.asarray(len(each))),
        }


def _silhouettes(x: Array, codes: Codes) -> Array:
    """The silhouette of each of the rows `x` (row, node)."""
    from sklearn.metrics import silhouette_samples  # slow to import, and only this metric needs it

    classes = len(np.unique(codes))
    if not 1 < classes < len(x) or not np.isfinite(x).all():
        return np.full(len(x), np.nan)
    x -= x[0]
    x -= x.mean(axis=0)  # scikit-learn's distances lose digits far from 0
    found: Array = silhouette_samples(x, codes)
    return found
