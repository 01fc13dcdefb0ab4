"""The observations of a site as metrics are given them: without NaN, in batches, or read as often as they ask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from probekit._beats import Beat, reading
from probekit._measure.grouping import Observations
from probekit._measure.site_source import Source
from probekit.errors import AdvisedError, PluginError
from probekit.metrics import Spec
from probekit.metrics.block import Array, Codes
from probekit.metrics.protocol import BATCH

__all__ = ["HoldsNaN", "SiteSamples", "at_site", "in_batches", "spec_of", "whole_rows", "without_nan"]


class HoldsNaN(AdvisedError):
    """A site has a NaN. The advice is for `measure`."""

    advice = (
        ". A NaN has no place in an order or a mean. Find out where the model makes it, leave the site out with "
        "sites=, or the samples with nan='omit'."
    )
    about = ("sites", "nan")


def at_site(source: Source, start: int = 0, stop: int | None = None) -> str:
    return f"at site {source.name!r}, nodes {start} to {(source.nodes if stop is None else stop) - 1}"


def spec_of(source: Source, rows: Observations, nodes: int) -> Spec:
    dtype = torch.float32 if source.dtype == np.float32 else torch.float64
    return Spec(nodes, rows.labels.number, dtype, torch.device("cpu"), source.bounds, rows.number)


def in_batches(array: Array) -> tuple[torch.Tensor, ...]:
    return torch.split(torch.from_numpy(array), BATCH)


def without_nan(
    source: Source, rows: Observations, start: int, stop: int, beat: Beat, places: Codes | None = None
) -> Iterator[tuple[int, Array, Codes]]:
    """The values as they are read, all or around some places; HoldsNaN after the last of them, if there was one."""
    nan = np.zeros(stop - start, dtype=bool)
    for first, x, codes in rows.read(source, start, stop, places):
        if len(x) and np.isnan(x.min()):
            nan |= np.isnan(x).any(axis=0)
        yield first, x, codes
        beat((first + len(x)) / rows.number)
    if nan.any():
        raise HoldsNaN(
            f"Site {source.name!r} holds NaN at {nan.sum()} of its nodes {start} to {stop - 1}, the first at node "
            f"{start + nan.argmax()}"
        )


def whole_rows(source: Source, rows: Observations, beat: Beat) -> Iterator[tuple[torch.Tensor, Codes]]:
    """Whole rows with their codes, in batches whose size doesn't depend on how a site is stored."""
    left, begun = np.empty((0, source.nodes), source.dtype), 0
    for _, x, _ in without_nan(source, rows, 0, source.nodes, beat):
        left = np.concatenate([left, x])
        whole = len(left) - len(left) % BATCH
        for at in range(0, whole, BATCH):
            yield torch.from_numpy(left[at : at + BATCH]), rows.codes[begun + at : begun + at + BATCH]
            beat((begun + at + BATCH) / rows.number)
        left, begun = left[whole:], begun + whole
    if len(left):
        yield torch.from_numpy(left), rows.codes[begun:]


@dataclass(frozen=True)
class SiteSamples:
    """The observations of a site, as a sample metric reads them."""

    source: Source
    of: Observations
    target_of_rows: Array | None = None
    units_of_rows: Codes | None = None

    @property
    def target(self) -> Array:
        if self.target_of_rows is None:
            raise PluginError("it reads a target, but doesn't say so. Give the metric needs_target = True")
        found: Array = self.target_of_rows[self.of.numbers]
        return found

    @property
    def units(self) -> Codes:
        if self.units_of_rows is None:
            raise PluginError("it asks for units, but doesn't say so. Give the metric split_by = None")
        return self.units_of_rows[self.of.numbers]

    @property
    def number(self) -> int:
        return self.of.number

    @property
    def nodes(self) -> int:
        return self.source.nodes

    @property
    def classes(self) -> int:
        return self.of.labels.number

    @property
    def codes(self) -> Codes:
        return self.of.codes

    @property
    def rows(self) -> Codes:
        return self.of.numbers

    def _read(self, places: Codes | None = None) -> Iterator[tuple[int, Array, Codes]]:
        """The rows, all or around some places."""
        return without_nan(self.source, self.of, 0, self.nodes, reading(), places)

    def batches(self) -> Iterator[tuple[Array, Codes]]:
        for _, x, codes in self._read():
            yield x, codes

    def take(self, places: Codes) -> Array:
        taken = np.empty((len(places), self.nodes), self.source.dtype)
        done = 0
        for first, x, _ in self._read(places):
            until = int(np.searchsorted(places, first + len(x)))
            taken[done:until] = x[places[done:until] - first]
            done = until
        return taken
