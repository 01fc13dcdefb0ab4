"""Sums of products of the nodes of all sites around their means, which add up over batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import ClassVar

import torch
from torch import Tensor

from probekit.metrics._kernels.durations import products
from probekit.metrics._kernels.scatter import centred, merged_mean
from probekit.metrics.protocol import Parameters, Spec, State

__all__ = ["CrossScatters", "number_of_sites", "pairs", "state_bytes"]


class CrossScatters(Parameters):
    """Base of metrics of the covariances between sites, which share a state.

    With x_a the values of a sample at site a less their mean, and k_a = ‖x_a‖², the state is, in float64:

    - `count` () and `mean_{a}` (node);
    - `cross_{a}_{b}` (node, node_b): Σ x_a x_bᵀ, for each pair of sites once;
    - `skew_{a}` (site, node): Σ k_b x_a for each site b, and `quartic` (site, site_b): Σ k_a k_b, by which the bias of
      squared covariances is known.

    States merge by the method of Chan, Golub and LeVeque (1983), which never subtracts two large sums.
    """

    scope: ClassVar[str] = "sites"
    state_key: ClassVar[str] = "cross-scatters"

    def init(self, specs: Sequence[Spec]) -> State:
        device, sites = specs[0].device, len(specs)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        state = {"count": torch.zeros((), dtype=torch.int64, device=device), "quartic": zeros(sites, sites)}
        state |= {f"mean_{a}": zeros(spec.nodes) for a, spec in enumerate(specs)}
        state |= {f"skew_{a}": zeros(sites, spec.nodes) for a, spec in enumerate(specs)}
        return state | {key: zeros(specs[a].nodes, specs[b].nodes) for key, a, b in pairs(sites)}

    def seconds(self, specs: Sequence[Spec], samples: int) -> tuple[float, float]:
        return products(samples * sum(specs[a].nodes * specs[b].nodes for _, a, b in pairs(len(specs)))), 0.0

    def update(self, state: State, x: Sequence[Tensor], y: Tensor) -> State:
        if not len(y):
            return dict(state)
        sites = range(len(x))
        found = [centred(state["count"], state[f"mean_{a}"], x[a]) for a in sites]
        new = {f"mean_{a}": mean for a, (mean, _) in enumerate(found)}
        new |= _moved(state, [state[f"mean_{a}"] - new[f"mean_{a}"] for a in sites])
        lengths = torch.stack([(x[a].double() - new[f"mean_{a}"]).square().sum(1) for a in sites])
        new |= {f"skew_{a}": new[f"skew_{a}"] + lengths @ (x[a].double() - new[f"mean_{a}"]) for a in sites}
        new |= {"count": state["count"] + len(y), "quartic": new["quartic"] + lengths @ lengths.T}
        return new | {key: torch.addmm(state[key], found[a][1].T, found[b][1]) for key, a, b in pairs(len(x))}

    def merge(self, a: State, b: State) -> State:
        sites = range(number_of_sites(a))
        found = [merged_mean(a["count"], a[f"mean_{n}"], b["count"], b[f"mean_{n}"]) for n in sites]
        new = {f"mean_{n}": mean for n, (mean, _) in enumerate(found)} | {"count": a["count"] + b["count"]}
        here, there = (_moved(each, [each[f"mean_{n}"] - new[f"mean_{n}"] for n in sites]) for each in (a, b))
        new |= {key: here[key] + there[key] for key in here}
        rows = [row for _, row in found]
        return new | {key: torch.addr(a[key] + b[key], rows[m], rows[n]) for key, m, n in pairs(len(sites))}


def state_bytes(nodes: Sequence[int]) -> int:
    """The size of a state for sites of so many `nodes`."""
    across = sum(nodes[a] * nodes[b] for _, a, b in pairs(len(nodes)))
    return 8 * (across + (len(nodes) + 1) * sum(nodes) + len(nodes) ** 2 + 1)


def pairs(sites: int) -> Iterator[tuple[str, int, int]]:
    """Each pair of sites once, including a site with itself: the key of their cross-scatter, and the two sites."""
    return ((f"cross_{a}_{b}", a, b) for a, b in combinations_with_replacement(range(sites), 2))


def number_of_sites(state: State) -> int:
    return len(state["quartic"])


def _moved(state: State, shifts: Sequence[Tensor]) -> State:
    """The `skew_…` and `quartic` of the same samples around other means: x moves by the `shifts` s, one a site.

    k becomes k + 2 x·s + ‖s‖², and the sum of x, which is 0, becomes that of the shifts.
    """
    sites, count, quartic = range(len(shifts)), state["count"].double(), state["quartic"].clone()
    lengths = [state[f"cross_{a}_{a}"].trace() for a in sites]
    squares = [shift @ shift for shift in shifts]
    skew = [state[f"skew_{a}"].clone() for a in sites]
    for key, a, b in pairs(len(shifts)):
        across = state[key]
        along_b = shifts[a] @ across  # Σ (x_a·s_a) x_b
        change = 2 * (state[f"skew_{b}"][a] @ shifts[b] + state[f"skew_{a}"][b] @ shifts[a]) + 4 * along_b @ shifts[b]
        change = change + lengths[a] * squares[b] + lengths[b] * squares[a] + count * squares[a] * squares[b]
        quartic[a, b] += change
        skew[b][a] += 2 * along_b + (lengths[a] + count * squares[a]) * shifts[b]
        if a != b:
            quartic[b, a] += change
            skew[a][b] += 2 * across @ shifts[b] + (lengths[b] + count * squares[b]) * shifts[a]
    return {"quartic": quartic} | {f"skew_{a}": skew[a] for a in sites}
