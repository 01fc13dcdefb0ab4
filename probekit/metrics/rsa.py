"""The similarity of the arrangement of classes at two sites."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit._beats import in_turn
from probekit.errors import PluginError
from probekit.metrics._kernels.class_moments import ClassMoments
from probekit.metrics._kernels.dissimilarities import (
    ClassSpread,
    Dissimilarity,
    class_spread,
    correlations,
    dissimilarities,
)
from probekit.metrics._kernels.rounding import tied_ranks
from probekit.metrics.block import Array
from probekit.metrics.headline import Headline
from probekit.metrics.protocol import Parameters, Samples, Spec, State, Variables
from probekit.metrics.ranges import CORRELATION, Ranges

__all__ = ["RSA"]


@dataclass(frozen=True)
class RSA(Parameters):
    """Similarity of the arrangement of classes at two sites: correlation of the dissimilarities of their class means.

    `rsa` (site, site_b), float64 in [−1, 1], symmetric, 1 on the diagonal. Within each site, every two classes have a
    dissimilarity of their means; `rsa` is the correlation of these dissimilarities between two sites, over all pairs of
    classes that have samples (representational similarity analysis, Kriegeskorte et al. 2008). Ranks are compared
    (Spearman's correlation, ties sharing their mean rank), as in that paper; ``ranks=False`` compares the
    dissimilarities themselves (Pearson's correlation).

    Noise in the means makes their distances larger, those of small or widely spread classes most, at every site. That
    alone makes unrelated sites look alike. The default dissimilarity is free of it, since it multiplies differences of
    distinct samples only, as if each sample were a fold of its own (Walther et al. 2016, Diedrichsen et al. 2021). It
    may be below 0, and needs two samples of a class. ``dissimilarity`` is one of

    - ``"crossvalidated"``: ‖μ_a − μ_b‖² − s_a² / n_a − s_b² / n_b, with s² the sum of the nodes' variances in a class
      (ddof 1): an unbiased estimate of the squared distance;
    - ``"crossnobis"``: the same after the nodes are whitened by the covariance within classes, shrunk to its diagonal
      as by Schäfer and Strimmer (2005): of the squared Mahalanobis distance. It reads a site three times, needs 40
      bytes for each pair of nodes, and a store;
    - ``"correlation"``: 1 − the Pearson correlation of the two means over the nodes, as in Kriegeskorte's paper. For
      classes of one size and spread, or of one sample each;
    - ``"euclidean"``: the Euclidean distance of the means. For the same.

    Means over 20 draws of unrelated ReLU sites of 50 nodes, five classes of n samples and five of 5 n, where 0 is true;
    the deviation of one is 0.2 to 0.3, and 0.08 of the plain ones:

    ==============  ======  ======  ======
    n               10      50      180
    ==============  ======  ======  ======
    crossvalidated  0.034   0.084   0.045
    correlation     0.724   0.762   0.733
    ==============  ======  ======  ======

    Dissimilarities that are equal but for rounding in float64 are tied, so that a scaled or rotated copy of a site has
    the rsa 1 with it. A mean μ over N nodes may have moved by e = (√N + 1) ε (max ‖μ‖ + σ), with ε = 2^−52 and σ the
    root mean square of the samples' distances from their means. A distance of two means has then moved by 2e, its
    square accordingly, and a correlation by the sum of e / ‖μ − its average over the nodes‖ of both. Two
    dissimilarities are tied where they differ by no more than what both may have moved. Activations are taken as they
    are: what a network's own float32 arithmetic leaves of equal numbers, as in a copy that it rotates, isn't tied.

    NaN with fewer than three classes, which have two samples where these are multiplied; and for a site whose
    dissimilarities are all equal or undefined: at constant nodes, with a class mean that is the same at all nodes (by
    correlation), both up to rounding, and where a value is infinite.

    An interval needs four classes of two samples: the three dissimilarities of three classes have six orders, so that
    their ranks jump or stay as they are. Of three classes that lie far apart, 40 % of the 95 % intervals had no width,
    and 87 % held the truth; of four to fifteen, 96 to 99 % did.

    0 is the level of sites whose noise is independent. Sites measured on the same samples share the noise of their
    class means where one follows from the other: with random labels for 1,000 samples, and one site a rotation of the
    other with noise of 0.7 of its deviation, `rsa` is 0.62 ± 0.14, and more samples hardly lower it.
    ``null="permute"`` gives the same for shuffled labels; compare `rsa` with that.

    A store's sites are read one after the other. RSA compares the arrangement of classes and is blind to the spread
    within them. With few classes it is uncertain (10 classes have 45 pairs, which aren't independent; for unrelated
    sites, 8 classes give 0 ± 0.2).

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root, x = xr.Dataset(coords={"label": ("sample", [0, 1, 2])}), np.array([[0.0], [1], [4]])
    >>> sites = {f"x{k}": xr.Dataset({"activation": (("sample", "node"), x**k)}) for k in (1, 2)}
    >>> m = pk.measure(xr.DataTree.from_dict({"/": root, **sites}), pk.metrics.RSA("euclidean"))
    >>> m["rsa"].sel(site="x1").values  # at both sites class 2 is far from the others, and farthest from class 0
    array([1., 1.])
    """

    dissimilarity: Dissimilarity = "crossvalidated"
    ranks: bool = True
    version: ClassVar[int] = 3  # version 2 correlated means by default; version 1 ranked what rounding left of ties
    scope: ClassVar[str] = "sites"
    name: ClassVar[str] = "rsa"
    ranges: ClassVar[Ranges] = {"rsa": CORRELATION}
    interval_classes: ClassVar[Mapping[str, int]] = {"rsa": 4}
    headline: ClassVar[Headline] = Headline(
        "rsa",
        None,
        "two sites arrange the classes alike, or share the noise of their samples, as null='permute' tells",
        classes=3,
        missing="it needs three classes of two samples (of one by dissimilarity='correlation'), whose dissimilarities "
        "differ, and finite values",
    )

    def memory(self, spec: Sequence[Spec], samples: int) -> int:
        classes, nodes = spec[0].classes, [each.nodes for each in spec]
        pairs = 3 * 8 * len(spec) * classes**2 // 2 + 6 * 8 * classes**2
        of_site = max(ClassMoments().memory(each, samples) for each in spec) + pairs
        if spec[0].samples is None:  # a running model: the state of all sites, and a new one
            return 2 * 8 * classes * sum(nodes) + of_site
        return of_site + (5 * 8 * max(nodes) ** 2 if self._whitened else 0)

    def init(self, specs: Sequence[Spec]) -> State:
        if self._whitened:
            raise PluginError(
                "dissimilarity='crossnobis' needs the samples more than once, and a running model gives them once. "
                "Capture a store with probekit.capture, and measure that; or take 'crossvalidated'"
            )
        return _sums([ClassMoments().init(spec) for spec in specs])

    def update(self, state: State, x: Sequence[Tensor], y: Tensor) -> State:
        return _sums([ClassMoments().update(_moments(state, n), batch, y) for n, batch in enumerate(x)], state)

    def merge(self, a: State, b: State) -> State:
        return _sums([ClassMoments().merge(_moments(a, n), _moments(b, n)) for n in range(_sites(a))], a, b)

    def finalize(self, state: State) -> Variables:
        return self._variables(
            ClassSpread.of(state["count"], state[f"mean_{n}"], state[f"squares_{n}"]) for n in range(_sites(state))
        )

    def compute_samples(self, samples: Sequence[Samples]) -> Variables:
        return self._variables(class_spread(site, whitened=self._whitened) for site in in_turn(samples))

    @property
    def _whitened(self) -> bool:
        return self.dissimilarity == "crossnobis"

    def _variables(self, sites: Iterable[ClassSpread]) -> Variables:
        found = [dissimilarities(site, self.dissimilarity) for site in sites]
        known = np.array([len(values) > 2 and bool(np.isfinite(values).all()) for values, _ in found])
        compared = [self._compared(*each) for each, defined in zip(found, known, strict=True) if defined]
        table = np.full((len(found), len(found)), np.nan)
        table[np.ix_(known, known)] = correlations(np.stack(compared)) if compared else 0
        return {"rsa": (("site", "site_b"), table)}

    def _compared(self, values: Array, error: Array) -> Array:
        """What is correlated between sites: the ranks, or the dissimilarities themselves unless they are all equal."""
        ranks = tied_ranks(values, error)
        return ranks if self.ranks or (ranks == ranks[0]).all() else values


def _sites(state: State) -> int:
    return sum(key.startswith("mean_") for key in state)


def _moments(state: State, site: int) -> State:
    """The class moments of a site with its means, and none of its second moments."""
    mean = state[f"mean_{site}"]
    return {"count": state["count"], "mean": mean, "m2": torch.zeros_like(mean)}


def _sums(moments: Sequence[State], *before: State) -> State:
    """What is kept of the moments of each site: the means, and the sums of the second moments, with those of before."""
    found = {"count": moments[0]["count"]}
    for n, state in enumerate(moments):
        found[f"mean_{n}"] = state["mean"]
        found[f"squares_{n}"] = sum((each[f"squares_{n}"] for each in before), state["m2"].sum(1))
    return found
