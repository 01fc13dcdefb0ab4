"""How alike sites of different stores are over the same samples, and how alike the nodes of the same site are.

Everything comes from cross-scatters XᵀY of nodes less their means, in float64, which are made in tiles that fit in the
memory that is allowed, while chunk rows of all sites of a tile's pair are read side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isqrt, prod
from typing import TypeAlias

import numpy as np
import torch
import xarray as xr

from probekit._compare.members import Member
from probekit._measure.site_source import Source
from probekit._sizes import format_size
from probekit.errors import ProbekitError
from probekit.metrics import RSA
from probekit.metrics._kernels.hsic import aligned, unbiased
from probekit.metrics.block import Array
from probekit.metrics.protocol import Spec
from probekit.progress import Progress

__all__ = ["Between", "between"]

Names: TypeAlias = tuple[str, str]  # of a store and a site


@dataclass(frozen=True)
class Between:
    """What `between` finds.

    `similarity` has the dims (store, site, site_b): sites of the first store beside those of every other one. `nodes`
    has, by the names of store and site, variables (node,) of the first store's nodes.
    """

    similarity: xr.Dataset
    nodes: dict[Names, xr.Dataset]


def between(members: Sequence[Member], memory: int, progress: Progress) -> Between:
    """The similarities of the first store's sites and nodes to those of the others.

    `members` have the same rows in the same order. `cka` is the debiased estimator of the linear centred kernel
    alignment (Song et al. 2012, eq. 5; Murphy et al. 2024), `cka_biased` that of Kornblith et al. (2019), and `rsa` is
    `probekit.metrics.RSA` by the labels of the first store. They are NaN where the rows of one site are samples and
    those of the other tokens.

    At a site that both stores have, `correlation` is Pearson's of each node with the node of the same number, if there
    are as many; and `best_correlation` the largest with any node of the other store, which is number `best_node`.
    """
    known = {
        (member.name, name): _Site.of(source, memory)
        for member in members
        for name, source in progress(member.sources.items(), f"means of {member.name}", len(member.sources))
    }
    pairs = _pairs(members, known)
    for tiles in progress(passes := list(_passes(pairs.values(), memory // 2)), "similarities", len(passes)):
        _run(tiles, memory // 4)
    values = {"cka": _debiased(pairs), "cka_biased": _biased(pairs)} | _rsa(members, memory)
    nodes = {b: pair.of_nodes() for (_, b), pair in pairs.items() if pair.nodes}
    return Between(_table(members, values), nodes)


@dataclass(frozen=True, eq=False)
class _Site:
    """A site with the mean and the sum of squares about it of each node, and each row's squared distance to the mean.

    A node that has the same value everywhere has exactly that as its mean, and so the sum 0.
    """

    source: Source
    mean: Array
    squares: Array
    distances: Array

    @classmethod
    def of(cls, source: Source, memory: int) -> _Site:
        nodes, rows = slice(0, source.nodes), _rows_together([source], memory)
        total = np.zeros(source.nodes)
        low, high = np.full(source.nodes, np.inf), np.full(source.nodes, -np.inf)
        for part in _parts(source.rows, rows):
            x = source.values(part, nodes)
            total += x.sum(axis=0, dtype=np.float64)
            low, high = np.minimum(low, x.min(axis=0)), np.maximum(high, x.max(axis=0))
        mean = np.where(low == high, low, total / source.rows)
        squares, distances = np.zeros(source.nodes), np.empty(source.rows)
        for part in _parts(source.rows, rows):
            x = source.values(part, nodes) - mean
            squares += (x**2).sum(axis=0)
            distances[part] = (x**2).sum(axis=1)
        return cls(source, mean, squares, distances)

    def values(self, rows: slice, nodes: slice) -> Array:
        """Some values less their mean, float64 (row, node)."""
        found: Array = self.source.values(rows, nodes).astype(np.float64) - self.mean[nodes]
        return found


class _Pair:
    """Two sites of the same rows: the squared norm of their cross-scatter, and how their nodes correlate if `nodes`."""

    def __init__(self, a: _Site, b: _Site, *, nodes: bool) -> None:
        self.a, self.b, self.nodes = a, b, nodes
        self.norm = 0.0
        self._same = np.full(a.source.nodes, np.nan)
        self._best, self._best_node = np.full(a.source.nodes, -np.inf), np.full(a.source.nodes, -1)

    def add(self, rows: slice, columns: slice, scatter: Array) -> None:
        """Take a part of the cross-scatter: nodes of a by nodes of b."""
        self.norm += float((scatter**2).sum())
        if self.nodes:
            lengths = np.sqrt(np.outer(self.a.squares[rows], self.b.squares[columns]))
            with np.errstate(invalid="ignore", divide="ignore"):
                self._correlate(rows, columns, np.clip(scatter / lengths, -1, 1))

    def _correlate(self, rows: slice, columns: slice, table: Array) -> None:
        both = np.arange(max(rows.start, columns.start), min(rows.stop, columns.stop))
        self._same[both] = table[both - rows.start, both - columns.start]
        known = np.where(np.isnan(table), -np.inf, table)  # that of a constant node
        place = known.argmax(axis=1)
        best = known[np.arange(len(known)), place]
        better = best > self._best[rows]
        self._best[rows] = np.where(better, best, self._best[rows])
        self._best_node[rows] = np.where(better, place + columns.start, self._best_node[rows])

    def of_nodes(self) -> xr.Dataset:
        best = {
            "best_correlation": ("node", np.where(self._best_node < 0, np.nan, self._best)),
            "best_node": ("node", self._best_node),
        }
        alike = self.a.source.nodes == self.b.source.nodes
        return xr.Dataset(({"correlation": ("node", self._same)} if alike else {}) | best)

    @property
    def debiased(self) -> float:
        """The unbiased estimate of their squared covariance."""
        k, m = self.a.distances, self.b.distances
        return float(unbiased(self.norm, k @ m, k.sum(), m.sum(), len(k)))


Pairs: TypeAlias = dict[tuple[Names, Names], _Pair]


def _pairs(members: Sequence[Member], known: dict[Names, _Site]) -> Pairs:
    """Each site with itself, and each of the first store's with those of other stores that have the same rows."""
    first = members[0].name
    itself = {(each, each): _Pair(site, site, nodes=False) for each, site in known.items()}
    across = {
        (a, b): _Pair(known[a], known[b], nodes=a[1] == b[1])
        for a in known
        for b in known
        if a[0] == first != b[0] and known[a].source.tokens == known[b].source.tokens
    }
    return itself | across


@dataclass(frozen=True, eq=False)
class _Tile:
    """A part of the cross-scatter of a pair: some nodes of a, by some of b."""

    pair: _Pair
    rows: slice
    columns: slice

    @property
    def bytes(self) -> int:
        return 8 * prod(self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        return _length(self.rows), _length(self.columns)


def _passes(pairs: Iterable[_Pair], budget: int) -> Iterator[list[_Tile]]:
    """The tiles of all pairs, as many of the same rows together as fit in so many bytes."""
    together: list[_Tile] = []
    for tile in (tile for pair in pairs for tile in _tiles(pair, budget)):
        alike = not together or together[0].pair.a.source.tokens == tile.pair.a.source.tokens
        if together and (not alike or sum(each.bytes for each in together) + tile.bytes > budget):
            yield together
            together = []
        together.append(tile)
    if together:
        yield together


def _tiles(pair: _Pair, budget: int) -> Iterator[_Tile]:
    sides = pair.a.source.nodes, pair.b.source.nodes
    side = max(*sides) if 8 * sides[0] * sides[1] <= budget else max(1, isqrt(budget // 8))
    for rows in _parts(sides[0], side):
        for columns in _parts(sides[1], side):
            yield _Tile(pair, rows, columns)


def _run(tiles: Sequence[_Tile], memory: int) -> None:
    """Add the cross-scatters of the tiles to their pairs, in one pass over the rows."""
    needed = {(tile.pair.a, tile.rows.start): tile.rows for tile in tiles}
    needed |= {(tile.pair.b, tile.columns.start): tile.columns for tile in tiles}
    sums = [np.zeros(tile.shape) for tile in tiles]
    sources = [site.source for site, _ in needed]
    for part in _parts(sources[0].rows, _rows_together(sources, memory)):
        values = {key: key[0].values(part, nodes) for key, nodes in needed.items()}
        for tile, total in zip(tiles, sums, strict=True):
            total += values[tile.pair.a, tile.rows.start].T @ values[tile.pair.b, tile.columns.start]
    for tile, total in zip(tiles, sums, strict=True):
        tile.pair.add(tile.rows, tile.columns, total)


def _rows_together(sources: Sequence[Source], memory: int) -> int:
    """The rows of all these sites that fit in so many bytes: whole chunk rows, where one fits."""
    row = sum(each.nodes * (each.positions * each.variable.dtype.itemsize + 24) for each in sources)
    fitting = max(1, memory // int(row))
    chunk = max(int(each.chunk[0]) for each in sources)
    return fitting if fitting < chunk else fitting - fitting % chunk


def _length(part: slice) -> int:
    return len(range(part.start, part.stop))


def _parts(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _debiased(pairs: Pairs) -> dict[tuple[Names, Names], float]:
    own = {a: pair.debiased for (a, b), pair in pairs.items() if a == b}
    return {(a, b): float(aligned(pair.debiased, own[a], own[b])) for (a, b), pair in pairs.items()}


def _biased(pairs: Pairs) -> dict[tuple[Names, Names], float]:
    return {(a, b): float(aligned(pair.norm, pairs[a, a].norm, pairs[b, b].norm)) for (a, b), pair in pairs.items()}


def _rsa(members: Sequence[Member], memory: int) -> dict[str, dict[tuple[Names, Names], float]]:
    """The RSA of all sites with the same rows, by the first store's labels; nothing where it has none."""
    if members[0].labels is None:
        return {}
    found: dict[tuple[Names, Names], float] = {}
    for tokens in (False, True):
        chosen = {
            (member.name, name): source
            for member in members
            for name, source in member.sources.items()
            if source.tokens == tokens
        }
        labels = next((each for (store, _), each in chosen.items() if store == members[0].name), None)
        if labels is not None and len(chosen) > 1:
            y = torch.from_numpy(labels.columns(members[0].root).find("label").values.astype(np.int64))
            table = _rsa_of(list(chosen.values()), y, memory)
            found |= {(a, b): table[i, j] for i, a in enumerate(chosen) for j, b in enumerate(chosen)}
    return {"rsa": found}


def _rsa_of(sources: Sequence[Source], labels: torch.Tensor, memory: int) -> Array:
    classes, cpu = int(labels.max()) + 1, torch.device("cpu")
    needed = 3 * 8 * classes * sum(each.nodes for each in sources)
    if needed > memory:
        raise ProbekitError(
            f"The class means of {len(sources)} sites take {format_size(needed)} for RSA, more than the memory of "
            f"{format_size(memory)}. Choose fewer sites (sites=) or allow more (memory=).",
            arguments=("sites", "memory"),
        )
    metric = RSA()
    state = metric.init([Spec(each.nodes, classes, torch.float64, cpu) for each in sources])
    for part in _parts(sources[0].rows, _rows_together(sources, memory // 4)):
        x = [torch.from_numpy(each.values(part, slice(0, each.nodes)).astype(np.float64)) for each in sources]
        state = metric.update(state, x, labels[part])
    return metric.finalize(state)["rsa"][1]


def _table(members: Sequence[Member], values: dict[str, dict[tuple[Names, Names], float]]) -> xr.Dataset:
    first, others = members[0], list(islice(members, 1, None))
    sites = list(dict.fromkeys(site for member in others for site in member.chosen))
    tables = {
        name: [
            [[found.get(((first.name, a), (other.name, b)), np.nan) for b in sites] for a in first.chosen]
            for other in others
        ]
        for name, found in values.items()
    }
    coords: dict[str, Sequence[str]] = {
        "store": [each.name for each in others],
        "site": list(first.chosen),
        "site_b": sites,
    }
    return xr.Dataset({name: (tuple(coords), np.array(table)) for name, table in tables.items()}, coords)
