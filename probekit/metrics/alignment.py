"""The alignment of the representations that two sites give the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from probekit._beats import in_turn
from probekit.errors import PluginError
from probekit.metrics._kernels.cross_scatters import CrossScatters, number_of_sites, pairs, state_bytes
from probekit.metrics._kernels.hsic import LEAST, aligned_table, unbiased
from probekit.metrics._kernels.row_sampling import draws
from probekit.metrics._kernels.sample_kernels import batched_covariances, covariances, tile_bytes
from probekit.metrics.block import Array, Codes
from probekit.metrics.headline import Headline
from probekit.metrics.limits import Limits, at_least
from probekit.metrics.protocol import Samples, Spec, State, Variables
from probekit.metrics.ranges import CORRELATION, SHARE, Ranges

__all__ = ["CKA"]

_BATCH = 256  # samples, where nothing else is asked for
_ROWS = 2048  # of all sites together, where pairs of nodes are added up
_MOST = 2 * 10**12  # multiplications for all pairs of samples or nodes: a minute or two


@dataclass(frozen=True)
class CKA(CrossScatters):
    """Similarity of two sites' representations of the samples, up to rotation: debiased centred kernel alignment.

    With X and Y the samples' values at all nodes of two sites, less their means, and S(X, Y) the squared norm of their
    cross-covariance, summed over all pairs of nodes:

    - `cka` (site, site_b), float64 in [−1, 1]: ``S(X, Y) / √(S(X, X) S(Y, Y))``, symmetric, 1 on the diagonal;
    - `cka_batch` (), int64: the number of samples whose pairs were compared: all, or those of a batch (below).

    By default S is the unbiased estimate of Song et al. (2012, eq. 5; Murphy et al. 2024), and `cka` is about 0 for
    unrelated sites, a little below or above, whatever the number of samples and nodes. ``biased=True`` takes
    S = ‖XᵀY‖², in [0, 1] (Kornblith et al. 2019), which is high for unrelated sites with fewer samples than nodes: 0.91
    for 100 samples of 1,000 nodes, where the debiased one is 0.00 ± 0.01. NaN for fewer than 4 samples (2 if biased);
    for a site without spread: constant nodes, or ones at which a single sample differs; and where a value is infinite
    or so large that its square is.

    It doesn't change when a site's nodes are rotated, permuted or all scaled alike. The directions of most variance
    decide it: two sites may agree in those and differ in everything that distinguishes classes. It ignores the classes.

    A store's sites are compared by pairs of samples, or of nodes where there are fewer, which gives the same: n² N or
    n N² multiplications for n samples and N nodes of all sites together. If both are more than 2·10¹², S is the mean
    over `batch` random samples each instead, 256 unless you say so (Nguyen et al. 2021): unbiased too, and nearly as
    precise. `cka_batch` says which, and ``batch=0`` always compares all. The draw depends on `seed` and on a sample's
    row in the store. Sites are read one after the other in up to 0.5 GB, and several times where there are many
    samples. While a model runs all samples are compared, by pairs of nodes: L sites of N nodes take 4 L (L + 1) N²
    bytes, 282 MB for 10 sites of 800 nodes, and twice that while batches are added.

    >>> import numpy as np, xarray as xr, probekit as pk
    >>> root, x = xr.Dataset(coords={"label": ("sample", [0, 1, 2, 3])}), np.array([[1.0, 2], [3, 1], [0, 0], [2, 2]])
    >>> sites = {name: xr.Dataset({"activation": (("sample", "node"), x * k)}) for k, name in enumerate("abc", 1)}
    >>> pk.measure(xr.DataTree.from_dict({"/": root, **sites}), pk.metrics.CKA())["cka"].sel(site="a").values.round(6)
    array([1., 1., 1.])
    """

    biased: bool = False
    batch: int | None = None
    seed: int = 0
    limits: ClassVar[Limits] = {"batch": at_least(0), "seed": at_least(0)}
    version: ClassVar[int] = 2  # version 1 was biased
    name: ClassVar[str] = "cka"
    headline: ClassVar[Headline] = Headline(
        "cka",
        None,
        "two sites arrange the samples alike",
        neutral=0.0,
        missing="it needs four samples, finite values, and nodes that aren't constant",
    )

    @property
    def ranges(self) -> Ranges:
        return {"cka": SHARE if self.biased else CORRELATION}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch and (self.biased or self.batch < LEAST):
            raise PluginError(
                f"CKA(biased={self.biased}, batch={self.batch}): a batch has at least {LEAST} samples, and is for "
                "the debiased estimate alone, since the biased one depends on its size. batch=0 compares all samples."
            )

    def memory(self, spec: Sequence[Spec], samples: int) -> int:
        nodes, sites = [each.nodes for each in spec], len(spec)
        live = spec[0].samples is None
        batch = None if live else self._batch_of(samples, sum(nodes))
        if live or (batch is None and sum(nodes) < samples):  # the state, a new one, and rows of all sites
            return 2 * state_bytes(nodes) + 4 * 8 * min(_ROWS, samples) * sum(nodes)
        return tile_bytes(sites, max(nodes), samples, batch)

    def finalize(self, state: State) -> Variables:
        sites, count = number_of_sites(state), int(state["count"])
        table = np.empty((sites, sites))
        for key, a, b in pairs(sites):
            table[a, b] = table[b, a] = float(torch.linalg.matrix_norm(state[key]).square())
        if not self.biased:
            lengths = np.array([float(state[f"cross_{a}_{a}"].trace()) for a in range(sites)])
            table = unbiased(table, state["quartic"].cpu().numpy(), lengths[:, None], lengths, count)
        return _variables(table, count)

    def compute_samples(self, samples: Sequence[Samples]) -> Variables:
        count, nodes = samples[0].number, sum(each.nodes for each in samples)
        batch = self._batch_of(count, nodes)
        if batch is not None:
            batches = _batches(samples[0].rows, self.seed, batch)
            return _variables(batched_covariances(samples, batches), len(batches[0]))
        if nodes < count:
            return self.finalize(_state(self, samples))
        return _variables(covariances(samples, self.biased), count)

    def _batch_of(self, samples: int, nodes: int) -> int | None:
        """The samples of a batch; None where all are compared."""
        if self.batch is None:
            few = self.biased or min(samples, nodes) * samples * nodes <= _MOST
            return None if few else _BATCH
        return self.batch if 0 < self.batch < samples else None


def _state(metric: CKA, sites: Sequence[Samples]) -> State:
    """The state of all samples."""
    cpu, codes = torch.device("cpu"), torch.from_numpy(sites[0].codes)
    state = metric.init([Spec(site.nodes, site.classes, torch.float64, cpu) for site in sites])
    for start in in_turn(range(0, len(codes), _ROWS)):
        places = np.arange(start, min(start + _ROWS, len(codes)))
        x = [torch.from_numpy(site.take(places)) for site in sites]
        state = metric.update(state, x, codes[start : start + _ROWS])
    return state


def _batches(rows: Codes, seed: int, size: int) -> list[Codes]:
    """The places of all samples in random batches of about so many, the larger ones first."""
    order = np.argsort(draws(rows, seed), kind="stable")
    return np.array_split(order, max(1, round(len(order) / size)))


def _variables(covariances: Array, batch: int) -> dict[str, Any]:
    return {
        "cka": (("site", "site_b"), aligned_table(covariances)),
        "cka_batch": ((), np.asarray(batch)),
    }
