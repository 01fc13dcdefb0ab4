"""The spread of a site's samples, from pairs of nodes or of samples, whichever are fewer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from probekit._beats import in_turn
from probekit.metrics._kernels.cross_scatters import CrossScatters
from probekit.metrics._kernels.durations import eigenvalues, products
from probekit.metrics._kernels.hsic import LEAST, unbiased
from probekit.metrics.protocol import BATCH, Parameters, Spec, State

__all__ = ["Covariance", "Spread", "rows_of_table"]

_NODES = 1024  # whose values are made float64 together


class Covariance(Parameters):
    """Base of metrics of a site's covariance, which share a state.

    It is that of `CrossScatters` for one site: the scatter of all pairs of nodes takes 8 bytes for each of them (5 MB
    at 800 nodes, 134 MB at 4,096), twice that during an update, and one multiplication for each pair and sample. Where
    a store has fewer samples than nodes, it is `count` and `rows` (sample, node) instead, the samples themselves, of
    which all pairs are multiplied in the end.
    """

    scope: ClassVar[str] = "site"
    interval: ClassVar[str] = "jackknife"
    state_key: ClassVar[str] = "covariance"

    def init(self, spec: Spec) -> State:
        if not _by_samples(spec):
            return CrossScatters().init([spec])
        count = torch.zeros((), dtype=torch.int64, device=spec.device)
        return {
            "count": count,
            "rows": torch.zeros(spec.samples or 0, spec.nodes, dtype=spec.dtype, device=spec.device),
        }

    def memory(self, spec: Spec, samples: int) -> int:
        if not _by_samples(spec):
            # The scatter, and a new one with a batch's rows, or its copy that is decomposed and that around 0.
            tables, batch = 8 * spec.nodes**2, 5 * 8 * min(BATCH, samples) * spec.nodes
            return max(2 * tables + batch, 3 * tables) + 8 * spec.nodes
        rows = spec.dtype.itemsize * samples * spec.nodes
        return 2 * rows + 3 * 8 * samples**2 + 2 * 8 * samples * min(_NODES, spec.nodes)

    def seconds(self, spec: Spec, samples: int) -> tuple[float, float]:
        if _by_samples(spec):
            return 0.0, products(samples**2 * spec.nodes)
        return CrossScatters().seconds([spec], samples)

    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        return _with_rows(state, x) if "rows" in state else CrossScatters().update(state, [x], y)

    def merge(self, a: State, b: State) -> State:
        return _with_rows(a, b["rows"][: int(b["count"])]) if "rows" in a else CrossScatters().merge(a, b)


def rows_of_table(spec: Spec) -> int:
    """The rows of the table of a spread: nodes, or samples where these are fewer."""
    return (spec.samples or 0) if _by_samples(spec) else spec.nodes


def _by_samples(spec: Spec) -> bool:
    return spec.samples is not None and spec.samples < spec.nodes


def _with_rows(state: State, x: Tensor) -> State:
    rows, count = state["rows"].clone(), int(state["count"])
    rows[count : count + len(x)] = x
    return {"count": state["count"] + len(x), "rows": rows}


@dataclass(frozen=True)
class Spread:
    """The spread of the samples that are in a state of `Covariance`.

    With X the samples (sample, node) less their mean, `table` is XᵀX or XXᵀ: float64, of the same eigenvalues but for
    zeros.
    """

    state: State

    @property
    def count(self) -> int:
        return int(self.state["count"])

    @property
    def nodes(self) -> int:
        return self.state["rows" if "rows" in self.state else "mean_0"].shape[-1]

    @cached_property
    def table(self) -> Tensor:
        if "rows" not in self.state:
            return self.state["cross_0_0"]
        return self._of_samples(centred=True)

    @property
    def around_zero(self) -> Tensor:
        """The `table` of the samples themselves, from which no mean is subtracted."""
        if "rows" not in self.state:
            mean = self.state["mean_0"]
            return torch.addr(self.table, mean, mean, alpha=self.count)
        return self._of_samples(centred=False)

    def _of_samples(self, *, centred: bool) -> Tensor:
        rows = self.state["rows"][: self.count]
        table = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
        parts = rows.split(_NODES, dim=1)
        multiplied = [products(part.shape[1] * len(rows) ** 2) for part in parts]
        for x in in_turn(parts, multiplied, then=eigenvalues(len(rows))):
            wide = x.double()
            if centred and len(wide):
                wide = wide - wide[0]  # exactly 0 at a constant node
                wide -= wide.mean(0)
            table.addmm_(wide, wide.T)
        return table

    @property
    def variances(self) -> Tensor:
        """Their sum, times the number of samples."""
        return self.table.trace()

    @property
    def squares(self) -> Tensor:
        """The sum of the squared eigenvalues of the table, which is that of all its entries' squares."""
        norm: Tensor = torch.linalg.matrix_norm(self.table)
        return norm.square()

    def unbiased_squares(self) -> tuple[float, float]:
        """Unbiased estimates of (tr Σ)² and tr Σ², with Σ the covariance of the nodes; NaN for fewer than 4 samples.

        By Himeno and Yamada (2014, Estimations for some functions of covariance matrix in high dimension under
        non-normality, eq. 2.5), for any distribution.
        """
        n, total, squares = self.count, float(self.variances), float(self.squares)
        if n < LEAST:
            return float("nan"), float("nan")
        own = float(self.table.diagonal().square().sum() if "rows" in self.state else self.state["quartic"])
        of_trace = (2 * squares + (n**2 - 3 * n + 1) * total * total) / (n - 1) - n * own  # `**` raises for large ones
        return of_trace / (n * (n - 2) * (n - 3)), float(unbiased(squares, own, total, total, n))
