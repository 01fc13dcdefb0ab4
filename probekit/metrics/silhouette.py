"""The silhouette: how much nearer samples are to their own class than to the nearest other class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.metrics._kernels.row_sampling import draws, stratified
from probekit.metrics._kernels.sample_batches import PIECE, pieces
from probekit.metrics.block import Array, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, at_least
from probekit.metrics.protocol import Parameters, Samples, Spec, Variables
from probekit.metrics.ranges import CORRELATION, Ranges

__all__ = ["Silhouette"]


@dataclass(frozen=True)
class Silhouette(Parameters):
    """How much nearer samples are to their own class than to the nearest other class, per class and per site.

    The silhouette of a sample is (b − a) / max(a, b), where a is the mean Euclidean distance to the other samples of
    its class, over all nodes of the site, and b the smallest of the mean distances to the samples of another class
    (Rousseeuw 1987; scikit-learn's ``silhouette_samples``). Float64, from −1 (amid another class) over 0 (between two
    classes) to 1 (classes that are far apart):

    - `silhouette` (label): the mean over the samples of each class; NaN for a class without samples;
    - `silhouette_site` (): the mean over all samples, in which large classes weigh more. Independent classes of n
      samples don't come to 0 but below, the more so the fewer samples and the more classes there are: the smallest of
      many mean distances is small by chance;
    - `silhouette_crossfit` (): the same, with the nearest other class by one half of the samples, and the distance to
      it by the other half, both ways. For independent classes it is 0 whatever n; NaN where fewer than two classes have
      a sample in each half;
    - `silhouette_size` (), int64: the number of samples whose silhouettes were taken.

    The distances of all samples are too many. Silhouettes are taken of at most `size` samples, drawn from each class in
    proportion to its samples, at least one, as long as there are no more classes than that; the site's mean weighs each
    class by all its samples. They are compared with at most `references` samples, drawn alike, all of them by default
    where there are so few. The random choice depends only on `seed` and on a sample's row in the store, so it is the
    same at every site. It reads the samples twice, and keeps the `size` of them, and a distance to each class.

    A sample that is the only one of its class has the silhouette 0. Rows of one sample, such as tokens, aren't compared
    with each other. With fewer than two classes among the samples, without a class of two, and where a value is
    infinite, the silhouettes are NaN.

    The silhouette doesn't change when the nodes are rotated or all scaled alike, but nodes with large values outweigh
    the others. Distances in many dimensions are nearly equal, which brings it towards 0: the classes of a site with a
    low silhouette may still be linearly separable, which `linear_probe` measures.

    Version 1 compared the drawn samples with each other only, and drew them without regard to their class.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root = xr.Dataset(coords={"label": ("sample", [0, 0, 1, 1])})
    >>> relu = xr.Dataset({"activation": (("sample", "node"), np.array([[0.0], [0], [1], [1.5]]))})
    >>> tree = xr.DataTree.from_dict({"/": root, "relu": relu})
    >>> pk.measure(tree, pk.metrics.Silhouette())["relu"]["silhouette"].values.round(2)
    array([1.  , 0.58])
    """

    size: int = 2000
    seed: int = 0
    references: int = 20_000
    limits: ClassVar[Limits] = {"size": at_least(2), "seed": at_least(0), "references": at_least(2)}
    name: ClassVar[str] = "silhouette"
    ranges: ClassVar[Ranges] = {
        "silhouette": CORRELATION,
        "silhouette_site": CORRELATION,
        "silhouette_crossfit": CORRELATION,
    }
    split_by: ClassVar[None] = None
    version: ClassVar[int] = 2
    headline: ClassVar[Headline] = Headline(
        "silhouette_crossfit",
        None,
        "samples are nearer to their own class than to any other",
        neutral=0.0,
        beside="silhouette_site",
        classes=2,
        missing="it needs two classes, of two samples each, and finite values",
    )

    def memory(self, spec: Spec, samples: int) -> int:
        rows = min(self.size, samples)
        # The samples, and as they are multiplied; sums and numbers of classes; distances, as they are chosen and added.
        pieces = 8 * 8 * min(PIECE, samples) * (rows + spec.nodes)
        return 3 * 8 * rows * spec.nodes + 6 * 8 * rows * spec.classes + pieces + 64 * samples

    def compute_samples(self, samples: Samples) -> Variables:
        codes, numbers = samples.codes, draws(samples.rows, self.seed)
        chosen = stratified(codes, numbers, self.size)
        references = np.zeros(len(codes), bool)
        references[stratified(codes, numbers, self.references)] = True
        whole, halves = np.full((2, len(chosen)), np.nan)
        if 1 < len(np.unique(codes)) < len(codes):
            sums, counts = _distances(samples, chosen, references)
            own = torch.tensor(codes[chosen])
            if sums.isfinite().all():
                whole, halves = _silhouettes(sums, counts, own)
        of_class = [_class_means(each, codes[chosen], samples.classes) for each in (whole, halves)]
        weights = np.bincount(codes, minlength=samples.classes) * (
            np.bincount(codes[chosen], minlength=samples.classes) > 0
        )
        return {
            "silhouette": (("label",), of_class[0]),
            "silhouette_site": ((), _weighted(of_class[0], weights)),
            "silhouette_crossfit": ((), _weighted(of_class[1], weights)),
            "silhouette_size": ((), np.asarray(len(chosen))),
        }


def _distances(samples: Samples, chosen: Codes, references: Array) -> tuple[Tensor, Tensor]:
    """The sums of each chosen sample's distances to the classes, and their numbers, (half, chosen, class) both.

    The samples of a class fall into the halves in turn. Those of the chosen sample's own unit don't count.
    """
    x = torch.from_numpy(samples.take(chosen).astype(np.float64))
    centre = x[:1] + (x - x[:1]).mean(0)  # distances lose digits far from 0
    x -= centre
    units, codes = torch.tensor(samples.units), torch.tensor(samples.codes)
    half = torch.from_numpy(_halves(samples.codes, references))
    sums, counts = torch.zeros(2, 2, len(chosen), samples.classes, dtype=torch.float64)
    of_chosen, used = units[torch.from_numpy(chosen)][:, None], torch.from_numpy(references)
    for here, batch in pieces(samples):
        distances = torch.cdist(x, batch - centre, compute_mode="use_mm_for_euclid_dist")
        apart = ((of_chosen != units[here]) & used[here]).double()
        distances *= apart
        for number in (0, 1):
            those = (half[here] == number).nonzero().flatten()
            sums[number].index_add_(1, codes[here][those], distances[:, those])
            counts[number].index_add_(1, codes[here][those], apart[:, those])
    return sums, counts


def _halves(codes: Codes, references: Array) -> Codes:
    """The half of each reference, 0 or 1, in turn within its class."""
    half = np.zeros(len(codes), np.int64)
    places = np.flatnonzero(references)
    order = places[np.argsort(codes[places], kind="stable")]
    counts = np.bincount(codes[order])
    half[order] = (np.arange(len(order)) - (np.cumsum(counts) - counts)[codes[order]]) % 2
    return half


def _silhouettes(sums: Tensor, counts: Tensor, own: Tensor) -> tuple[Array, Array]:
    """The silhouettes, and those with the nearest class by one half and its distance by the other, (chosen,) both."""
    rows = torch.arange(len(own))
    others = counts.sum(0)[rows, own]
    a = sums.sum(0)[rows, own] / others
    means = sums / counts
    means[:, rows, own] = torch.nan
    every = sums.sum(0) / counts.sum(0)
    every[rows, own] = torch.nan
    both = means.isfinite().all(0)
    found = [_ratio(a, every.nan_to_num(torch.inf).amin(1), others)]
    of_halves = []
    for number in (0, 1):
        nearest = means[number].masked_fill(~both, torch.inf).argmin(1)
        of_halves.append(_ratio(a, means[1 - number][rows, nearest], others))
    crossed = ((of_halves[0] + of_halves[1]) / 2).masked_fill(~both.any(1), torch.nan)
    return found[0].numpy(), crossed.numpy()


def _ratio(a: Tensor, b: Tensor, others: Tensor) -> Tensor:
    """(b − a) / max(a, b), 0 where both are 0 and for a sample without others of its class."""
    ratio = (b - a) / torch.maximum(a, b)
    return ratio.masked_fill((others == 0) | ((a == 0) & (b == 0)), 0.0)


def _class_means(values: Array, codes: Codes, classes: int) -> Array:
    with np.errstate(invalid="ignore"):
        means: Array = np.bincount(codes, values, classes) / np.bincount(codes, minlength=classes)
    return means


def _weighted(of_class: Array, weights: Array) -> Array:
    there = weights > 0
    return np.asarray(np.average(of_class[there], weights=weights[there]) if there.any() else np.nan)
