"""What the metrics' tests share: running a streaming metric over batches, and an array as the samples of a site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
import xarray as xr

from probekit.metrics import Samples, Spec, State, StreamingMetric

Array = npt.NDArray[np.generic]


@pytest.fixture(scope="session")
def stream() -> Callable[..., State]:
    """The state of a streaming metric after the samples (x, y), cut into batches at `cuts`."""

    def run(metric: StreamingMetric, x: Array, y: Array, classes: int, cuts: tuple[int, ...] = ()) -> State:
        samples, codes = torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y, dtype=np.int64))
        state = metric.init(Spec(x.shape[1], classes, samples.dtype, samples.device))
        bounds = [0, *sorted(cuts), len(x)]
        for start, stop in pairwise(bounds):
            state = metric.update(state, samples[start:stop], codes[start:stop])
        return state

    return run


@dataclass(frozen=True)
class Rows:
    """The samples of an array, as a sample metric reads them: in batches of `batch`, which it must not change."""

    x: Array
    codes: npt.NDArray[np.int64]
    classes: int
    rows: npt.NDArray[np.int64]
    batch: int
    of_units: npt.NDArray[np.int64] | None = None
    of_rows: Array | None = None

    @property
    def target(self) -> Array:
        assert self.of_rows is not None
        return self.of_rows

    @property
    def units(self) -> npt.NDArray[np.int64]:
        return self.rows if self.of_units is None else self.of_units

    @property
    def number(self) -> int:
        return len(self.x)

    @property
    def nodes(self) -> int:
        return self.x.shape[1]

    def batches(self) -> Iterator[tuple[Array, npt.NDArray[np.int64]]]:
        for start in range(0, len(self.x), self.batch):
            yield self.x[start : start + self.batch], self.codes[start : start + self.batch]

    def take(self, places: npt.NDArray[np.int64]) -> Array:
        assert (np.diff(places) > 0).all()
        return self.x[places]


@pytest.fixture(scope="session")
def samples_of() -> Callable[..., Samples]:
    """The samples (x, y) of a site, all rows of its store unless `rows` says which, each a unit unless `units` says."""

    def make(
        x: Array, y: Array, classes: int, rows: Array | None = None, batch: int = 100, units: Array | None = None
    ) -> Samples:
        numbers = np.arange(len(x)) if rows is None else np.array(rows, dtype=np.int64)
        values, codes = np.array(x), np.array(y, dtype=np.int64)
        for array in (values, codes, numbers):
            array.setflags(write=False)
        return Rows(values, codes, classes, numbers, batch, None if units is None else np.array(units, np.int64))

    return make


@pytest.fixture(scope="session")
def tree_of() -> Callable[..., xr.DataTree]:
    """A store in memory with the given sites, {name: x (sample, node)}, and labels."""

    def make(sites: dict[str, Array], y: Array) -> xr.DataTree:
        root = xr.Dataset(coords={"label": ("sample", y)})
        groups = {name: xr.Dataset({"activation": (("sample", "node"), x)}) for name, x in sites.items()}
        return xr.DataTree.from_dict({"/": root, **groups})

    return make


@pytest.fixture(scope="session")
def nearest_mean_share() -> Callable[[Array, Array], float]:
    """The share of rows nearest to the mean of their class without the row, written out row by row."""

    def share(x: Array, y: Array) -> float:
        x, codes, hits = x.astype(np.float64), np.unique(y), 0.0
        within = sum(np.square(x[y == c] - x[y == c].mean(0)).sum() for c in codes) / (len(x) - len(codes))
        for i, code in enumerate(y):
            others = np.arange(len(x)) != i
            distances = []
            for c in codes:
                rows = x[(y == c) & others]
                alone = not len(rows)
                distances.append(np.inf if alone else np.square(x[i] - rows.mean(0)).sum() - within / len(rows))
            near = np.isclose(distances, min(distances), rtol=1e-12, atol=1e-12)
            hits += near[codes == code][0] / near.sum()
        return hits / len(x)

    return share
